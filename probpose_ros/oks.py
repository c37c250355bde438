"""Object keypoint similarity (OKS): the one formula that losses, decoding and metrics share."""

from __future__ import annotations

import numpy as np

from probpose_ros.skeleton import SIGMAS


def oks_variance(area: float | np.ndarray, sigmas: np.ndarray = SIGMAS) -> np.ndarray:
    """Variance (px^2) of the Gaussian that OKS is, per keypoint: ``(2 sigma)^2 * area``.

    Args:
        area: area of the person in px^2, scalar or shape (...); any frame, as long as distances use the same.
        sigmas: OKS sigmas, shape (K,).

    Returns:
        Shape (..., K).

    >>> float(oks_variance(10_000.0)[0].round(3))
    27.04
    """
    return (2.0 * np.asarray(sigmas)) ** 2 * np.asarray(area)[..., None]


def oks(squared_distance: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """OKS of single keypoints, in (0, 1]: ``exp(-d^2 / (2 * variance))``.

    Args:
        squared_distance: d^2 in px^2, any shape that broadcasts against ``variance``.
        variance: from :func:`oks_variance`, px^2, > 0.

    >>> float(oks(np.array(0.0), np.array(2.0)))
    1.0
    """
    return np.exp(-np.asarray(squared_distance) / (2.0 * np.asarray(variance)))
