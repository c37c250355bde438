"""Probability maps -> predictive maps -> highest-density regions: what calibrates and what runs, the same code.

A network's map can be exactly 0 where the joint is, and left and right can be swapped. The predictive map mixes

    (1 - mirror - tail) p  +  mirror p_mirrored_joint  +  tail T,    T_i ~ (1 + d_i^2 / scale^2)^(-2)

with d the Mahalanobis distance of the map's own mean and covariance: a heavy tail (Student's t with 2 degrees of
freedom) where the map says that it is uncertain, and as far. It is positive everywhere. Cells are ranked by their
density in BINS logarithmic steps; the score of a cell is the mass of all cells in steps above its own, and a region is
{cells: score <= threshold}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from probpose_ros.moments import moment_sums, moments, powers

# The bits of a positive float32 grow with its value. Without the last 19 of the mantissa's 23, an octave has 16 steps:
# integers only, so every machine ranks the same map in the same way, and no logarithm is computed.
_SHIFT, _OCTAVES = 19, 24
_TOP = 127 << (23 - _SHIFT)  # the bits of 1 that stay
BINS = (_OCTAVES << (23 - _SHIFT)) + 1  # what is below 2^-24 joins the last step


class Mixture(NamedTuple):
    """Weights of a predictive map: mirror, tail in [0, 1], their sum below 1. scale: > 0, of the tail."""

    mirror: float
    tail: float
    scale: float


class Predictor:
    """Predictive maps of some groups of keypoints, each with its mixture."""

    def __init__(self, mixtures: Sequence[Mixture]) -> None:
        self.mirror, self.tail, self.scale = np.array(mixtures, np.float64).reshape(-1, 3).T

    def __call__(self, maps: np.ndarray, mirrored: np.ndarray, group: np.ndarray) -> np.ndarray:
        """(N, h, w) float32 predictive maps; each sums to 1 (to float32).

        In memory h comes first: a region's columns are then measured row by row, all keypoints at once.

        Args:
            maps: (N, h, w) float32, each sums to 1. mirrored: of the same joints on the other side of the body.
            group: (N,) index of the mixture.
        """
        n, h, w = maps.shape
        own, other = (part.transpose(1, 0, 2).copy().reshape(h, n * w) for part in (maps, mirrored))
        mixed = _tails(own, n, self.scale[group])
        mass = (np.ones(h, np.float32) @ mixed).reshape(n, w).sum(axis=1)
        mirror, tail = self.mirror[group], self.tail[group]
        weights = np.array([1 - mirror - tail, mirror, tail / mass], np.float32).repeat(w, axis=1)
        for part, weight in zip((own, other, mixed), weights):
            part *= weight
        mixed += own
        mixed += other
        return mixed.reshape(h, n, w).transpose(1, 0, 2)


def _tails(rows: np.ndarray, n: int, scale: np.ndarray) -> np.ndarray:
    """(h, n * w) float32: the tail of each of n maps side by side, its largest possible value 1."""
    h, w = len(rows), rows.shape[1] // n
    (x, y), covariance = moments(moment_sums(rows, n))
    xx, xy, yy = covariance * scale**2
    inverse = np.array([yy, -xy, xx]) / (xx * yy - xy * xy)
    xx, xy, yy = inverse
    # 1 + d^2 / scale^2 = sum of c_ij y^i x^j
    c = np.zeros((3, n, 3))
    c[0, :, 2], c[1, :, 1], c[2, :, 0] = xx, 2 * xy, yy
    c[0, :, 1], c[1, :, 0] = -2 * (xx * x + xy * y), -2 * (xy * x + yy * y)
    c[0, :, 0] = 1 - (c[0, :, 1] * x + c[1, :, 0] * y) / 2
    found = powers(h).T @ (c.reshape(3 * n, 3) @ powers(w)).astype(np.float32).reshape(3, n * w)
    found *= found
    return np.reciprocal(found, out=found)


class Ranking:
    """Cells of maps (N, h, w) float32, best with h first in memory, ranked by density.

    above: (N, BINS + 1) float64, the mass of all cells denser than each step; the densest step first, infinity last.
    """

    def __init__(self, maps: np.ndarray) -> None:
        n, h, w = maps.shape
        self.maps = maps
        self.rows = maps.transpose(1, 0, 2).reshape(h, n * w)
        first = (BINS * np.arange(n, dtype=np.int32)).repeat(w)  # each map counts in bins of its own
        mass = np.bincount(_steps(self.rows, first).ravel(), self.rows.ravel(), n * BINS).reshape(n, BINS)
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
        density = bits.T.astype(np.int32).view(np.float32).repeat(w, axis=1)
        return (self.rows >= density[:, None]).reshape(-1, h, n, w).transpose(0, 2, 1, 3)


def _steps(density: np.ndarray, first: np.ndarray | int = 0) -> np.ndarray:
    """The step of each density in [0, 1]: ``first`` the densest, first + BINS - 1 the last."""
    steps = density.view(np.int32) >> _SHIFT
    np.subtract(_TOP + first, steps, out=steps)
    return np.minimum(steps, BINS - 1 + first, out=steps)
