"""Probability maps -> highest-density regions in the image.

A region at level L holds the map's densest cells, as few as reach the mass L. Without a calibration that level is the
map's own opinion and promises nothing about the world: ``kind`` is UNKNOWN and nothing is ``valid``. (Maps of
sparsemax are exactly 0 in most cells, and the true joint can lie in one of those.)
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from probpose_ros.codec import Codec
from probpose_ros.geometry import CropTransform
from probpose_ros.types import RegionKind, Regions

# How far a map's mass may be off 1; beyond it the map is not a distribution and nothing is said.
MASS_TOLERANCE = 1e-3


def is_distribution(probmap: np.ndarray) -> np.ndarray:
    """Whether maps (..., h, w) are finite, not negative and sum to 1 within MASS_TOLERANCE; shape (...)."""
    mass = probmap.sum(axis=(-2, -1), dtype=np.float64)
    # Comparisons with NaN are false, and a NaN anywhere makes mass and minimum NaN.
    return (np.abs(mass - 1) <= MASS_TOLERANCE) & (probmap.min(axis=(-2, -1)) >= 0)


def map_to_image(transform: CropTransform, codec: Codec) -> tuple[np.ndarray, np.ndarray]:
    """The affine map px -> image px as (matrix (2, 2), offset (2,)), read off the two owners of its halves."""
    origin, x_axis, y_axis = transform.to_image(codec.to_crop(np.array([[0, 0], [1, 0], [0, 1]])))
    return np.column_stack([x_axis - origin, y_axis - origin]), origin


def regions_from_map(
    probmap: np.ndarray, transform: CropTransform, codec: Codec, levels: Sequence[float]
) -> Regions:
    """Uncalibrated regions of one person.

    Args:
        probmap: (K, h, w) float32, each map sums to 1; a map that does not gets NaN numbers and no polygons.
        transform, codec: of the crop and of the network that made the map.
        levels: in (0, 1).
    """
    good = is_distribution(probmap)
    safe = np.where(good[:, None, None], probmap, np.float32(1 / probmap[0].size))  # flat instead of NaN, erased below
    matrix, offset = map_to_image(transform, codec)
    inside = safe[:, None] >= _thresholds(safe, levels)[:, :, None, None]  # (K, L, h, w)

    count, mean, spread = _moments(inside.astype(np.float32))
    corners, occupied = _row_corners(inside)
    ellipses = _ellipses(mean @ matrix.T + offset, matrix @ spread @ matrix.T, corners @ matrix.T + offset)
    areas = (count * abs(np.linalg.det(matrix))).astype(np.float32)
    covariances = (matrix @ _moments(safe)[2] @ matrix.T)[:, [0, 0, 1], [0, 1, 1]].astype(np.float32)
    polygons = _polygons(corners, occupied & good[:, None, None], mean, matrix, offset)
    for array in (ellipses, areas, covariances):
        array[~good] = np.nan
    return Regions(
        levels=np.asarray(levels, np.float32),
        kind=RegionKind.UNKNOWN,
        valid=np.zeros(areas.shape, bool),
        ellipses=ellipses,
        areas=areas,
        polygons=polygons,
        covariances=covariances,
    )


def _thresholds(probmap: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """(K, L): the value of the last cell needed to reach each level. Equal cells enter together, no order is better."""
    flat = probmap.reshape(len(probmap), -1)
    keypoint, cell = np.nonzero(flat)
    size = np.bincount(keypoint, minlength=len(flat))
    # The non-zero values of every map, padded with zeros: sparsemax leaves few, and only those need sorting.
    values = np.zeros((len(flat), size.max()), np.float32)
    values[keypoint, np.arange(len(cell)) - (size.cumsum() - size)[keypoint]] = flat[keypoint, cell]
    values = -np.sort(-values, axis=1)
    cumulative = values.cumsum(axis=1, dtype=np.float64)
    wanted = np.asarray(levels)[:, None] * cumulative[:, None, -1:]
    last = (cumulative[:, None] < wanted).sum(axis=-1)
    return np.take_along_axis(values, np.minimum(last, size[:, None] - 1), axis=1)


def _moments(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum (...), mean (..., 2) and covariance (..., 2, 2) of cells (..., h, w), map px; a cell is a unit square."""
    h, w = weights.shape[-2:]
    x, y = np.arange(w), np.arange(h)
    per_row = (weights @ np.column_stack([np.ones(w), x, x**2]).astype(np.float32)).astype(np.float64)
    total, sum_x, sum_xx = np.moveaxis(per_row.sum(axis=-2), -1, 0)
    sum_y, sum_xy = np.moveaxis(np.einsum("...yi,y->...i", per_row[..., :2], y), -1, 0)
    sum_yy = per_row[..., 0] @ y**2
    mean = np.stack([sum_x, sum_y], axis=-1) / total[..., None]
    second = np.stack([sum_xx, sum_xy, sum_xy, sum_yy], axis=-1).reshape(*total.shape, 2, 2) / total[..., None, None]
    return total, mean, second - mean[..., :, None] * mean[..., None, :] + np.eye(2) / 12


def _row_corners(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the outermost cells of every row: all that a convex shape around the region must contain.

    Returns:
        (..., 4 h, 2) float32 map px, and (..., 4 h) bool: False for rows without cells, whose corners repeat others.
    """
    h, w = inside.shape[-2:]
    occupied = inside.any(axis=-1)
    first, last = inside.argmax(axis=-1) - 0.5, w - 0.5 - inside[..., ::-1].argmax(axis=-1)
    y = np.broadcast_to(np.arange(h), first.shape)
    points = [(first, y - 0.5), (first, y + 0.5), (last, y - 0.5), (last, y + 0.5)]
    corners = np.stack([np.stack(point, axis=-1) for point in points], axis=-2).reshape(*first.shape[:-1], 4 * h, 2)
    occupied = np.repeat(occupied, 4, axis=-1)
    some = np.take_along_axis(corners, occupied.argmax(axis=-1)[..., None, None], axis=-2)
    return np.where(occupied[..., None], corners, some).astype(np.float32), occupied


def _ellipses(mean: np.ndarray, covariance: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The shape of the covariance, grown until it contains the corners; (..., 5) float32, all in image px.

    Centre and angle are rounded to float32 first and the size is measured from the rounded ones, so that the ellipse
    that leaves here contains the region, not only the one computed here.
    """
    xx, xy, yy = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    half, difference = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    major = np.sqrt(half + difference)
    minor = np.sqrt((xx * yy - xy**2) / (half + difference))  # determinant / larger eigenvalue: no cancellation
    centre = mean.astype(np.float32)
    theta = (np.arctan2(2 * xy, xx - yy) / 2).astype(np.float32)
    along, across = _rotate(corners - centre[..., None, :], theta.astype(np.float64)[..., None])
    scale = np.sqrt((along / major[..., None]) ** 2 + (across / minor[..., None]) ** 2).max(axis=-1) * (1 + 1e-6)
    return np.stack([centre[..., 0], centre[..., 1], major * scale, minor * scale, theta], axis=-1).astype(np.float32)


def _rotate(points: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    c, s = np.cos(theta), np.sin(theta)
    return c * points[..., 0] + s * points[..., 1], c * points[..., 1] - s * points[..., 0]


def _polygons(
    corners: np.ndarray, occupied: np.ndarray, mean: np.ndarray, matrix: np.ndarray, offset: np.ndarray
) -> tuple[tuple[np.ndarray, ...], ...]:
    """Convex hulls in image px, float32, of the occupied corners; empty where there are none."""
    shape = occupied.shape[:2]
    hulls = [
        cv2.convexHull(corners[index][occupied[index]])[:, 0] if occupied[index].any() else np.zeros((0, 2), np.float32)
        for index in np.ndindex(*shape)
    ]
    sizes = [len(hull) for hull in hulls]
    centre = np.repeat(mean.reshape(-1, 2), sizes, axis=0)
    points = np.concatenate(hulls)
    # A hull holds the unit square around its mean. Grown about it by twice the relative rounding of float32, it still
    # contains the region after the cast.
    image = points @ matrix.T + offset
    smallest = 1 / np.linalg.norm(np.linalg.inv(matrix), 2)  # of a cell's two half-widths, the factor that shrinks most
    growth = 1 + 4 * np.spacing(np.float32(np.abs(image).max(initial=1))) / smallest
    image = ((points - centre) * growth + centre) @ matrix.T + offset
    pieces = np.split(image.astype(np.float32), np.cumsum(sizes)[:-1])
    return tuple(tuple(pieces[i * shape[1] : (i + 1) * shape[1]]) for i in range(shape[0]))
