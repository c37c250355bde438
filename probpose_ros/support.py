"""Convex shapes as their supports in 16 directions: how far the shape reaches along each.

For regions and zones: union with hull is a maximum, growth by a ball is an addition, and the polygon of the 16
tangents contains the shape whatever it was (a circle with 1.3 % more area, a needle with a tenth of its length to
spare).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIDES = 16
_ANGLES = np.arange(SIDES) * (2 * np.pi / SIDES)
DIRECTIONS = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)]).round(15)  # (SIDES, 2); the axes exactly


def _corners() -> np.ndarray:
    """(SIDES, 2 SIDES): supports -> corners. Where the tangents of a direction and the next meet is linear in both."""
    corners = np.zeros((SIDES, SIDES, 2))
    for i in range(SIDES):
        pair = [i, (i + 1) % SIDES]
        corners[pair, i] = np.linalg.inv(DIRECTIONS[pair]).T
    return corners.reshape(SIDES, 2 * SIDES)


_CORNERS = _corners()


def support(points: np.ndarray) -> np.ndarray:
    """Supports (..., SIDES) of the hulls of points (..., N, 2), N >= 1."""
    return (points @ DIRECTIONS.T).max(axis=-2)


def supports_of(shapes: Sequence[np.ndarray]) -> np.ndarray:
    """Supports (S, SIDES) of the hulls of S shapes, each (N, 2) with N >= 1 of its own."""
    starts = np.cumsum([0, *map(len, shapes[:-1])])
    return np.maximum.reduceat(np.concatenate(shapes).astype(np.float64) @ DIRECTIONS.T, starts, axis=0)


def polygons(supports: np.ndarray) -> np.ndarray:
    """Corners (..., SIDES, 2) of the tangents' polygon, counter-clockwise for y up; some may coincide."""
    return (supports @ _CORNERS).reshape(*supports.shape, 2)


def polygons_around(points: np.ndarray) -> np.ndarray:
    """Convex polygons (..., SIDES, 2) that contain points (..., N, 2)."""
    return polygons(support(points))
