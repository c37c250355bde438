"""The camera's projection: image px -> rays. Knows no ROS.

A ray is (x/z, y/z) in the camera's optical frame: x right, y down, z forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from probpose_ros.support import polygons_around

# Iterations of OpenCV's undistortion; its own default of 5 leaves up to a pixel with wide lenses.
_CRITERIA = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 40, 1e-9)
_EDGE_STEPS = 4  # points on an edge that distortion may bend


@dataclass(frozen=True)
class Camera:
    """fx, fy, cx, cy: px. width, height: of the images it holds for.

    distortion: OpenCV's coefficients (4, 5, 8, 12 or 14 of them; 4 for ``fisheye``), empty for rectified images.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: tuple[float, ...] = ()
    fisheye: bool = False

    def __post_init__(self) -> None:
        numbers = np.array([self.fx, self.fy, self.cx, self.cy, *self.distortion])
        if not np.isfinite(numbers).all() or self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"focal lengths {self.fx}, {self.fy} px: must be above 0 (calibrate the camera)")
        if len(self.distortion) not in ((4,) if self.fisheye else (0, 4, 5, 8, 12, 14)):
            allowed = "4" if self.fisheye else "0, 4, 5, 8, 12 or 14"
            raise ValueError(f"{len(self.distortion)} distortion coefficients: must be {allowed}")

    @classmethod
    def assumed(cls, width: int, height: int) -> Camera:
        """Stands in for an unknown camera: 90 degrees wide over the longer side."""
        focal = max(width, height) / 2
        return cls(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)

    @property
    def focal(self) -> float:
        return max(self.fx, self.fy)

    @property
    def distorts(self) -> bool:
        return self.fisheye or any(self.distortion)

    @cached_property
    def matrix(self) -> np.ndarray:
        """(3, 3), K."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]])

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Image px (..., 2) -> rays (..., 2), float64.

        A lens model holds inside the image only: beyond its edge the ray goes on at the pitch of the focal length.
        """
        pixels = np.asarray(pixels, np.float64)
        focal = np.array([self.fx, self.fy])
        if not self.distorts:
            return (pixels - (self.cx, self.cy)) / focal
        inside = np.clip(pixels, -0.5, np.array([self.width, self.height]) - 0.5)
        return self._undistorted(inside.reshape(-1, 1, 2)).reshape(pixels.shape) + (pixels - inside) / focal

    def ray_polygons(self, polygons: np.ndarray) -> np.ndarray:
        """Convex polygons (..., V, 2) in the image -> convex polygons in rays that contain them, (..., W, 2)."""
        if not self.distorts:
            return self.rays(polygons)
        steps = np.arange(_EDGE_STEPS)[:, None] / _EDGE_STEPS
        start, end = polygons[..., None, :], np.roll(polygons, -1, axis=-2)[..., None, :]
        bent = self.rays((start + (end - start) * steps).reshape(*polygons.shape[:-2], -1, 2))
        return polygons_around(bent)

    def _undistorted(self, pixels: np.ndarray) -> np.ndarray:
        distortion = np.array(self.distortion, np.float64)
        if self.fisheye:
            return cv2.fisheye.undistortPoints(pixels, self.matrix, distortion)
        if hasattr(cv2, "undistortPointsIter"):
            return cv2.undistortPointsIter(pixels, self.matrix, distortion, np.eye(3), np.eye(3), _CRITERIA)
        return cv2.undistortPoints(pixels, self.matrix, distortion, criteria=_CRITERIA)  # type: ignore  # OpenCV 5


def view_corners(width: int, height: int) -> np.ndarray:
    """(4, 2) px: the corners of the image, on the centres of its corner pixels."""
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
