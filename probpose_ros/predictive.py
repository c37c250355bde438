"""Probability maps -> predictive maps -> highest-density regions: what calibrates and what runs, the same code.

A network's map can be exactly 0 where the joint is, and left and right can be swapped. The predictive map mixes

    (1 - mirror - tail) G * p  +  mirror G * p_mirrored_joint  +  tail T,    T_i ~ (1 + |i - argmax p|^2 / s^2)^(-3/2)

with G a Gaussian of width ``blur``. It is positive everywhere. Cells are ranked by their density in BINS logarithmic
steps; the score of a cell is the mass of all cells in steps above its own, and a region is {cells: score <= threshold}.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

# The bits of a positive float32 grow with its value. Without the last 19 of the mantissa's 23, an octave has 16 steps:
# integers only, so every machine ranks the same map in the same way, and no logarithm is computed.
_SHIFT, _OCTAVES = 19, 40
_LOWEST = (127 - _OCTAVES) << (23 - _SHIFT)  # the step of 2^-40; what is below joins it
BINS = (_OCTAVES << (23 - _SHIFT)) + 1


class Mixture(NamedTuple):
    """Parameters of a predictive map; widths in map px.

    mirror, tail: weights in [0, 1], their sum below 1. tail_width: s > 0. blur: standard deviation of G, >= 0.
    """

    mirror: float
    tail: float
    tail_width: float
    blur: float


def predictive_maps(maps: np.ndarray, mirrored: np.ndarray, mixtures: np.ndarray) -> np.ndarray:
    """(N, h, w) float32 predictive maps; each sums to 1 (to float32).

    Args:
        maps: (N, h, w) float32, each sums to 1. mirrored: the maps of the same joints on the other side of the body.
        mixtures: (N, 4), rows of :class:`Mixture`.
    """
    n, h, w = maps.shape
    mirror, tail, width, blur = np.asarray(mixtures, np.float32).T[:, :, None, None]
    predictive = maps * (1 - mirror - tail)
    predictive += mirror * mirrored
    for sigma in np.unique(blur):
        its = blur.ravel() == sigma
        its = slice(None) if its.all() else its
        predictive[its] = _blur(h, float(sigma)) @ predictive[its] @ _blur(w, float(sigma)).T
    tail_map = tails(maps, width.ravel())
    tail_map *= tail
    predictive += tail_map
    return predictive


def tails(maps: np.ndarray, width: np.ndarray) -> np.ndarray:
    """(N, h, w) the heavy tail T around each map's maximum; each sums to 1. width: (N,)."""
    n, h, w = maps.shape
    y, x = (index.astype(np.float32) for index in np.divmod(maps.reshape(n, h * w).argmax(axis=1), w))
    rows = ((np.arange(h, dtype=np.float32) - y[:, None]) / width[:, None]) ** 2
    columns = ((np.arange(w, dtype=np.float32) - x[:, None]) / width[:, None]) ** 2
    distance = (1 + rows)[:, :, None] + columns[:, None, :]
    distance *= np.sqrt(distance)
    tail = np.reciprocal(distance, out=distance)
    tail /= tail.sum(axis=(1, 2), keepdims=True)
    return tail


@lru_cache(maxsize=64)
def _blur(size: int, sigma: float) -> np.ndarray:
    """(size, size) float32; column j spreads cell j over its neighbours and keeps its mass inside the map."""
    if sigma == 0:
        return np.eye(size, dtype=np.float32)
    distance = np.arange(size)[:, None] - np.arange(size)
    kernel = np.exp(-(distance**2) / (2 * sigma**2))
    return (kernel / kernel.sum(axis=0)).astype(np.float32)


class Ranking:
    """Cells of maps (N, h, w) ranked by density.

    bins: (N, h, w) int32, the step of each cell. above: (N, BINS) float64, the mass of all cells above each step.
    """

    def __init__(self, maps: np.ndarray) -> None:
        n = len(maps)
        maps = np.ascontiguousarray(maps, np.float32)
        self.bins = np.maximum((maps.view(np.int32) >> _SHIFT) - _LOWEST, 0)
        # Map by map: small arrays stay in the cache, and their memory is not fetched anew from the system.
        mass = np.empty((n, BINS))
        for row, bins, values in zip(mass, self.bins, maps):
            row[:] = np.bincount(bins.ravel(), values.ravel(), BINS)
        self.above = np.zeros((n, BINS))
        self.above[:, :-1] = mass[:, :0:-1].cumsum(axis=1)[:, ::-1]

    def scores(self, cells: np.ndarray) -> np.ndarray:
        """(N,) the score of one cell of each map; cells: (N, 2) x, y."""
        rows = np.arange(len(cells))
        return self.above[rows, self.bins[rows, cells[:, 1], cells[:, 0]]]

    def lowest(self, thresholds: np.ndarray) -> np.ndarray:
        """(N, L) the lowest step that belongs to the region of each threshold (N, L); infinity gives 0: every cell."""
        return np.count_nonzero(self.above[:, None] > np.asarray(thresholds)[..., None], axis=-1)

    def counts(self, thresholds: np.ndarray) -> np.ndarray:
        """(N, L) the number of cells of each region."""
        cells = np.array([np.bincount(bins.ravel(), minlength=BINS) for bins in self.bins])
        return np.take_along_axis(cells[:, ::-1].cumsum(axis=1)[:, ::-1], self.lowest(thresholds), axis=1)

    def inside(self, thresholds: np.ndarray) -> np.ndarray:
        """(L, N, h, w) bool: the cells of each region."""
        return self.bins >= self.lowest(thresholds).T[..., None, None]
