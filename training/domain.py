"""The domain of a keypoint set (paper, appendix A, Tab. 3): where annotated keypoints lie."""

from __future__ import annotations

import numpy as np

from probpose_ros.geometry import PADDING, bbox_to_window
from probpose_training.coco import CocoKeypoints
from probpose_training.crop_augmentation import UNLABELLED
from probpose_training.metrics.exoks import ASPECT

AREAS = {
    "A": "in the bbox",
    "B": "in window and image, not in the bbox",
    "C": "in the window, not in the image",
    "D": "in the image, not in the window",
    "E": "in neither",
}

# Percentages of the paper's Tab. 3.
PAPER_DOMAINS = {
    "COCO train": (96.2, 3.5, 0.0, 0.2, 0.0),
    "COCO val": (95.8, 3.9, 0.0, 0.2, 0.0),
    "CropCOCO val": (68.8, 2.2, 23.5, 0.1, 5.3),
    "OCHuman": (99.2, 0.8, 0.0, 0.0, 0.0),
}


def keypoint_areas(dataset: CocoKeypoints, padding: float = PADDING) -> np.ndarray:
    """(P, K) letters of AREAS, empty where nothing is labelled."""
    sizes = np.array([[dataset.images[i].width, dataset.images[i].height] for i in dataset.image_ids]).reshape(-1, 1, 2)
    center, window = bbox_to_window(dataset.bboxes, ASPECT, padding)
    center, half = center[:, None], window[:, None] / 2
    points = dataset.keypoints
    # Closed borders: COCO's boxes and images end where their last keypoints may lie.
    in_bbox = ((points >= dataset.bboxes[:, None, :2]) & (points <= dataset.bboxes[:, None, 2:])).all(axis=-1)
    in_window = (np.abs(points - center) <= half).all(axis=-1)
    in_image = ((points >= 0) & (points <= sizes)).all(axis=-1)
    letters = np.select(
        [in_bbox & in_image, in_window & in_image, in_window, in_image], ["A", "B", "C", "D"], default="E"
    )
    return np.where(dataset.visibility > UNLABELLED, letters, "")


def domain(dataset: CocoKeypoints, padding: float = PADDING) -> dict[str, float]:
    """Percentage of the annotated keypoints in each of AREAS; NaN without keypoints."""
    letters = keypoint_areas(dataset, padding)
    total = (letters != "").sum()
    return {area: 100.0 * float((letters == area).sum()) / total if total else float("nan") for area in AREAS}


def domain_table(name: str, shares: dict[str, float]) -> str:
    """Plain text: the set's row above the paper's."""
    rows = {name: tuple(shares.values()), **{f"{paper} (paper)": row for paper, row in PAPER_DOMAINS.items()}}
    width = max(len(row) for row in rows)
    lines = [" " * width + "".join(f"{area:>8}" for area in AREAS)]
    lines += [f"{row:<{width}}" + "".join(f"{value:8.1f}" for value in values) for row, values in rows.items()]
    return "\n".join(lines)
