"""How good a detector is: average precision by pycocotools, and recall at a number of false positives.

COCO's keypoint annotations do not hold every person, so a false positive here is "not annotated"; that is the same for
every detector compared on the same images.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .boxes import box_iou
from .data import read_image


@dataclass(frozen=True)
class Ranked:
    """All detections of a set of images, best first: true: (D,) bool, the box met a person; people, images: counts."""

    scores: np.ndarray
    true: np.ndarray
    people: int
    images: int

    def recall_at(self, false_positives: int) -> float:
        """Recall of the longest best-first prefix with at most this many false positives."""
        within = np.cumsum(~self.true) <= false_positives
        return float(self.true[within].sum() / self.people)

    def at_score(self, score: float) -> tuple[float, int]:
        """Recall and number of false positives from this score on."""
        kept = self.true[self.scores >= score]
        return float(kept.sum() / self.people), int((~kept).sum())


def rank(found: Sequence[np.ndarray], truth: Sequence[np.ndarray], iou: float = 0.5) -> Ranked:
    """Greedy matching per image, best score first, each person once.

    Args:
        found: per image (N, 5) xyxy, score. truth: per image (M, 4) xyxy.
    """
    scores, true = [], []
    for boxes, people in zip(found, truth, strict=True):
        boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")]
        overlap = box_iou(boxes[:, :4], people)
        free = np.ones(len(people), bool)
        for row, score in zip(overlap, boxes[:, 4], strict=True):
            row = np.where(free, row, 0)
            hit = bool(len(row) and row.max() >= iou)
            if hit:
                free[row.argmax()] = False
            scores.append(score)
            true.append(hit)
    order = np.argsort(-np.array(scores), kind="stable")
    return Ranked(np.array(scores)[order], np.array(true, bool)[order], sum(map(len, truth)), len(truth))


class CocoBoxes:
    """A COCO keypoint set used for its boxes."""

    def __init__(self, annotations: str, images: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(annotations)
        self.ids = sorted(self.coco.getImgIds())
        self.images = [read_image(Path(images) / self.coco.imgs[i]["file_name"]) for i in self.ids]
        people = [self.coco.loadAnns(self.coco.getAnnIds(i, iscrowd=False)) for i in self.ids]
        xywh = [np.array([a["bbox"] for a in some], np.float32).reshape(-1, 4) for some in people]
        self.truth = [np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1) for b in xywh]

    def average_precision(self, found: Sequence[np.ndarray]) -> dict[str, float]:
        """AP over IoU 0.5-0.95 and AP at 0.5 of detections (N, 5) per image."""
        results = [
            {"image_id": i, "category_id": 1, "bbox": [x, y, x2 - x, y2 - y], "score": score}
            for i, boxes in zip(self.ids, found, strict=True)
            for x, y, x2, y2, score in boxes.astype(float).tolist()
        ]
        if not results:
            return {"ap": 0.0, "ap50": 0.0}
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self.coco, self.coco.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return {"ap": float(evaluation.stats[0]), "ap50": float(evaluation.stats[1])}

    def measure(
        self, detect: Callable[[np.ndarray], np.ndarray], false_positives: int | None = None
    ) -> dict[str, float]:
        """Figures of a detector: image (H, W, 3) BGR -> (N, 5). ``false_positives``: of a peer to be compared with."""
        found = [detect(image) for image in self.images]
        ranked = rank(found, self.truth)
        values = self.average_precision(found)
        values["recall_05fp"] = ranked.recall_at(round(0.5 * len(self.ids)))
        values["recall_1fp"] = ranked.recall_at(len(self.ids))
        if false_positives is not None:
            values["recall_peer_fp"] = ranked.recall_at(false_positives)
        values["recall_04"], values["false_04"] = ranked.at_score(0.4)
        return values
