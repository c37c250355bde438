"""Box arithmetic on NumPy arrays; boxes are x_min, y_min, x_max, y_max."""

from __future__ import annotations

import numpy as np


def box_area(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) -> (N,), px^2; 0 for an empty box."""
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1)


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 4), (M, 4) -> (N, M), px^2."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return (high - low).clip(0).prod(axis=-1)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 4), (M, 4) -> (N, M) in [0, 1]."""
    common = intersection(a, b)
    return common / np.maximum(box_area(a)[:, None] + box_area(b)[None] - common, 1e-9)


def drop_contained(boxes: np.ndarray, scores: np.ndarray, share: float = 0.85) -> np.ndarray:
    """Mask (N,) of the boxes to keep: a box mostly inside a larger, better one is a part of the same person."""
    inside = intersection(boxes, boxes) / np.maximum(box_area(boxes)[:, None], 1e-9)  # share of i inside j
    larger = box_area(boxes)[None] > box_area(boxes)[:, None]
    better = scores[None] > scores[:, None]
    return ~((inside > share) & larger & better).any(axis=1)
