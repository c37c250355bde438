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
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from probpose_ros.moments import moment_sums, moments, powers

# The bits of a positive float32 grow with its value. Without the last 19 of the mantissa's 23, an octave has 16 steps:
# integers only, so every machine ranks the same map in the same way, and no logarithm is computed.
_SHIFT, _STEPS, _OCTAVES = 19, 16, 24
_TOP = 127 * _STEPS  # the bits of 1 that stay
BINS = _OCTAVES * _STEPS + 1  # what is below 2^-24 joins the last step
# A histogram has an octave more for the last step, and one behind it that stays empty.
_ROOM = _OCTAVES + 2
# The least density in front of each step; behind the last, everything is in front.
_LEAST = np.zeros(_ROOM * _STEPS, np.float32)
_LEAST[:BINS] = ((_TOP + 1 - np.arange(BINS)).astype(np.int32) << _SHIFT).view(np.float32)
_OF_OCTAVE, _DENSER = np.ones(_STEPS), np.triu(np.ones((_ROOM, _ROOM)), 1)  # sums of an octave, of all octaves before
_TWICE_XY = np.array([[1.0], [2.0], [1.0]])


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
        own, mirrored = (part.transpose(1, 0, 2).copy() for part in (maps, mirrored))
        return self.mix(own, mirrored, group).transpose(1, 0, 2)

    def mix(self, own: np.ndarray, mirrored: np.ndarray, group: np.ndarray) -> np.ndarray:
        """The same with h first in all of them: (h, N, w), contiguous. Overwrites own and mirrored."""
        h, n, w = own.shape
        own, mirrored = own.reshape(h, n * w), mirrored.reshape(h, n * w)
        tails = _tails(own, n, self.scale[group])
        mass = (powers(h)[0] @ tails).reshape(n, w).sum(axis=1)
        mirror, tail = self.mirror[group], self.tail[group]
        weights = np.array([1 - mirror - tail, mirror, tail / mass], np.float32).repeat(w, axis=1)
        for part, weight in zip((own, mirrored, tails), weights):
            part *= weight
        tails += own
        tails += mirrored
        return tails.reshape(h, n, w)


def _tails(rows: np.ndarray, n: int, scale: np.ndarray) -> np.ndarray:
    """(h, n * w) float32: the tail of each of n maps side by side, its largest possible value 1."""
    h, w = len(rows), rows.shape[1] // n
    mean, covariance = moments(moment_sums(rows, n))
    xx, xy, yy = covariance * (scale * scale)
    inverse = np.array([yy, -xy, xx]) / (xx * yy - xy * xy)
    slope = inverse[:2] * mean[0] + inverse[1:] * mean[1]
    # 1 + d^2 / scale^2 = sum of c_ij y^i x^j
    c = np.zeros((3, 3, n))
    c[0, 0] = 1 + slope[0] * mean[0] + slope[1] * mean[1]
    c[0, 1], c[1, 0] = -2 * slope
    c[0, 2], c[1, 1], c[2, 0] = inverse * _TWICE_XY
    found = (c.swapaxes(1, 2) @ powers(w)).astype(np.float32).reshape(3, n * w)
    found = powers(h).T @ found
    found *= found
    return np.reciprocal(found, out=found)


class Ranking:
    """Cells of maps (N, h, w) float32, best with h first in memory, ranked by density.

    mass: (N, octaves, steps) float64, of each step's cells, the densest first.
    above: (N, octaves) float64, the mass of all cells denser than each octave; infinity last.
    """

    def __init__(self, maps: np.ndarray) -> None:
        n, h, w = maps.shape
        self.maps = maps
        self.rows = maps.transpose(1, 0, 2).reshape(h, n * w)
        steps = _steps(self.rows, *_own_steps(n, w))
        mass = np.bincount(steps.ravel(), self.rows.ravel(), n * _ROOM * _STEPS)
        self.mass = mass.reshape(n, _ROOM, _STEPS)
        self.above = (mass.reshape(-1, _STEPS) @ _OF_OCTAVE).reshape(n, _ROOM) @ _DENSER
        self.above[:, -1] = np.inf

    def _above(self, octave: np.ndarray) -> np.ndarray:
        """(N, L, steps + 1) the mass of all cells denser than each step of an octave (N, L) and than the next one."""
        place = octave + np.arange(0, len(octave) * _ROOM, _ROOM)[:, None]
        above = np.empty((*octave.shape, _STEPS + 1))
        above[..., 0] = self.above.take(place)
        above[..., 1:] = self.mass.reshape(-1, _STEPS).take(place, axis=0)
        above.cumsum(axis=-1, out=above)
        # Octaves are added in another order, and by rounding the last step could be above the next octave.
        above[..., -1] = self.above.take(place + 1)
        return np.minimum(above, above[..., -1:], out=above)

    def scores(self, cells: np.ndarray) -> np.ndarray:
        """(N,) the score of one cell of each map; cells: (N, 2) x, y."""
        rows = np.arange(len(cells))
        octave, step = np.divmod(_steps(self.maps[rows, cells[:, 1], cells[:, 0]]), _STEPS)
        return self._above(octave[:, None])[rows, 0, step]

    def inside(self, thresholds: np.ndarray) -> np.ndarray:
        """(L, N, h, w) bool: the cells of the region of each threshold (N, L) >= 0; infinity gives every cell."""
        return self._from(_LEAST[self._first_above(np.minimum(thresholds, 2))])

    def reaching(self, masses: Sequence[float]) -> np.ndarray:
        """(L, N, h, w) bool: the densest cells, as few whole steps as hold these masses (L,); no cell of density 0."""
        wanted = np.multiply.outer(self.mass.sum(axis=(1, 2)), masses)
        least = _LEAST[self._first_above(np.nextafter(wanted, 0))]
        return self._from(np.maximum(least, np.finfo(np.float32).tiny))

    def _first_above(self, masses: np.ndarray) -> np.ndarray:
        """(N, L) the first step with more than the masses (N, L) above it, at least BINS where there is none."""
        masses = masses[..., None]
        octave = (self.above[:, None, 1:] > masses).argmax(axis=-1)
        return octave * _STEPS + (self._above(octave) > masses).argmax(axis=-1)

    def _from(self, least: np.ndarray) -> np.ndarray:
        """(L, N, h, w) bool: the cells of at least the densities (N, L); h first in memory."""
        n, h, w = self.maps.shape
        inside = self.rows >= least.T.repeat(w, axis=1)[:, None]
        return inside.reshape(-1, h, n, w).transpose(0, 2, 1, 3)


def _steps(density: np.ndarray, top: np.ndarray | int = _TOP, last: np.ndarray | int = BINS - 1) -> np.ndarray:
    """The step of each density in [0, 1]: 0 the densest, BINS - 1 the last."""
    steps = density.view(np.int32) >> _SHIFT
    np.subtract(top, steps, out=steps)
    return np.minimum(steps, last, out=steps)


@lru_cache(maxsize=8)
def _own_steps(n: int, w: int) -> np.ndarray:
    """(2, n * w) int32: top and last of _steps() by which each of n maps side by side has steps of its own."""
    return (np.array([[_TOP], [BINS - 1]]) + _ROOM * _STEPS * np.arange(n)).astype(np.int32).repeat(w, axis=1)
