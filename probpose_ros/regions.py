"""Probability maps -> highest-density regions in the image.

A region at level L holds the map's densest cells, as few as reach the mass L. Without a calibration that level is the
map's own opinion and promises nothing about the world: ``kind`` is UNKNOWN and nothing is ``valid``. (Maps of
sparsemax are exactly 0 in most cells, and the true joint can lie in one of those.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from probpose_ros.codec import Codec
from probpose_ros.geometry import CropTransform
from probpose_ros.moments import moment_sums, moments
from probpose_ros.predictive import Ranking
from probpose_ros.support import DIRECTIONS, SIDES, polygons
from probpose_ros.types import RegionKind, Regions

# How far a map's mass may be off 1; beyond it the map is not a distribution and nothing is said.
MASS_TOLERANCE = 1e-3

_COS, _SIN = DIRECTIONS.T
_HALF = SIDES // 2
# Least squares over opposite sides: centre (half, xy) of their difference, covariance (half, xx xy yy) of their half
# width^2.
_CENTRE = np.linalg.pinv(DIRECTIONS[:_HALF]).T / 2
_SPREAD = np.linalg.pinv(np.column_stack([_COS**2, 2 * _COS * _SIN, _SIN**2])[:_HALF]).T
# By half (down, up), the shares of a column's reach and of its place in how far its cells are, by direction. The level
# directions have a share of the reach too small to count, unless a column reaches nowhere.
_REACH = np.stack([np.maximum(np.abs(_SIN), 1e-20), _COS]).reshape(2, 2, _HALF).swapaxes(0, 1).astype(np.float32)
_NOWHERE = np.float32(-1e30)


def is_distribution(probmap: np.ndarray) -> np.ndarray:
    """Whether maps (..., h, w) are finite, not negative and sum to 1 within MASS_TOLERANCE; shape (...)."""
    cells = probmap.reshape(*probmap.shape[:-2], probmap.shape[-2] * probmap.shape[-1])
    mass = cells @ np.ones(cells.shape[-1], cells.dtype)
    # Comparisons with NaN are false, and a NaN anywhere makes mass and minimum NaN.
    return (np.abs(mass - 1) <= MASS_TOLERANCE) & (cells.min(axis=-1) >= 0)


def map_to_image(transform: CropTransform, codec: Codec) -> tuple[np.ndarray, np.ndarray]:
    """The affine map px -> image px as (matrix (2, 2), offset (2,)), read off the two owners of its halves."""
    origin, x_axis, y_axis = transform.to_image(codec.to_crop(np.array([[0, 0], [1, 0], [0, 1]])))
    return np.column_stack([x_axis - origin, y_axis - origin]), origin


def regions_from_maps(
    probmaps: np.ndarray, transforms: Sequence[CropTransform], codec: Codec, levels: Sequence[float],
    known: np.ndarray | None = None,
) -> list[Regions]:  # fmt: skip
    """Uncalibrated regions of each person.

    Args:
        probmaps: (P, K, h, w) float32, each map sums to 1; a map that does not gets NaN numbers and no polygons.
        transforms, codec: of the crops and of the network that made the maps.
        levels: in (0, 1). known: (P, K) bool, which maps are distributions, if somebody has looked already.
    """
    good = is_distribution(probmaps) if known is None else known
    measured = []
    for maps, its_good in zip(probmaps, good, strict=True):
        ranking = Ranking(with_placeholders(maps, its_good))
        measured.append(measure(ranking.reaching(levels), ranking.rows))
    valid = np.zeros((*good.shape, len(levels)), bool)
    return describe(measured, good, valid, transforms, codec, levels, RegionKind.UNKNOWN)


def with_placeholders(probmap: np.ndarray, good: np.ndarray) -> np.ndarray:
    """The maps (K, h, w) with all mass in one cell where they are not ``good`` (K,): something to compute with."""
    if good.all():
        return probmap
    probmap = np.where(good[:, None, None], probmap, np.float32(0))
    probmap[~good, 0, 0] = 1
    return probmap


class Measured(NamedTuple):
    """All that describe() needs of one person's regions at L levels.

    first, last: (L, K, w) small integers: h - y of the first and y + 1 of the last cell of each column; 0: no cell.
    cells: (L, K), their number. sums: (3, K, 3) float32: of y^i x^j over the maps.
    """

    first: np.ndarray
    last: np.ndarray
    cells: np.ndarray
    sums: np.ndarray


def measure(inside: np.ndarray, rows: np.ndarray) -> Measured:
    """Passes over the cells of one person; several persons at once would not stay in the processor's cache.

    Args:
        inside: (L, K, h, w) bool, the cells of each region; at least one each.
        rows: (h, K * w), the maps side by side, for the covariances.
    """
    k, h = inside.shape[1:3]
    small = np.min_scalar_type(h)  # the smaller the integers, the faster
    cells, y = inside.view(np.uint8), np.arange(h, dtype=small)[:, None]
    return Measured(
        first=(cells * (small.type(h) - y)).max(axis=2),
        last=(cells * (y + small.type(1))).max(axis=2),
        cells=cells.sum(axis=2, dtype=small).sum(axis=2),
        sums=moment_sums(rows, k),
    )


def describe(
    measured: Sequence[Measured], good: np.ndarray, valid: np.ndarray,
    transforms: Sequence[CropTransform], codec: Codec, levels: Sequence[float], kind: RegionKind,
) -> list[Regions]:  # fmt: skip
    """Areas, covariances, and the polygons and ellipses that contain the regions, of each person.

    Args:
        good: (P, K) bool; False makes a keypoint's numbers NaN and its polygons empty.
        valid: (P, K, L) bool, and kind: of the result.
    """
    if not measured:
        return []
    affine = [map_to_image(transform, codec) for transform in transforms]
    matrix, offset = np.array([m for m, _ in affine]), np.array([o for _, o in affine])
    cell = matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]
    supports = _supports(measured, codec.map_size)
    corners = _polygons(supports, codec.map_size, matrix, offset, cell)
    to_image = _spread_to_image(matrix)
    ellipses = _ellipses(supports, corners, matrix, offset, to_image)
    areas = np.array([person.cells for person in measured]) * np.abs(cell)[:, None, None]
    _, covariance = moments(np.array([person.sums for person in measured]).swapaxes(0, 1))
    covariance = covariance.transpose(1, 2, 0) @ to_image

    def finished(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32)
        if not all_good:
            array[~good] = np.nan
        return array

    all_good = good.all()
    ellipses, areas, corners = (finished(array.swapaxes(1, 2)) for array in (ellipses, areas, corners))
    covariance = finished(covariance)
    as_array, valid = np.asarray(levels, np.float32), valid & good[..., None]
    none = (np.zeros((0, 2), np.float32),) * len(levels)
    return [
        Regions(
            levels=as_array, kind=kind, valid=valid[p], ellipses=ellipses[p], areas=areas[p],
            covariances=covariance[p],
            polygons=tuple(
                tuple(its) if known else none for its, known in zip(corners[p], good[p].tolist(), strict=True)
            ),
        )
        for p in range(len(measured))
    ]  # fmt: skip


def _turned(matrices: np.ndarray) -> np.ndarray:
    return matrices.swapaxes(-1, -2)


def _spread_to_image(matrix: np.ndarray) -> np.ndarray:
    """(P, 3, 3): xx, xy, yy of the map, as a row, -> those of the image; matrix: (P, 2, 2)."""
    (a, b), (c, d) = matrix.transpose(1, 2, 0)
    rows = [a * a, a * c, c * c, 2 * a * b, a * d + b * c, 2 * c * d, b * b, b * d, d * d]
    return np.array(rows).T.reshape(-1, 3, 3)


def _supports(measured: Sequence[Measured], map_size: tuple[int, int]) -> np.ndarray:
    """(P, L, K, SIDES) float64, how far each region's cells reach along each of DIRECTIONS, map px."""
    w, h = map_size
    # How far the cells of each column reach down and up; where there is none, nowhere.
    columns = np.array([[person.last for person in measured], [person.first for person in measured]])
    reach = columns.reshape(2, -1, w).swapaxes(1, 2).astype(np.float32)
    np.copyto(reach, _NOWHERE, where=reach == 0)
    places = np.empty((*reach.shape, 2), np.float32)
    np.subtract(reach, np.array([[[0.5]], [[h - 0.5]]], np.float32), out=places[..., 0])
    places[..., 1] = np.arange(w)[:, None]
    far = (places.reshape(2, -1, 2) @ _REACH).reshape(2, w, -1).max(axis=1)
    far = far.reshape(2, -1, _HALF).swapaxes(0, 1).reshape(*columns.shape[1:4], SIDES)
    return far + np.abs(_COS) / 2


def _polygons(
    supports: np.ndarray, map_size: tuple[int, int], matrix: np.ndarray, offset: np.ndarray, cell: np.ndarray
) -> np.ndarray:
    """(P, L, K, SIDES, 2) float32 image px: the tangents' polygons.

    Args:
        matrix (P, 2, 2), offset (P, 2): map px -> image px. cell: (P,), the determinant.
    """
    # Every side moves out by more than the rounding of corners to float32, so that what is sent is convex and contains
    # the region: largest coordinate, over the least change in the image per px of the map.
    largest = (np.abs(offset).max(axis=1) + np.abs(matrix).sum(axis=(1, 2)) * max(map_size)).astype(np.float32)
    growth = 16 * np.spacing(largest) * np.sqrt((matrix**2).sum(axis=(1, 2))) / np.abs(cell)
    corners = polygons(supports + growth[:, None, None, None]).reshape(len(supports), -1, 2)
    corners = corners @ _turned(matrix) + offset[:, None]
    return corners.astype(np.float32).reshape(*supports.shape, 2)


def _ellipses(
    supports: np.ndarray, corners: np.ndarray, matrix: np.ndarray, offset: np.ndarray, to_image: np.ndarray
) -> np.ndarray:
    """(P, L, K, 5): ellipses shaped like the regions, grown until they contain the polygons; image px.

    An ellipse about c with covariance S reaches c n + sqrt(n S n) in direction n: least squares give c and S. Centre
    and angle are rounded to float32 first and the size is measured from the rounded ones, so that the ellipse that is
    sent contains the polygon that is sent.
    """
    shape = supports.shape[:-1]
    one, other = supports.reshape(len(supports), -1, 2, _HALF).transpose(2, 0, 1, 3)
    half = (one + other) / 2
    ellipses = np.empty((len(supports), one.shape[1], 5))
    ellipses[..., :2] = (one - other) @ (_CENTRE @ _turned(matrix)) + offset[:, None]
    spread = (half * half) @ (_SPREAD @ to_image)
    mean, apart, xy = (spread[..., 0] + spread[..., 2]) / 2, (spread[..., 0] - spread[..., 2]) / 2, spread[..., 1]
    radius = np.hypot(apart, xy)
    ellipses[..., 2] = mean + radius
    ellipses[..., 3] = np.maximum(mean - radius, ellipses[..., 2] * 1e-4)
    ellipses[..., 4] = np.arctan2(xy, apart) / 2
    axes = np.sqrt(ellipses[..., 2:4], out=ellipses[..., 2:4])
    rounded = ellipses.astype(np.float32).astype(np.float64)
    reach = corners.reshape(*rounded.shape[:2], SIDES, 2) - rounded[..., None, :2]
    # As complex numbers, turned back by the angle.
    reach.view(np.complex128)[..., 0] *= np.exp(-1j * rounded[..., 4])[..., None]
    reach /= axes[..., None, :]
    reach *= reach
    axes *= np.sqrt((reach[..., 0] + reach[..., 1]).max(axis=-1, keepdims=True)) * (1 + 1e-6)
    return ellipses.reshape(*shape, 5)
