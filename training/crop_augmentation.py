"""The paper's crop augmentation (section 3.4): show only a rectangle of the image, keep the keypoints outside it.

A person cut by the image border still has the hidden keypoints. COCO has no such labels, so they are made: what lies
outside a random rectangle around the person turns black, the bbox shrinks with it, and the keypoints outside keep their
coordinates. Training blackens (the image keeps its size), `probpose crop-dataset` cuts the same rectangle out.
"""

from __future__ import annotations

import numpy as np

KEPT = (0.7, 0.9)  # side of the rectangle / side of the context box, drawn for x and y on their own
CONTEXT = 1.25  # side of the context box / side of the bbox

UNLABELLED, OCCLUDED, VISIBLE, OUTSIDE_IMAGE = 0, 1, 2, 3  # the third value of a COCO keypoint, and CropCOCO's v = 3


def crop_augment(
    image_shape: tuple[int, ...],
    bbox_xyxy: np.ndarray,
    rng: np.random.Generator,
    kept: tuple[float, float] = KEPT,
    context: float = CONTEXT,
) -> tuple[int, int, int, int]:
    """A random rectangle inside the bbox's surroundings.

    Args:
        image_shape: (height, width, ...).
        bbox_xyxy: (4,) x_min, y_min, x_max, y_max, image px.
        kept: lowest and highest share of the context box that is kept, per side, in (0, 1].
        context: factor by which the bbox grows, before it is clipped to the image.

    Returns:
        x0, y0, x1, y1, image px; the pixel columns x0 .. x1-1 and rows y0 .. y1-1 are kept.

    >>> crop_augment((100, 100), np.array([20, 20, 60, 80]), np.random.default_rng(0), kept=(1.0, 1.0))
    (15, 12, 65, 87)
    """
    if not 0 < kept[0] <= kept[1] <= 1:
        raise ValueError(f"kept must be two shares with 0 < low <= high <= 1, got {kept!r}")
    box = np.asarray(bbox_xyxy, dtype=np.float64)
    center, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * context
    image_size = np.array([image_shape[1], image_shape[0]])
    low = np.clip(center - half, 0, image_size).astype(int)
    high = np.clip(center + half, 0, image_size).astype(int)
    if not (high > low).all():
        raise ValueError(f"bbox {box.tolist()} has no pixel in an image of {image_size[0]} x {image_size[1]} px")
    size = np.maximum((rng.uniform(*kept, size=2) * (high - low)).astype(int), 1)
    corner = rng.integers(low, high - size, endpoint=True)
    x0, y0 = (int(v) for v in corner)
    x1, y1 = (int(v) for v in corner + size)
    return x0, y0, x1, y1


def outside(points: np.ndarray, rectangle: tuple[int, int, int, int]) -> np.ndarray:
    """Whether points (..., 2) in image px lie outside the kept pixels: not ``x0 <= x < x1 and y0 <= y < y1``."""
    x0, y0, x1, y1 = rectangle
    points = np.asarray(points)
    return np.logical_not(((points >= (x0, y0)) & (points < (x1, y1))).all(axis=-1))


def clip_bbox(bbox_xyxy: np.ndarray, rectangle: tuple[int, int, int, int]) -> np.ndarray:
    """The part of a bbox (..., 4) inside the rectangle; zero or negative sides where they do not meet."""
    x0, y0, x1, y1 = rectangle
    box = np.asarray(bbox_xyxy, dtype=np.float64)
    return np.concatenate([np.maximum(box[..., :2], (x0, y0)), np.minimum(box[..., 2:], (x1, y1))], axis=-1)


def apply_crop(
    image: np.ndarray,
    bbox_xyxy: np.ndarray,
    keypoints: np.ndarray,
    visibility: np.ndarray,
    rectangle: tuple[int, int, int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image with everything outside the rectangle black, and the person's labels to match. Inputs stay as they are.

    Args:
        image: (H, W, 3) uint8. bbox_xyxy: (4,). keypoints: (K, 2), image px. visibility: (K,), 0 .. 3.

    Returns:
        image; bbox cut by the rectangle; visibility: labelled keypoints outside become v = 3, which is annotated and
        not visible. The keypoints themselves do not change.
    """
    x0, y0, x1, y1 = rectangle
    shown = np.zeros_like(image)
    shown[y0:y1, x0:x1] = image[y0:y1, x0:x1]
    hidden = outside(keypoints, rectangle) & (np.asarray(visibility) > UNLABELLED)
    return shown, clip_bbox(bbox_xyxy, rectangle), np.where(hidden, OUTSIDE_IMAGE, visibility)
