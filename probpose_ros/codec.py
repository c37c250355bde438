"""Keypoints <-> maps: target encoding and expected-OKS decoding, one owner for both (NumPy).

Two profiles:

``oks``
    The paper's formula with consistent areas. The OKS kernel has the true OKS width for a person who fills the window
    up to the padding, it peaks at 1 and is not truncated, and nothing is mirrored at the map's border: the decoded
    value is the expected OKS.
``reference``
    What the public implementation computes, for its weights: variance from the square root of the area, clipped to
    [0.55, 3] map px^2, kernel truncated at ceil(3 * variance) px and normalised, borders mirrored.

The Gaussian is separable, so for either profile the expected-OKS map of keypoint k is ``Ky[k] @ p[k] @ Kx[k].T`` with
dense matrices made once (the mirrored border folds into them).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from probpose_ros.geometry import PADDING
from probpose_ros.oks import oks_variance
from probpose_ros.skeleton import SIGMAS

PROFILES = ("oks", "reference")

# COCO's mean ratio of a person's segment area to its box area; COCO-style datasets without segments use it too.
AREA_PER_BOX = 0.53


@dataclass(frozen=True)
class Decoded:
    """keypoints (..., K, 2) crop px; peak, expected_oks (..., K): map value and kernel score at the decoded cell."""

    keypoints: np.ndarray
    peak: np.ndarray
    expected_oks: np.ndarray


@dataclass(frozen=True)
class Codec:
    """crop_size, map_size: (width, height) in px; profile: one of PROFILES; padding: of the activation window.

    map_window: x_min, y_min, x_max, y_max of the centres of the map's corner cells, crop px. None: those of the crop's
    corner pixels; other windows belong to double heatmaps, see :meth:`outer` and :meth:`extended`.
    """

    crop_size: tuple[int, int]
    map_size: tuple[int, int]
    profile: str = "oks"
    padding: float = PADDING
    map_window: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {self.profile!r}")
        if min(self.map_size) < 3:
            raise ValueError(f"map_size must be at least 3 x 3, got {self.map_size!r}")
        if self.map_window is not None and not (self._last > self._first).all():
            raise ValueError(f"map_window must be x_min < x_max and y_min < y_max, got {self.map_window!r}")

    def outer(self, scale: float) -> Codec:
        """As many cells over a window ``scale`` times the crop, about the same centre: coarser, but it sees further."""
        size = np.array(self.crop_size)
        (x_min, y_min), (x_max, y_max) = (size * (1 - scale) / 2).tolist(), (size * (1 + scale) / 2 - 1).tolist()
        return replace(self, map_window=(x_min, y_min, x_max, y_max))

    def extended(self, scale: float) -> Codec:
        """The same cells and more of their size around them, over at least ``scale`` times the window."""
        margin = np.ceil(np.array(self.map_size) * (scale - 1) / 2 - 1e-9).astype(int)
        corners = self.to_crop(np.stack([-margin, np.array(self.map_size) - 1 + margin]))
        (x_min, y_min), (x_max, y_max) = corners.tolist()
        w, h = (np.array(self.map_size) + 2 * margin).tolist()
        return replace(self, map_size=(w, h), map_window=(x_min, y_min, x_max, y_max))

    @cached_property
    def variance(self) -> np.ndarray:
        """(K,) variance of the OKS Gaussian in map px^2."""
        w, h = self.map_size
        area = w * h / self.padding**2
        if self.profile == "reference":
            return np.clip(2 * (2 * SIGMAS) ** 2 * np.sqrt(area), 0.55, 3.0)
        windows = (self._last - self._first + 1) / np.array(self.crop_size)
        return oks_variance(AREA_PER_BOX * area / windows.prod())

    @cached_property
    def kernels(self) -> tuple[np.ndarray, np.ndarray]:
        """(K, h, h) and (K, w, w) float32: the matrices Ky and Kx of the separable decode."""
        w, h = self.map_size
        return self._kernel(h), self._kernel(w)

    def _kernel(self, size: int) -> np.ndarray:
        distance = np.arange(size)[:, None] - np.arange(size)[None, :]
        if self.profile == "oks":
            return np.exp(-(distance**2) / (2 * self.variance[:, None, None])).astype(np.float32)
        kernels = np.zeros((len(self.variance), size, size))
        for kernel, s in zip(kernels, self.variance, strict=True):
            radius = int(np.ceil(3 * s))
            offsets = np.arange(-radius, radius + 1)
            weights = np.exp(-(offsets**2) / (2 * s))
            weights /= weights.sum()
            for offset, weight in zip(offsets, weights, strict=True):
                rows = np.arange(size)
                np.add.at(kernel, (rows, _mirror(rows + offset, size)), weight)
        return kernels.astype(np.float32)

    def to_map(self, points: np.ndarray) -> np.ndarray:
        """Crop px (..., 2) -> map px (..., 2)."""
        return (np.asarray(points) - self._first) * self._ratio

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Map px (..., 2) -> crop px (..., 2)."""
        return np.asarray(points) / self._ratio + self._first

    @cached_property
    def to_crop_matrix(self) -> np.ndarray:
        """(3, 3) float64: map px -> crop px, of points (x, y, 1)."""
        origin, x_axis, y_axis = self.to_crop(np.array([[0, 0], [1, 0], [0, 1]]))
        return np.vstack([np.column_stack([x_axis - origin, y_axis - origin, origin]), [0, 0, 1]])

    @cached_property
    def _ratio(self) -> np.ndarray:
        return (np.array(self.map_size) - 1) / (self._last - self._first)

    @property
    def _first(self) -> np.ndarray:
        return np.zeros(2) if self.map_window is None else np.array(self.map_window[:2])

    @property
    def _last(self) -> np.ndarray:
        return np.array(self.crop_size) - 1.0 if self.map_window is None else np.array(self.map_window[2:])

    def encode(self, keypoints: np.ndarray) -> np.ndarray:
        """OKS of every cell with the true keypoint: the target of the dense OKS loss.

        Args:
            keypoints: (..., K, 2) crop px; may lie outside the window.

        Returns:
            (..., K, h, w) float32 in [0, 1].
        """
        w, h = self.map_size
        points = self.to_map(keypoints)
        spread = 2 * self.variance[:, None]
        gx = np.exp(-((np.arange(w) - points[..., 0, None]) ** 2) / spread)
        gy = np.exp(-((np.arange(h) - points[..., 1, None]) ** 2) / spread)
        return (gy[..., :, None] * gx[..., None, :]).astype(np.float32)

    def expected_oks(self, probmaps: np.ndarray) -> np.ndarray:
        """Expected OKS of answering each cell: (..., K, h, w) maps that sum to 1 -> (..., K, h, w) float32."""
        ky, kx = self.kernels
        return ky @ np.asarray(probmaps, dtype=np.float32) @ kx.transpose(0, 2, 1)

    def decode(self, probmaps: np.ndarray) -> Decoded:
        """The points of maximal expected OKS, refined by a parabola on each axis.

        Args:
            probmaps: (..., K, h, w), each map sums to 1.
        """
        probmaps = np.asarray(probmaps, dtype=np.float32)
        w, h = self.map_size
        if probmaps.shape[-3:] != (len(SIGMAS), h, w):
            raise ValueError(f"probmaps must end in {(len(SIGMAS), h, w)}, got shape {probmaps.shape}")
        score = self.expected_oks(probmaps)
        flat = score.reshape(*score.shape[:-2], h * w)
        index = flat.argmax(axis=-1)
        y, x = np.divmod(index, w)

        def at(array: np.ndarray, dy: int, dx: int) -> np.ndarray:
            cell = np.clip(y + dy, 0, h - 1) * w + np.clip(x + dx, 0, w - 1)
            return np.take_along_axis(array.reshape(flat.shape), cell[..., None], axis=-1)[..., 0]

        centre = at(score, 0, 0)
        # A peak on the border has no neighbour on one side: no parabola there. The reference then refines neither axis.
        inner_x, inner_y = (x > 0) & (x < w - 1), (y > 0) & (y < h - 1)
        if self.profile == "reference":
            inner_x = inner_y = inner_x & inner_y
        dx = np.where(inner_x, _parabola_peak(at(score, 0, -1), centre, at(score, 0, 1)), 0)
        dy = np.where(inner_y, _parabola_peak(at(score, -1, 0), centre, at(score, 1, 0)), 0)
        points = self.to_crop(np.stack([x + dx, y + dy], axis=-1))
        return Decoded(points.astype(np.float32), at(probmaps, 0, 0), centre)


def _parabola_peak(before: np.ndarray, centre: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Offset in (-0.5, 0.5) of the peak of the parabola through three neighbours; 0 on a plateau."""
    curvature = after + before - 2 * centre
    return -(after - before) / 2 / np.where(curvature == 0, 1e-6, curvature)


def _mirror(index: np.ndarray, size: int) -> np.ndarray:
    """Indices reflected at the borders with the edge repeated: d c b a | a b c d | d c b a."""
    index = index % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)
