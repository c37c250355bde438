"""Mean and covariance of probability maps, from sums of powers of the cells' places about the map's middle."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=8)
def powers(n: int) -> np.ndarray:
    """(3, n) float32: 1, x, x^2 of cells' places about their middle, which keeps float32 exact enough."""
    return ((np.arange(n) - (n - 1) / 2) ** np.arange(3)[:, None]).astype(np.float32)


def moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (..., 2) about the middle and covariances (..., 2, 2), map px; a cell's mass fills its square.

    Args:
        sums: (..., 3, 3) of y^i x^j over each map.
    """
    sums = sums.astype(np.float64)
    sums /= sums[..., :1, :1]
    mean, covariance = sums[..., [0, 1], [1, 0]], np.empty((*sums.shape[:-2], 2, 2))
    (x, y), xy = np.moveaxis(mean, -1, 0), sums[..., 1, 1]
    covariance[..., 0, 0], covariance[..., 1, 1] = sums[..., 0, 2] - x * x + 1 / 12, sums[..., 2, 0] - y * y + 1 / 12
    covariance[..., 0, 1] = covariance[..., 1, 0] = xy - x * y
    return mean, covariance


def map_moments(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of maps (N, h, w)."""
    n, h, w = maps.shape
    return moments(powers(h) @ (maps.reshape(n * h, w) @ powers(w).T).reshape(n, h, 3))
