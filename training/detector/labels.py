"""Boxes of the training sets: persons to find, and regions in which nobody knows. Annotations win over the teacher."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .boxes import box_area, box_iou, drop_contained, intersection


@dataclass(frozen=True)
class SourceConfig:
    """One folder of images.

    images: folder. annotations: COCO file, optional. teacher: boxes of detector/teacher.py, optional.
    A set with neither has no people in it (background).
    """

    images: str
    annotations: str = ""
    teacher: str = ""


@dataclass(frozen=True)
class LabelledImage:
    """persons, ignore: (N, 4) float32 xyxy, image px."""

    path: Path
    persons: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    ignore: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))


def read_source(root: Path, source: SourceConfig, person_score: float, ignore_score: float) -> list[LabelledImage]:
    """The images of a source with their boxes.

    Args:
        root: relative paths start here.
        person_score: a teacher's box from this score on is a person; from ``ignore_score`` on it is ignored.
    """
    folder = root / source.images
    teacher = json.loads((root / source.teacher).read_text()) if source.teacher else {}
    if not source.annotations:
        names = sorted(teacher) or sorted(path.name for path in folder.iterdir())
        annotated: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    else:
        coco = json.loads((root / source.annotations).read_text())
        name_of = {image["id"]: image["file_name"] for image in coco["images"]}
        annotated = {name: [] for name in name_of.values()}
        for annotation in coco["annotations"]:
            annotated[name_of[annotation["image_id"]]].append(annotation)
    return [
        LabelledImage(folder / name, *combine(annotations, teacher.get(name, []), person_score, ignore_score))
        for name, annotations in annotated.items()
    ]


def combine(
    annotations: list[dict[str, Any]], teacher: list[list[float]], person_score: float, ignore_score: float
) -> tuple[np.ndarray, np.ndarray]:
    """Annotations and teacher's boxes (x1, y1, x2, y2, score) of one image -> persons (P, 4), ignored regions (Q, 4).

    An annotated box stays; where it was only drawn around the keypoints (``bbox_from_keypoints``), the teacher's box
    of the same person takes its place, or it grows by a margin for head, hands and feet.
    """
    persons: list[np.ndarray] = []
    ignore: list[np.ndarray] = []
    found = np.array(teacher, np.float32).reshape(-1, 5)
    free = np.ones(len(found), bool)
    for annotation in annotations:
        x, y, w, h = annotation["bbox"]
        box = np.array([x, y, x + w, y + h], np.float32)
        iou = box_iou(box[None], found[:, :4])[0]
        if annotation.get("bbox_from_keypoints"):
            box += np.array([-0.1 * w, -0.08 * h, 0.1 * w, 0.08 * h], np.float32)
            better = np.where((iou > 0.4) & (found[:, 4] > ignore_score), found[:, 4], 0)
            if better.any():
                box = found[better.argmax(), :4]
        (ignore if annotation.get("iscrowd") else persons).append(box)
        free &= iou < 0.4
    rest = found[free]
    rest = rest[drop_contained(rest[:, :4], rest[:, 4])] if len(rest) else rest
    sure = rest[:, 4] >= person_score
    people = np.array([*persons, *rest[sure, :4]], np.float32).reshape(-1, 4)
    doubtful = rest[~sure & (rest[:, 4] >= ignore_score), :4]
    # A doubtful box mostly inside a person is a second look at that person, not somebody else.
    part = intersection(doubtful, people) > 0.6 * box_area(doubtful)[:, None]
    doubtful = doubtful[~part.any(axis=1)]
    return people, np.array([*ignore, *doubtful], np.float32).reshape(-1, 4)
