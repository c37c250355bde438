"""Extended OKS (paper section 4.1): OKS that also asks whether a keypoint lies in the activation window at all.

Everything here concerns one person; `exmap` makes average precision of it.
"""

from __future__ import annotations

import numpy as np

from probpose_ros.geometry import PADDING, bbox_to_window
from probpose_ros.oks import oks, oks_variance
from probpose_ros.skeleton import SIGMAS
from probpose_training.crop_augmentation import OCCLUDED, OUTSIDE_IMAGE, UNLABELLED

ASPECT = 0.75  # width / height of the window in the published protocol, whatever the network's input is

# How far is a keypoint from the window's border, when truth and prediction disagree on in or out?
#   paper          to the nearest edge, as the paper's text says (Eq. 5).
#   exococotools   to the nearest corner, by signed offsets: what the published numbers were computed with.
WINDOW_DISTANCES = ("paper", "exococotools")


def min_padding(bbox_xywh: np.ndarray, keypoints: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """The padding of the activation window that a keypoint needs to be inside (COCO key ``pad_to_contain``).

    Args:
        bbox_xywh: (..., 4) image px. keypoints: (..., K, 2) image px. visibility: (..., K).

    Returns:
        (..., K): 1 inside the aspect-fixed bbox, more outside, -1 where nothing is labelled.
    """
    bbox = np.asarray(bbox_xywh, dtype=np.float64)
    center, size = bbox_to_window(
        np.concatenate([bbox[..., :2], bbox[..., :2] + bbox[..., 2:]], -1), ASPECT, padding=1.0
    )
    # Beyond the border by e, the padding has to grow by 2 e / side, because the window grows on both sides.
    beyond = np.maximum(np.abs(np.asarray(keypoints) - center[..., None, :]) - size[..., None, :] / 2, 0)
    padding = 1 + (2 * beyond / size[..., None, :]).max(axis=-1)
    return np.where(np.asarray(visibility) > UNLABELLED, padding, -1.0)


def relabel(visibility: np.ndarray, pad_to_contain: np.ndarray | None, padding: float = PADDING) -> np.ndarray:
    """Visibility with v = 3 for exactly the keypoints outside the activation window.

    A keypoint outside the image can lie in the window (v = 3 becomes 1), and one in the image outside the window
    (becomes 3). Without ``pad_to_contain`` the visibility stands as it is.
    """
    visibility = np.asarray(visibility)
    if pad_to_contain is None:
        return visibility
    needed = np.asarray(pad_to_contain)
    inside = np.where(visibility == OUTSIDE_IMAGE, OCCLUDED, visibility)
    return np.where(visibility == UNLABELLED, UNLABELLED, np.where(needed > padding, OUTSIDE_IMAGE, inside))


def window_of(bbox_xywh: np.ndarray, padding: float = PADDING) -> np.ndarray:
    """(4,) x_min, y_min, x_max, y_max of the activation window of a person's bbox, image px; not cut by the image."""
    x, y, w, h = (float(v) for v in bbox_xywh)
    center, size = bbox_to_window(np.array([x, y, x + w, y + h]), ASPECT, padding)
    return np.concatenate([center - size / 2, center + size / 2])


def border_distance(points: np.ndarray, window: np.ndarray, kind: str = "paper") -> np.ndarray:
    """Squared distance (...) in px^2 of points (..., 2) to the border of a window (4,), by one of WINDOW_DISTANCES.

    >>> border_distance(np.array([[1.0, 50.0], [-3.0, -4.0]]), np.array([0, 0, 100, 100])).tolist()
    [1.0, 25.0]
    >>> border_distance(np.array([1.0, 50.0]), np.array([0, 0, 100, 100]), "exococotools").tolist()
    2501.0
    """
    if kind not in WINDOW_DISTANCES:
        raise ValueError(f"window distance must be one of {', '.join(WINDOW_DISTANCES)}, got {kind!r}")
    points = np.asarray(points, dtype=np.float64)
    inward = np.minimum(points - window[:2], window[2:] - points)  # negative: that far outside, on this axis
    if kind == "exococotools":
        return (inward**2).sum(axis=-1)
    outward = np.maximum(-inward, 0)
    nearest_edge = inward.min(axis=-1)
    return np.where(nearest_edge >= 0, nearest_edge**2, (outward**2).sum(axis=-1))


def ex_oks(
    true_points: np.ndarray,
    visibility: np.ndarray,
    points: np.ndarray,
    present: np.ndarray,
    window: np.ndarray,
    area: float,
    distance: str = "paper",
) -> np.ndarray:
    """Ex-OKS of every keypoint of one prediction with one person.

    Args:
        true_points: (K, 2) image px; may lie outside the image.
        visibility: (K,) after :func:`relabel`: 3 means outside the window.
        points: (..., K, 2) predictions, image px.
        present: (..., K) 1 or True for "in the window", 0 or False for "not"; a number strictly between takes no side,
            and then the plain distance counts.
        window: (4,) from :func:`window_of`. area: of the person, px^2. distance: one of WINDOW_DISTANCES.

    Returns:
        (..., K) in [0, 1]; without meaning where nothing is labelled.
    """
    points, present = np.asarray(points, dtype=np.float64), np.asarray(present, dtype=np.float64)
    is_out = np.asarray(visibility) == OUTSIDE_IMAGE
    squared = ((points - true_points) ** 2).sum(axis=-1)
    squared = np.where(is_out & (present == 1), border_distance(points, window, distance), squared)
    squared = np.where(~is_out & (present == 0), border_distance(true_points, window, distance), squared)
    squared = np.where(is_out & (present == 0), 0.0, squared)
    return oks(squared, oks_variance(area + np.spacing(1), SIGMAS))
