"""Image <-> crop: the UDP affine of the activation window, its exact inverse, and the warp.

Convention (unbiased data processing, UDP; mmpose's "TopdownAffine" with use_udp): the window's corners map onto the
centres of the crop's corner pixels, so a window of size (sw, sh) meets a crop of (width, height) pixels with the
factors (width-1)/sw and (height-1)/sh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

PADDING = 1.25


def bbox_to_window(bbox: np.ndarray, aspect: float, padding: float = PADDING) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size of the activation window of a bbox.

    Args:
        bbox: (..., 4) x_min, y_min, x_max, y_max, image px.
        aspect: width / height of the network's input.
        padding: factor by which the bbox grows before its shorter side is extended to ``aspect``.

    Returns:
        center (..., 2) and size (..., 2), image px.

    >>> center, size = bbox_to_window(np.array([0.0, 0.0, 40.0, 80.0]), 0.75)
    >>> center.tolist(), size.tolist()
    ([20.0, 40.0], [75.0, 100.0])
    """
    bbox = np.asarray(bbox, dtype=np.float64)
    center = (bbox[..., :2] + bbox[..., 2:]) / 2
    width, height = np.moveaxis((bbox[..., 2:] - bbox[..., :2]) * padding, -1, 0)
    size = np.stack([np.maximum(width, height * aspect), np.maximum(height, width / aspect)], axis=-1)
    return center, size


@dataclass(frozen=True)
class CropTransform:
    """The map between the image and one crop.

    center: (2,) image px. window_size: (2,) width and height of the window, image px, > 0.
    crop_size: (width, height) of the crop in px. rotation: radians; the window is turned by this about its centre.
    """

    center: np.ndarray
    window_size: np.ndarray
    crop_size: tuple[int, int]
    rotation: float = 0.0

    def __post_init__(self) -> None:
        center = np.asarray(self.center, dtype=np.float64)
        window = np.asarray(self.window_size, dtype=np.float64)
        if center.shape != (2,) or not np.isfinite(center).all():
            raise ValueError(f"center must be two finite numbers, got {self.center!r}")
        if window.shape != (2,) or not np.isfinite(window).all() or not (window > 0).all():
            raise ValueError(f"window_size must be two numbers > 0, got {self.window_size!r}")
        if min(self.crop_size) < 2:
            raise ValueError(f"crop_size must be at least 2 x 2 px, got {self.crop_size!r}")
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "window_size", window)

    @classmethod
    def from_bbox(
        cls,
        bbox: np.ndarray,
        crop_size: tuple[int, int],
        padding: float = PADDING,
        rotation: float = 0.0,
    ) -> CropTransform:
        """The window of a bbox (4,) x_min, y_min, x_max, y_max in image px."""
        center, size = bbox_to_window(bbox, crop_size[0] / crop_size[1], padding)
        return cls(center, size, crop_size, rotation)

    @cached_property
    def matrix(self) -> np.ndarray:
        """(2, 3) float64, image px -> crop px."""
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        scale = (np.array(self.crop_size) - 1) / self.window_size
        linear = scale[:, None] * np.array([[c, -s], [s, c]])
        offset = scale * self.window_size / 2 - linear @ self.center
        return np.column_stack([linear, offset])

    @cached_property
    def inverse_matrix(self) -> np.ndarray:
        """(2, 3) float64, crop px -> image px."""
        linear = np.linalg.inv(self.matrix[:, :2])
        return np.column_stack([linear, -linear @ self.matrix[:, 2]])

    @property
    def window(self) -> np.ndarray:
        """(4,) float32 x_min, y_min, x_max, y_max of the unrotated window, image px. May leave the image."""
        half = self.window_size / 2
        return np.concatenate([self.center - half, self.center + half]).astype(np.float32)

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Image px (..., 2) -> crop px (..., 2), float64."""
        return _apply(self.matrix, points)

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Crop px (..., 2) -> image px (..., 2), float64."""
        return _apply(self.inverse_matrix, points)

    def warp(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The crop of a uint8 image (H, W, 3) as (height, width, 3); black outside the image."""
        if image.shape[:2] == (1, 1):
            image = np.pad(image, ((0, 1), (0, 0), (0, 0)))  # OpenCV 4.5 takes no array of a single pixel
        return cv2.warpAffine(image, self.matrix, self.crop_size, dst=out, flags=cv2.INTER_LINEAR)


def cut_crops(
    images: Sequence[np.ndarray], transforms: Sequence[Sequence[CropTransform]], crop_size: tuple[int, int]
) -> np.ndarray:
    """All crops of all images, in that order: (N, height, width, 3) uint8.

    Args:
        images: (H, W, 3) uint8 each. transforms: of each image its crops'. crop_size: (width, height) of every crop.
    """
    pairs = [(image, transform) for image, its in zip(images, transforms, strict=True) for transform in its]
    width, height = crop_size
    crops = np.empty((len(pairs), height, width, 3), np.uint8)
    for crop, (image, transform) in zip(crops, pairs, strict=True):
        transform.warp(image, out=crop)
    return crops


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def in_window(points: np.ndarray, crop_size: tuple[int, int]) -> np.ndarray:
    """Whether crop-px points (..., 2) lie in the activation window: ``0 <= x < width`` and ``0 <= y < height``."""
    points = np.asarray(points)
    return np.all((points >= 0) & (points < np.array(crop_size)), axis=-1)
