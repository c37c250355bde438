"""Mean and covariance of probability maps, from sums of powers of the cells' places about the map's middle."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=8)
def powers(n: int) -> np.ndarray:
    """(3, n) float32: 1, x, x^2 of cells' places about their middle, which keeps float32 exact enough."""
    return ((np.arange(n) - (n - 1) / 2) ** np.arange(3)[:, None]).astype(np.float32)


def moment_sums(rows: np.ndarray, n: int) -> np.ndarray:
    """(3, 3, n) float32: sums of y^i x^j over n maps that lie side by side, (h, n * w)."""
    h, w = len(rows), rows.shape[1] // n
    return powers(w) @ (powers(h) @ rows).reshape(3, n, w).swapaxes(1, 2)


def moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (2, ...), x first, about the middle; covariances (3, ...): xx, xy, yy. A cell's mass fills its square.

    Args:
        sums: (3, 3, ...) of y^i x^j over each map. All in map px.
    """
    sums = np.divide(sums, sums[0, 0], dtype=np.float64).reshape(9, *sums.shape[2:])
    mean, covariance = sums[1:4:2], sums[2:7:2]
    covariance[:2] -= mean[0] * mean
    covariance[2] -= mean[1] * mean[1]
    covariance[::2] += 1 / 12
    return mean, covariance


def covariances(maps: np.ndarray) -> np.ndarray:
    """(N, 2, 2) of maps (N, h, w), map px."""
    n, h, w = maps.shape
    _, covariance = moments(moment_sums(maps.transpose(1, 0, 2).reshape(h, n * w), n))
    return covariance[[0, 1, 1, 2]].T.reshape(n, 2, 2)
