"""Confidence intervals by resampling photographs: people in one photograph are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

DRAWS = 1000


def bootstrap(
    statistic: Callable[[np.ndarray], dict[str, float]],
    groups: Sequence[object],
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of a statistic.

    Args:
        statistic: from indices of images, which may repeat, to numbers.
        groups: per image, the photograph it comes from; whole photographs are drawn.

    Returns:
        (low, high) by name; draws in which a number is NaN do not count, and without any it is (NaN, NaN).
    """
    members: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    indices = [np.array(group) for group in members.values()]
    if not indices:
        raise ValueError("bootstrap needs at least one image")
    rng = np.random.default_rng(seed)
    samples: dict[str, list[float]] = {}
    for _ in tqdm(range(draws), desc="intervals", unit="draw", leave=False, delay=1):
        drawn = np.concatenate([indices[i] for i in rng.integers(len(indices), size=len(indices))])
        for name, value in statistic(drawn).items():
            samples.setdefault(name, []).append(value)
    tail = (1 - confidence) / 2
    return {name: _interval(np.array(values), tail) for name, values in samples.items()}


def _interval(values: np.ndarray, tail: float) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
