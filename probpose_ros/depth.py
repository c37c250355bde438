"""Depth images: how near and how far the surfaces are that a polygon in the image shows. Knows no ROS."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SAMPLES = 40  # a polygon is looked at in at most this many rows and columns
# Fewer samples than this that are nearer than all others are taken for noise.
SPECKLE = 3
# A polygon with a larger share of pixels without a measurement says nothing: what is too near is not measured either.
MOST_HOLES = 0.5


@dataclass(frozen=True)
class DepthImage:
    """Depth along the optical axis, aligned to an image of the same size or of an integer multiple or part of it.

    values: (h, w), uint16 in mm (0 and 65535: not measured) or float32 in m (0, NaN, inf: not measured; -inf: too near
    to be measured, as REP 117 says). stamp: s. per_pixel: depth px per image px.
    """

    values: np.ndarray
    stamp: float
    per_pixel: float = 1.0

    @classmethod
    def aligned(cls, values: np.ndarray, stamp: float, width: int, height: int) -> DepthImage:
        """For an image of width x height px. ValueError where the sizes do not fit."""
        h, w = values.shape
        per_pixel = w / width
        whole = per_pixel if per_pixel >= 1 else 1 / per_pixel
        if w * height != h * width or abs(whole - round(whole)) > 1e-9:
            raise ValueError(
                f"the depth image has {w} x {h} px, the image {width} x {height}: must be equal or whole multiples"
            )
        return cls(values, stamp, per_pixel)

    def interval(self, polygon: np.ndarray) -> tuple[float, float] | None:
        """Nearest and farthest surface in a convex polygon (V, 2) of image px, in m.

        None where too little of it is measured to say, or none of it lies in the image.
        """
        h, w = self.values.shape
        # Pixel centres lie at integers in both images: their corners at -0.5 meet.
        corners = (polygon + 0.5) * self.per_pixel - 0.5
        low = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
        high = np.minimum(np.ceil(corners.max(axis=0)) + 1, (w, h)).astype(int)
        if (low >= high).any():
            return None
        step = max(1, int(np.ceil((high - low).max() / SAMPLES)))
        patch = self.values[low[1] : high[1] : step, low[0] : high[0] : step]
        mask = np.zeros(patch.shape, np.uint8)
        cv2.fillConvexPoly(mask, np.round((corners - low) / step * 16).astype(np.int32), 1, cv2.LINE_8, 4)
        metres = self._metres(patch[mask > 0])
        measured = metres[metres > -1]
        if len(measured) <= SPECKLE or len(measured) < (1 - MOST_HOLES) * len(metres):
            return None
        ranked = np.partition(measured, (SPECKLE, len(measured) - 1 - SPECKLE))
        return float(ranked[SPECKLE]), float(ranked[-1 - SPECKLE])

    def _metres(self, values: np.ndarray) -> np.ndarray:
        """float32 m, -1 where not measured."""
        if values.dtype == np.uint16:
            return np.where((values == 0) | (values == 65535), np.float32(-1), values * np.float32(1e-3))
        measured = (values > 0) & (values < np.inf)
        return np.where(measured, values, np.where(values == -np.inf, np.float32(0), np.float32(-1)))
