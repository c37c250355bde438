"""Zones as points, for consumers that know points only.

Such a consumer measures the distance to points, or counts them in an area. So the points fill a zone, not only its
corners; they go on close to the camera where the distance is not known; and there are always some.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from probpose_ros.camera import Camera, view_corners
from probpose_ros.zones import RangeSource, Zone

MOST_POINTS = 4000  # of a message; more only where so many people leave fewer than FEWEST_POINTS for a zone
FEWEST_POINTS = 300
NEAREST = 0.05  # m, where filling begins at the camera
FAR_AWAY = 100.0  # m, corners of a view in which nobody was detected


def fill(rays: np.ndarray, near: float, far: float, spacing: float, most: int = MOST_POINTS) -> np.ndarray:
    """(N, 3) m: layers from near to far of a frustum over a convex polygon of rays (V, 2), each a grid and the corners.

    spacing: m between neighbours; less close to the camera, more where that would give more than ``most`` points.
    """
    low, high = rays.min(axis=0), rays.max(axis=0)
    near = max(near, NEAREST)
    far = max(far, near + 1e-3)
    coarse = 1.0
    while True:
        depths = [near]
        while depths[-1] < far:
            depths.append(depths[-1] + coarse * _step(depths[-1], spacing))
        depths[-1] = far
        columns = [1 + np.ceil((high - low) * z / (coarse * _step(z, spacing))).astype(int) for z in depths]
        if sum(nx * ny + len(rays) for nx, ny in columns) <= most:
            break
        coarse *= 1.25
    layers = []
    for z, (nx, ny) in zip(depths, columns):
        x, y = np.linspace(low[0], high[0], nx), np.linspace(low[1], high[1], ny)
        grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        grid = np.concatenate([grid[_inside(grid, rays)], rays])
        layers.append(np.column_stack([grid, np.ones(len(grid))]) * z)
    return np.concatenate(layers)


def _step(z: float, spacing: float) -> float:
    """m between points at z: a quarter of the way to the camera where that is less than the spacing."""
    return min(spacing, max(z / 4, NEAREST))


def fill_zones(zones: Sequence[Zone], reach: float, spacing: float) -> np.ndarray:
    """(N, 3) m of zones with rays; those at an unknown distance go from the camera to ``reach``.

    The zone of a whole person is left out where those of the parts are there.
    """
    parts = {zone.part for zone in zones} != {"person"}
    chosen = [zone for zone in zones if not parts or zone.part != "person"]
    most = max(MOST_POINTS // len(chosen), FEWEST_POINTS)
    clouds = []
    for zone in chosen:
        assert zone.rays is not None
        near, far = (zone.near, zone.far) if zone.source != RangeSource.UNKNOWN else (0.0, reach)
        clouds.append(fill(zone.rays, near, far, spacing, most))
    return np.concatenate(clouds)


def wall(camera: Camera, reach: float, spacing: float) -> np.ndarray:
    """(N, 3) m: the whole view from the camera to ``reach``, where nothing is known of it."""
    return fill(_view(camera), 0.0, reach, spacing)


def nobody(camera: Camera) -> np.ndarray:
    """(4, 3) m: the corners of the view, far away: nothing to slow down for, and still not an empty message."""
    return np.column_stack([_view(camera), np.ones(4)]) * FAR_AWAY


def _view(camera: Camera) -> np.ndarray:
    return camera.rays(view_corners(camera.width, camera.height))


def _inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """(N,) whether points (N, 2) lie in a convex polygon (V, 2), border included."""
    edge = np.roll(polygon, -1, axis=0) - polygon
    offset = points[:, None] - polygon
    cross = edge[:, 0] * offset[..., 1] - edge[:, 1] * offset[..., 0]
    return (cross >= -1e-9).all(axis=1)
