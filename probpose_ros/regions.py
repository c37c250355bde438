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


def regions_from_map(probmap: np.ndarray, transform: CropTransform, codec: Codec, levels: Sequence[float]) -> Regions:
    """Uncalibrated regions of one person.

    Args:
        probmap: (K, h, w) float32, each map sums to 1; a map that does not gets NaN numbers and no polygons.
        transform, codec: of the crop and of the network that made the map.
        levels: in (0, 1).
    """
    good = is_distribution(probmap)
    probmap = with_placeholders(probmap, good)
    # Cells above 0 of all maps, in the order of keypoint, y, x.
    cell = np.flatnonzero(probmap > 0)
    keypoint = cell // probmap[0].size
    thresholds = _thresholds(keypoint, probmap.ravel()[cell], len(probmap), levels)
    valid = np.zeros(thresholds.shape, bool)
    return regions_of_cells(
        probmap >= thresholds.T[..., None, None], probmap, good, transform, codec, levels, RegionKind.UNKNOWN, valid
    )


def with_placeholders(probmap: np.ndarray, good: np.ndarray) -> np.ndarray:
    """The maps (K, h, w) with all mass in one cell where they are not ``good`` (K,): something to compute with."""
    if good.all():
        return probmap
    probmap = np.where(good[:, None, None], probmap, np.float32(0))
    probmap[~good, 0, 0] = 1
    return probmap


def regions_of_cells(
    inside: np.ndarray, probmap: np.ndarray, good: np.ndarray, transform: CropTransform, codec: Codec,
    levels: Sequence[float], kind: RegionKind, valid: np.ndarray,
) -> Regions:  # fmt: skip
    """Areas, and the ellipses and polygons that contain the regions.

    Args:
        inside: (L, K, h, w) bool, the cells of each region; at least one each.
        probmap: (K, h, w), for the covariances.
        good: (K,) bool; False makes a keypoint's numbers NaN and its polygons empty.
        kind, valid: of the result.
    """
    num_levels, num_keypoints, h, w = inside.shape
    matrix, offset = map_to_image(transform, codec)

    # An item is a keypoint at a level, in the order of level, keypoint.
    items = inside.reshape(-1, h, w)
    count, mean, spread = _moments(items.astype(np.float32))
    corners, owner = _row_corners(items)
    ellipses = _ellipses(mean @ matrix.T + offset, matrix @ spread @ matrix.T, corners @ matrix.T + offset, owner)
    polygons = _polygons(corners, owner, mean, matrix, offset)
    covariance = matrix @ covariances(probmap) @ matrix.T

    def by_keypoint(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32).reshape(num_levels, num_keypoints, *array.shape[1:]).swapaxes(0, 1)
        return np.where(good.reshape(-1, *[1] * (array.ndim - 1)), array, np.float32(np.nan))

    empty = (np.zeros((0, 2), np.float32),) * num_levels
    return Regions(
        levels=np.asarray(levels, np.float32),
        kind=kind,
        valid=valid & good[:, None],
        ellipses=by_keypoint(ellipses),
        areas=by_keypoint(count * abs(np.linalg.det(matrix))),
        polygons=tuple(tuple(polygons[k::num_keypoints]) if good[k] else empty for k in range(num_keypoints)),
        covariances=np.where(good[:, None], covariance[:, [0, 0, 1], [0, 1, 1]], np.nan).astype(np.float32),
    )


def _thresholds(keypoint: np.ndarray, value: np.ndarray, num_keypoints: int, levels: Sequence[float]) -> np.ndarray:
    """(K, L): the value of the last cell needed to reach each level. Equal cells enter together: no order is better."""
    size = np.bincount(keypoint, minlength=num_keypoints)
    table = np.zeros((num_keypoints, size.max()), np.float32)  # the values of every map, padded with zeros
    table[keypoint, np.arange(len(value)) - (size.cumsum() - size)[keypoint]] = value
    table = -np.sort(-table, axis=1)
    mass = table.cumsum(axis=1, dtype=np.float64)
    wanted = np.asarray(levels)[:, None] * mass[:, None, -1:]
    last = (mass[:, None] < wanted).sum(axis=-1)
    return np.take_along_axis(table, np.minimum(last, size[:, None] - 1), axis=1)


def _starts(ids: np.ndarray) -> np.ndarray:
    """Where each run of equal ids begins; ids ascend."""
    return np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))


def covariances(probmap: np.ndarray) -> np.ndarray:
    """(K, 2, 2) of maps (K, h, w), map px; a cell's mass is spread over its unit square."""
    return _moments(probmap)[2]


def _moments(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum (I,), mean (I, 2) and covariance (I, 2, 2) of weights (I, h, w) of cells, map px; a cell is a unit square."""
    _, h, w = weights.shape
    # Coordinates about the middle, so that float32 is exact enough for the products over rows.
    middle = np.array([w - 1, h - 1]) / 2
    x, y = np.arange(w) - middle[0], np.arange(h) - middle[1]
    rows = (weights @ np.column_stack([np.ones(w), x, x * x]).astype(np.float32)).astype(np.float64)  # (I, h, 3)
    sums = np.stack([np.ones(h), y, y * y]) @ rows  # (I, 3, 3): of y^i x^j
    total = sums[:, 0, 0]
    mean_x, xx, mean_y, xy, yy = sums[:, [0, 0, 1, 1, 2], [1, 2, 0, 1, 0]].T / total
    covariance = np.array([[xx - mean_x**2, xy - mean_x * mean_y], [xy - mean_x * mean_y, yy - mean_y**2]])
    return total, np.column_stack([mean_x, mean_y]) + middle, np.moveaxis(covariance, -1, 0) + np.eye(2) / 12


def _row_corners(items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the outermost cells of every row: all that a convex shape around a region must contain.

    Args:
        items: (I, h, w) bool.

    Returns:
        (C, 2) float32 map px, and the item of each (C,), ascending.
    """
    w = items.shape[2]
    item, row = np.nonzero(items.any(axis=2))
    left = items.argmax(axis=2)[item, row] - 0.5
    right = w - 0.5 - items[:, :, ::-1].argmax(axis=2)[item, row]
    corners = np.array([[left, row - 0.5], [left, row + 0.5], [right, row - 0.5], [right, row + 0.5]], np.float32)
    return corners.transpose(2, 0, 1).reshape(-1, 2), np.repeat(item, 4)


def _ellipses(mean: np.ndarray, covariance: np.ndarray, corners: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """The shape of every item's covariance, grown until it contains the item's corners; (I, 5), all in image px.

    Centre and angle are rounded to float32 first and the size is measured from the rounded ones, so that the ellipse
    that is sent contains the region, not only the one computed here.
    """
    xx, xy, yy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    larger = (xx + yy) / 2 + np.hypot((xx - yy) / 2, xy)
    major, minor = np.sqrt(larger), np.sqrt((xx * yy - xy**2) / larger)
    centre = mean.astype(np.float32).astype(np.float64)
    theta = (np.arctan2(2 * xy, xx - yy) / 2).astype(np.float32).astype(np.float64)
    c, s = np.cos(theta)[owner], np.sin(theta)[owner]
    dx, dy = (corners - centre[owner]).T
    squared = ((c * dx + s * dy) / major[owner]) ** 2 + ((c * dy - s * dx) / minor[owner]) ** 2
    scale = np.sqrt(np.maximum.reduceat(squared, _starts(owner))) * (1 + 1e-6)
    return np.column_stack([centre, major * scale, minor * scale, theta])


def _polygons(
    corners: np.ndarray, owner: np.ndarray, mean: np.ndarray, matrix: np.ndarray, offset: np.ndarray
) -> list[np.ndarray]:
    """Convex hull of every item's corners, (V, 2) float32 image px."""
    hulls = [cv2.convexHull(points)[:, 0] for points in np.split(corners, _starts(owner)[1:])]
    sizes = [len(hull) for hull in hulls]
    points, centre = np.concatenate(hulls), np.repeat(mean, sizes, axis=0)
    # A hull holds the unit square around its mean, half a cell on every side. Grown about the mean by more than the
    # rounding of float32 over that half cell, it still contains the region after the cast.
    largest = np.abs(points @ matrix.T + offset).max()
    half_cell = 0.5 / np.linalg.norm(np.linalg.inv(matrix), 2)
    growth = 1 + 2 * np.spacing(np.float32(largest)) / half_cell
    grown = ((points - centre) * growth + centre) @ matrix.T + offset
    return np.split(grown.astype(np.float32), np.cumsum(sizes)[:-1])
