"""`probpose evaluate`: run the deployed pipeline on a COCO-format set, measure everything the paper measures.

predict -> COCO results; measure -> metrics and curves; report.py makes the page of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from probpose_ros.calibration import CalibrationError
from probpose_ros.config import PipelineConfig
from probpose_ros.oks import oks, oks_variance
from probpose_ros.pipeline import Pipeline
from probpose_ros.skeleton import KEYPOINT_NAMES
from probpose_ros.types import Detections, FrameResult, Person
from probpose_ros.untrusted import parse_json, read_bytes
from probpose_training.coco import MAX_BYTES, CocoError, CocoKeypoints, read_image
from probpose_training.crop_augmentation import OCCLUDED, OUTSIDE_IMAGE, UNLABELLED, VISIBLE
from probpose_training.metrics import binary, exmap
from probpose_training.metrics.bootstrap import DRAWS, bootstrap
from probpose_training.metrics.coco_ap import coco_ap
from probpose_training.metrics.exoks import ex_oks, min_padding, relabel, window_of

IMAGE_UNREADABLE = "image cannot be read"
MATCH_IOU = 0.5  # least overlap of the boxes for a prediction to be the annotated person's


class GivenBoxes:
    """Takes the detector's place in the pipeline: the boxes that were set for the next image."""

    def __init__(self, boxes: dict[int, Detections]) -> None:
        self.boxes, self.image_id = boxes, -1

    def show(self, image_id: int, boxes: np.ndarray) -> None:
        """The next image is this one, with these boxes (N, 4) xyxy of score 1."""
        self.image_id = image_id
        self.boxes = {image_id: Detections(boxes.astype(np.float32), np.ones(len(boxes), np.float32))}

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        return [self.boxes.get(self.image_id, none)]


def true_boxes(dataset: CocoKeypoints) -> dict[int, Detections]:
    """The annotated boxes by image id, score 1."""
    return {
        int(image_id): Detections(boxes.astype(np.float32), np.ones(len(boxes), np.float32))
        for image_id in np.unique(dataset.image_ids)
        if len(boxes := dataset.bboxes[dataset.image_ids == image_id])
    }


def read_boxes(path: str | Path, image_ids: Collection[int]) -> dict[int, Detections]:
    """Boxes from a file of COCO detection results: a list of {image_id, bbox (xywh), score}, for these images."""
    error = CocoError(
        f"{path}: must be a list of objects with image_id, bbox (4 numbers, width and height > 0) and score"
    )
    try:
        rows = parse_json(read_bytes(path, MAX_BYTES))
        if not isinstance(rows, list):
            raise error
        found: dict[int, list[list[float]]] = defaultdict(list)
        for row in rows:
            x, y, w, h = (float(v) for v in row["bbox"])
            if not (w > 0 and h > 0 and np.isfinite([x, y, w, h, row["score"]]).all()):
                raise error
            found[row["image_id"]].append([x, y, x + w, y + h, row["score"]])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise error from None
    boxes = {}
    for image_id, values in found.items():
        if image_id not in image_ids:
            raise CocoError(f"{path}: image_id {image_id!r} is not among the images of the annotations")
        array = np.array(sorted(values, key=lambda box: -box[4]), np.float32)
        boxes[image_id] = Detections(array[:, :4], array[:, 4])
    return boxes


@dataclass(frozen=True)
class Predictions:
    """results: COCO keypoint results. frames: by image id. skipped: annotated persons in unreadable images, by reason.
    unknown: keypoints whose numbers were unusable; they are written as (0, 0) with presence 0.
    calibration: sha256 of its file, empty without one.
    """

    results: list[dict]
    frames: dict[int, FrameResult]
    skipped: Counter[str]
    unknown: int
    calibration: str = ""


def predict(
    dataset: CocoKeypoints, images: str | Path, config: PipelineConfig, boxes: dict[int, Detections] | None
) -> Predictions:
    """Run the pipeline on every image of the set; ``boxes`` None: its own detector.

    A calibration that does not fit is refused here: the pipeline would run on, and nothing would be valid.
    """
    given = GivenBoxes(boxes) if boxes is not None else None
    pipeline = Pipeline(config, given)
    if pipeline.calibration_error:
        raise CalibrationError(pipeline.calibration_error)
    results: list[dict] = []
    frames: dict[int, FrameResult] = {}
    skipped: Counter[str] = Counter()
    unknown = 0
    for entry in tqdm(dataset.images.values(), unit="image", desc="evaluate"):
        try:
            image = read_image(images, entry)
        except CocoError as error:
            tqdm.write(f"skipped: {error}")
            skipped[IMAGE_UNREADABLE] += int((dataset.image_ids == entry.id).sum())
            continue
        if given:
            given.image_id = entry.id
        frames[entry.id] = frame = pipeline(image)
        results += [to_result(person, entry.id) for person in frame.people]
        unknown += sum(int((~np.isfinite(person.keypoints).all(axis=-1)).sum()) for person in frame.people)
    if not frames:
        raise CocoError(f"{images}: none of the {len(dataset.images)} images can be read")
    calibration = pipeline.calibration.sha256 if pipeline.calibration else ""
    return Predictions(results, frames, skipped, unknown, calibration)


def to_result(person: Person, image_id: int) -> dict:
    """One entry of results.json."""
    known = np.isfinite(person.keypoints).all(axis=-1) & np.isfinite(person.presence)
    values = np.column_stack([person.keypoints, person.presence]).astype(float)
    x0, y0, x1, y1 = person.bbox.astype(float)
    return {
        "image_id": image_id,
        "category_id": 1,
        "score": float(person.score),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "keypoints": np.where(known[:, None], values, 0.0).ravel().tolist(),
        "visibility": person.visibility.astype(float).tolist(),
        "quality": person.quality.astype(float).tolist(),
        "regions": _regions(person),
    }


def _regions(person: Person) -> list[list[dict]]:
    regions = person.regions
    if regions is None:
        return [[] for _ in KEYPOINT_NAMES]
    names = ("x", "y", "semi_major", "semi_minor", "theta")
    return [
        [
            {
                "level": float(level),
                "kind": int(regions.kind),
                "valid": bool(regions.valid[k, j]),
                **dict(zip(names, regions.ellipses[k, j].astype(float).tolist(), strict=True)),
                "area": float(regions.areas[k, j]),
            }
            for j, level in enumerate(regions.levels)
        ]
        for k in range(len(KEYPOINT_NAMES))
    ]


@dataclass(frozen=True)
class Pairs:
    """Annotated persons that a prediction was found for; P persons, K joints, image px.

    person, result: indices into the dataset and the results. image: index of the image. visibility: after relabelling,
    3 means outside the activation window. oks: of the joint's place. ex_oks: with the paper's window distance.
    """

    person: np.ndarray
    result: np.ndarray
    image: np.ndarray
    visibility: np.ndarray
    points: np.ndarray
    presence: np.ndarray
    visible: np.ndarray
    quality: np.ndarray
    oks: np.ndarray
    ex_oks: np.ndarray

    @property
    def labelled(self) -> np.ndarray:
        return self.visibility > UNLABELLED

    @property
    def inside(self) -> np.ndarray:
        """Labelled and in the activation window."""
        return self.labelled & (self.visibility != OUTSIDE_IMAGE)


def pair(dataset: CocoKeypoints, image_ids: Sequence[int], results: list[dict], threshold: float = 0.5) -> Pairs:
    """Which prediction belongs to which annotated person: the assignment of most box overlap, at least MATCH_IOU each.

    threshold: presence from which a keypoint counts as predicted, for ex_oks.
    """
    by_image: dict[int, list[int]] = defaultdict(list)
    for index, result in enumerate(results):
        by_image[result["image_id"]].append(index)
    rows = []
    for number, image_id in enumerate(image_ids):
        persons = np.flatnonzero(dataset.image_ids == image_id)
        found = by_image[image_id]
        if not len(persons) or not found:
            continue
        boxes = np.array([results[i]["bbox"] for i in found])
        boxes[:, 2:] += boxes[:, :2]
        rows += [(persons[p], found[r], number) for p, r in match_boxes(dataset.bboxes[persons], boxes)]
    person, index, image = np.array(rows, dtype=int).reshape(-1, 3).T
    k = len(KEYPOINT_NAMES)
    values = np.array([results[i]["keypoints"] for i in index]).reshape(-1, k, 3)
    pads = pad_to_contain(dataset)[person]
    visibility = relabel(dataset.visibility[person], pads)
    truth = dataset.keypoints[person]
    plain = oks(((values[..., :2] - truth) ** 2).sum(-1), oks_variance(dataset.areas[person] + np.spacing(1)))
    extended = np.ones_like(plain)
    for row, p in enumerate(person):
        extended[row] = ex_oks(
            truth[row], visibility[row], values[row, :, :2], values[row, :, 2] >= threshold,
            window_of(_xywh(dataset.bboxes[p])), dataset.areas[p],
        )  # fmt: skip
    return Pairs(
        person, index, image, visibility, values[..., :2], values[..., 2],
        np.array([results[i]["visibility"] for i in index], dtype=float).reshape(-1, k),
        np.array([results[i]["quality"] for i in index], dtype=float).reshape(-1, k),
        plain, extended,
    )  # fmt: skip


def match_boxes(annotated: np.ndarray, found: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (annotated, found) of the assignment of most overlap, at least MATCH_IOU each; boxes (N, 4) xyxy."""
    overlap = box_iou(annotated, found)
    return [(p, r) for p, r in zip(*linear_sum_assignment(-overlap), strict=True) if overlap[p, r] >= MATCH_IOU]


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union of boxes (N, 4) and (M, 4), xyxy."""
    size = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.clip(size, 0, None).prod(axis=-1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(axis=-1), (b[:, 2:] - b[:, :2]).prod(axis=-1)
    return shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-9)


def pad_to_contain(dataset: CocoKeypoints) -> np.ndarray:
    """(P, K) as the file gives it, computed where it does not."""
    computed = min_padding(_xywh(dataset.bboxes), dataset.keypoints, dataset.visibility)
    return np.where(np.isnan(dataset.pad_to_contain), computed, dataset.pad_to_contain)


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


@dataclass(frozen=True)
class Measurement:
    """metrics: what metrics.json holds. The rest is for the report's plots and pictures."""

    metrics: dict
    pairs: Pairs
    curves: dict[str, np.ndarray]
    reliabilities: dict[str, binary.Reliability]


def measure(dataset: CocoKeypoints, image_ids: Sequence[int], results: list[dict], draws: int = DRAWS) -> Measurement:
    """All metrics over the images ``image_ids``."""
    image_ids = sorted(image_ids)
    truth = _truth(dataset, image_ids)
    sources = {image["id"]: image.get("source", image["file_name"]) for image in truth["images"]}
    groups = [sources[i] for i in image_ids]
    pairs = pair(dataset, image_ids, results)
    labels, presence = pairs.inside[pairs.labelled], pairs.presence[pairs.labelled]

    published = binary.search_threshold(labels, presence)
    pairs = pair(dataset, image_ids, results, published)
    folds = _folds(groups)
    crossed = np.array([_threshold_without(pairs, folds, fold) for fold in (0, 1)])
    of_image = {image_id: crossed[fold] for image_id, fold in zip(image_ids, folds, strict=True)}

    plain = exmap.evaluate(truth, results, exmap.COCO)
    extended = exmap.evaluate(truth, results, replace(exmap.PAPER, threshold=published))
    tool = exmap.evaluate(truth, results, replace(exmap.EXOCOCOTOOLS, threshold=published, levels_are_prefix=False))
    split = exmap.evaluate(truth, [_decided(result, of_image[result["image_id"]]) for result in results], exmap.PAPER)

    def table(evaluation: exmap.Evaluation, stats: dict[str, float] | None = None) -> dict:
        intervals = bootstrap(evaluation.stats_of, groups, draws)
        return {name: _figure(value, intervals.get(name)) for name, value in (stats or evaluation.stats).items()}

    reliabilities = _reliabilities(pairs)
    metrics = {
        "images": len(image_ids),
        "persons": int(np.isin(dataset.image_ids, image_ids).sum()),
        "persons_matched": len(pairs.person),
        "predictions": len(results),
        "coco": table(plain, coco_ap(truth, results)),
        "extended": {
            "paper": {"threshold": published, "threshold_from": "this set's labels", **table(extended)},
            "exococotools": {"threshold": published, "threshold_from": "this set's labels", **table(tool)},
            "paper_split": {
                "threshold": crossed.tolist(),
                "threshold_from": "for each half of the photographs, the labels of the other half",
                **table(split),
            },
        },
        "presence": _presence(pairs, groups, draws, folds, crossed),
        "visibility": _visibility(pairs, reliabilities["visibility"]),
        "quality": _quality(pairs, reliabilities["quality"]),
        "joints": _joints(pairs, published),
    }
    curves = {
        "accuracy": binary.accuracy_curve(labels, presence),
        "balanced accuracy": binary.accuracy_curve(labels, presence, balanced=True),
        "precision OKS": plain.pools[0, "all"].precision_recall()[0],
        "precision Ex-OKS": extended.pools[0, "all"].precision_recall()[0],
    }
    return Measurement(metrics, pairs, curves, reliabilities)


def _truth(dataset: CocoKeypoints, image_ids: Sequence[int]) -> dict:
    """COCO content with pad_to_contain for every usable person."""
    truth = dataset.for_evaluation(set(image_ids))
    pads = dict(zip(dataset.ids.tolist(), pad_to_contain(dataset).tolist(), strict=True))
    for annotation in truth["annotations"]:
        if annotation["id"] in pads:
            annotation["pad_to_contain"] = pads[annotation["id"]]
    return truth


def _folds(groups: Sequence[object]) -> np.ndarray:
    """0 or 1 for each image; a photograph's images stay together."""
    names = sorted(set(groups), key=str)
    order = np.random.default_rng(0).permutation(len(names))
    fold = {names[index]: place % 2 for place, index in enumerate(order)}
    return np.array([fold[group] for group in groups])


def _threshold_without(pairs: Pairs, folds: np.ndarray, fold: int) -> float:
    """The presence threshold that the images outside a fold would choose."""
    rows = folds[pairs.image] != fold
    labelled = pairs.labelled[rows]
    return binary.search_threshold(pairs.inside[rows][labelled], pairs.presence[rows][labelled])


def _decided(result: dict, threshold: float) -> dict:
    """A result with presence 0 or 1."""
    keypoints = list(result["keypoints"])
    keypoints[2::3] = [float(p >= threshold) for p in keypoints[2::3]]
    return {**result, "keypoints": keypoints}


def _presence(pairs: Pairs, groups: Sequence[object], draws: int, folds: np.ndarray, crossed: np.ndarray) -> dict:
    """Is the keypoint in the activation window? Over all labelled keypoints of matched persons."""
    image = np.broadcast_to(pairs.image[:, None], pairs.labelled.shape)[pairs.labelled]
    labels, presence = pairs.inside[pairs.labelled], pairs.presence[pairs.labelled]
    decided = presence >= crossed[folds[image]] if len(image) else np.zeros(0, bool)
    members = [np.flatnonzero(image == number) for number in range(len(groups))]

    def statistic(images: np.ndarray) -> dict[str, float]:
        rows = np.concatenate([members[i] for i in images]).astype(int)
        y, p = labels[rows], presence[rows]
        return {
            "accuracy": binary.accuracy_curve(y, p).max(),
            "accuracy_split": (decided[rows] == y).mean() if len(y) else np.nan,
            "balanced_accuracy": binary.accuracy_curve(y, p, balanced=True).max(),
            "auroc": binary.auroc(y, p),
            "brier": binary.brier(y, p),
            "ece": binary.reliability(y, p).error,
        }

    values, intervals = statistic(np.arange(len(groups))), bootstrap(statistic, groups, draws)
    figures = {name: _figure(value, intervals.get(name)) for name, value in values.items()}
    return {
        "in": int(labels.sum()),
        "out": int((~labels).sum()),
        "threshold": binary.search_threshold(labels, presence),
        "threshold_balanced": binary.search_threshold(labels, presence, balanced=True),
        **figures,
        "ece_of_perfect_calibration": binary.chance_error(presence),
    }


def _visible_rows(pairs: Pairs) -> np.ndarray:
    return np.isin(pairs.visibility, (OCCLUDED, VISIBLE)) & np.isfinite(pairs.visible)


def _reliabilities(pairs: Pairs) -> dict[str, binary.Reliability]:
    seen, inside = _visible_rows(pairs), pairs.inside & np.isfinite(pairs.quality)
    return {
        "presence": binary.reliability(pairs.inside[pairs.labelled], pairs.presence[pairs.labelled]),
        "visibility": binary.reliability(pairs.visibility[seen] == VISIBLE, pairs.visible[seen]),
        "quality": binary.reliability(pairs.oks[inside], pairs.quality[inside]),
    }


def _visibility(pairs: Pairs, curve: binary.Reliability) -> dict:
    """Is the keypoint visible? Over labelled keypoints in the window."""
    rows = _visible_rows(pairs)
    labels, predicted = pairs.visibility[rows] == VISIBLE, pairs.visible[rows]
    return {
        "visible": int(labels.sum()),
        "occluded": int((~labels).sum()),
        "auroc": binary.auroc(labels, predicted),
        "brier": binary.brier(labels, predicted),
        "ece": curve.error,
    }


def _quality(pairs: Pairs, curve: binary.Reliability) -> dict:
    """Does the predicted quality tell the true OKS? Over labelled keypoints in the window."""
    from scipy.stats import spearmanr

    rows = pairs.inside & np.isfinite(pairs.quality)
    true, predicted = pairs.oks[rows], pairs.quality[rows]
    varied = len(true) > 1 and np.ptp(true) > 0 and np.ptp(predicted) > 0
    return {
        "keypoints": len(true),
        "mean_oks": float(true.mean()) if len(true) else float("nan"),
        "mean_quality": float(predicted.mean()) if len(true) else float("nan"),
        "mean_absolute_error": float(np.abs(true - predicted).mean()) if len(true) else float("nan"),
        "rank_correlation": float(spearmanr(true, predicted)[0]) if varied else float("nan"),
        "calibration_error": curve.error,
    }


def _joints(pairs: Pairs, threshold: float) -> list[dict]:
    """One row a joint, over matched persons."""

    def mean(values: np.ndarray) -> float:
        return float(values.mean()) if len(values) else float("nan")

    rows = []
    for k, name in enumerate(KEYPOINT_NAMES):
        labelled, inside = pairs.labelled[:, k], pairs.inside[:, k]
        right = (pairs.presence[:, k] >= threshold) == inside
        rows.append(
            {
                "joint": name,
                "in": int(inside.sum()),
                "out": int((labelled & ~inside).sum()),
                "oks": mean(pairs.oks[inside, k]),
                "oks_above_half": mean(pairs.oks[inside, k] > 0.5),
                "ex_oks": mean(pairs.ex_oks[labelled, k]),
                "quality": mean(pairs.quality[inside, k]),
                "presence_accuracy": mean(right[labelled]),
            }
        )
    return rows


def _figure(value: float, interval: tuple[float, float] | None) -> dict[str, float | list[float]]:
    return {"value": float(value), "ci95": list(interval or (float("nan"), float("nan")))}
