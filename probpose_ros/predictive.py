"""Probability maps -> predictive maps -> highest-density regions: what calibrates and what runs, the same code.

A network's map can be exactly 0 where the joint is, and left and right can be swapped. The predictive map mixes

    G * [(1 - mirror - tail) p  +  mirror p_mirrored_joint  +  tail T],    T_i ~ (1 + |i - argmax p|^2 / s^2)^(-3/2)

with G a Gaussian of width ``blur``. It is positive everywhere. Cells are ranked by their density in BINS logarithmic
steps; the score of a cell is the mass of all cells in steps above its own, and a region is {cells: score <= threshold}.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

# The bits of a positive float32 grow with its value. Without the last 19 of the mantissa's 23, an octave has 16 steps:
# integers only, so every machine ranks the same map in the same way, and no logarithm is computed.
_SHIFT, _OCTAVES = 19, 24
_TOP = 127 << (23 - _SHIFT)  # the bits of 1 that stay
BINS = (_OCTAVES << (23 - _SHIFT)) + 1  # what is below 2^-24 joins the last step


class Mixture(NamedTuple):
    """Weights of a predictive map: mirror, tail in [0, 1], their sum below 1. tail_width: s > 0, map px."""

    mirror: float
    tail: float
    tail_width: float


class Predictor:
    """Predictive maps of some groups of keypoints, each with its mixture.

    blur: standard deviation of G, map px, >= 0; one for all groups, so that all maps are blurred in one call.
    """

    def __init__(self, mixtures: Sequence[Mixture], blur: float) -> None:
        self.mirror, self.tail, widths = np.array(mixtures, np.float32).reshape(-1, 3).T
        self.widths, self.width_of = np.unique(widths, return_inverse=True)
        self.blur = blur

    def __call__(self, maps: np.ndarray, mirrored: np.ndarray, group: np.ndarray) -> np.ndarray:
        """(N, h, w) float32 predictive maps; each sums to 1 (to float32).

        In memory h comes first: a region's columns are then measured row by row, all keypoints at once.

        Args:
            maps: (N, h, w) float32, each sums to 1. mirrored: of the same joints on the other side of the body.
            group: (N,) index of the mixture.
        """
        n, h, w = maps.shape
        mirror, tail = self.mirror[group], self.tail[group]
        mixed = maps * (1 - mirror - tail)[:, None, None]
        mixed += mirrored * mirror[:, None, None]
        windows, mass = _tails(h, w, tuple(self.widths.tolist()))
        width, (y, x) = self.width_of[group], np.divmod(maps.reshape(n, h * w).argmax(axis=1), w)
        tails = windows[width, h - 1 - y, w - 1 - x]
        tails *= (tail / mass[width, y, x])[:, None, None]
        mixed += tails
        return _blurred(mixed, self.blur)


@lru_cache(maxsize=8)
def _tails(h: int, w: int, widths: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The tail of each width: windows (W, h, w, h, w) into one around each place, their masses by place (W, h, w)."""
    y, x = np.arange(1 - h, h)[:, None], np.arange(1 - w, w)
    table = (1 + (x * x + y * y) / np.array(widths, np.float64)[:, None, None] ** 2) ** -1.5
    # Sums over all windows from a table of sums; the window around (y, x) begins at (h - 1 - y, w - 1 - x).
    total = np.pad(table.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))
    mass = total[:, h:, w:] - total[:, :h, w:] - total[:, h:, :w] + total[:, :h, :w]
    windows = np.lib.stride_tricks.sliding_window_view(table.astype(np.float32), (h, w), axis=(1, 2))
    return windows, mass[:, ::-1, ::-1].astype(np.float32)


def _blurred(maps: np.ndarray, sigma: float) -> np.ndarray:
    """Maps (N, h, w) convolved with a Gaussian cut off at 3 sigma; reflection at the border keeps the mass inside.

    All maps at once, first along their rows, then, side by side, along their columns.
    """
    n, h, w = maps.shape
    if sigma:
        maps = maps.reshape(n * h, w) @ _blur_matrix(w, sigma)
    rows = np.ascontiguousarray(maps.reshape(n, h, w).transpose(1, 0, 2)).reshape(h, n * w)
    if sigma:
        rows = cv2.sepFilter2D(rows, -1, np.ones(1, np.float32), _kernel(sigma), borderType=cv2.BORDER_REFLECT)
    return rows.reshape(h, n, w).transpose(1, 0, 2)


def _kernel(sigma: float) -> np.ndarray:
    return cv2.getGaussianKernel(2 * int(np.ceil(3 * sigma)) + 1, sigma, cv2.CV_32F)


@lru_cache(maxsize=8)
def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    """(size, size) float32: what the same filter does to a row."""
    rows = np.eye(size, dtype=np.float32)
    return cv2.sepFilter2D(rows, -1, _kernel(sigma), np.ones(1, np.float32), borderType=cv2.BORDER_REFLECT)


class Ranking:
    """Cells of maps (N, h, w) float32 ranked by density.

    above: (N, BINS + 1) float64, the mass of all cells denser than each step; the densest step first, infinity last.
    """

    def __init__(self, maps: np.ndarray) -> None:
        n = len(maps)
        self.maps = maps
        steps = _steps(maps, BINS * np.arange(n, dtype=np.int32)[:, None, None])  # each map counts in bins of its own
        mass = np.bincount(steps.ravel(order="K"), maps.ravel(order="K"), n * BINS).reshape(n, BINS)
        self.above = np.zeros((n, BINS + 1))
        mass[:, :-1].cumsum(axis=1, out=self.above[:, 1:-1])
        self.above[:, -1] = np.inf

    def scores(self, cells: np.ndarray) -> np.ndarray:
        """(N,) the score of one cell of each map; cells: (N, 2) x, y."""
        rows = np.arange(len(cells))
        return self.above[rows, _steps(self.maps[rows, cells[:, 1], cells[:, 0]])]

    def inside(self, thresholds: np.ndarray) -> np.ndarray:
        """(L, N, h, w) bool: the cells of the region of each threshold (N, L) >= 0; infinity gives every cell."""
        first_outside = (self.above[:, None] > np.minimum(thresholds, 2)[..., None]).argmax(axis=-1)
        return self._from(np.where(first_outside < BINS, (_TOP - first_outside + 1) << _SHIFT, 0))

    def reaching(self, masses: Sequence[float]) -> np.ndarray:
        """(L, N, h, w) bool: the densest cells, as few whole steps as hold these masses (L,); no cell of density 0."""
        wanted = np.multiply.outer(self.maps.sum(axis=(1, 2), dtype=np.float64), masses)
        last = (self.above[:, None, 1:] >= wanted[..., None]).argmax(axis=-1)
        return self._from(np.where(last < BINS - 1, (_TOP - last) << _SHIFT, 1 << 23))

    def _from(self, bits: np.ndarray) -> np.ndarray:
        """(L, N, h, w): the cells of at least the densities (N, L) with these bits; h first in memory."""
        n, h, w = self.maps.shape
        density = bits.astype(np.int32).view(np.float32).T[:, :, None, None]
        inside = np.empty((len(density), h, n, w), bool).transpose(0, 2, 1, 3)
        return np.greater_equal(self.maps, density, out=inside)


def _steps(density: np.ndarray, first: np.ndarray | int = 0) -> np.ndarray:
    """The step of each density in [0, 1]: ``first`` the densest, first + BINS - 1 the last."""
    steps = density.view(np.int32) >> _SHIFT
    np.subtract(_TOP + first, steps, out=steps)
    return np.minimum(steps, BINS - 1 + first, out=steps)
