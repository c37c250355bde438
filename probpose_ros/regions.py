"""Probability maps -> highest-density regions in the image.

A region at level L holds the map's densest cells, as few as reach the mass L. Without a calibration that level is the
map's own opinion and promises nothing about the world: ``kind`` is UNKNOWN and nothing is ``valid``. (Maps of
sparsemax are exactly 0 in most cells, and the true joint can lie in one of those.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
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
# From the columns of a region to its supports, by half (down, up) and direction: the shares of a column's reach and of
# its place in how far its cells' centres are, and what they fill beside it. The level directions have a share of the
# reach too small to count, unless a column reaches nowhere.
_SHARES = np.stack([np.maximum(np.abs(_SIN), 1e-20), _COS]).reshape(2, 2, _HALF).swapaxes(0, 1).astype(np.float32)
_BESIDE = np.abs(_COS).reshape(2, _HALF) / 2
# From supports to points: the polygon's corners, and as its last one the ellipse's centre. It and the ellipse's
# covariance are least squares over opposite sides: of their difference, and of their half width^2.
_CENTRE = np.linalg.pinv(DIRECTIONS[:_HALF]).T / 2
_POINTS = np.concatenate([polygons(np.eye(SIDES)), np.concatenate([_CENTRE, -_CENTRE])[:, None]], axis=1)
_SPREAD = np.linalg.pinv(np.column_stack([_COS**2, 2 * _COS * _SIN, _SIN**2])[:_HALF]).T  # (half, xx xy yy)
_MEAN_XY_APART = np.array([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, -0.5]])  # xx xy yy -> (xx + yy) / 2, xy, (xx - yy) / 2


def is_distribution(probmap: np.ndarray) -> np.ndarray:
    """Whether maps (..., h, w) are finite, not negative and sum to 1 within MASS_TOLERANCE; shape (...)."""
    cells = probmap.reshape(*probmap.shape[:-2], probmap.shape[-2] * probmap.shape[-1])
    mass = cells @ np.ones(cells.shape[-1], cells.dtype)
    # Comparisons with NaN are false, and a NaN anywhere makes mass and minimum NaN.
    return (np.abs(mass - 1) <= MASS_TOLERANCE) & (cells.min(axis=-1) >= 0)


def map_to_image(transform: CropTransform, codec: Codec) -> np.ndarray:
    """(2, 3) float64: the affine map px -> image px, of points (x, y, 1)."""
    return transform.inverse_matrix @ codec.to_crop_matrix


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

    ends: (2, L, K, w) small integers: y + 1 of the last cell of each column and h - y of the first; 0: no cell.
    cells: (L, K), their number. sums: (3, 3, K) float32: of y^i x^j over the maps.
    """

    ends: np.ndarray
    cells: np.ndarray
    sums: np.ndarray


def measure(inside: np.ndarray, rows: np.ndarray) -> Measured:
    """Passes over the cells of one person; several persons at once would not stay in the processor's cache.

    Args:
        inside: (L, K, h, w) bool, the cells of each region, h before K in memory; at least one each.
        rows: (h, K * w), the maps side by side, for the covariances.
    """
    levels, k, h, w = inside.shape
    cells = inside.swapaxes(1, 2).reshape(levels, h, k * w).view(np.uint8)
    from_ends = _from_ends(h)
    return Measured(
        ends=(cells * from_ends).max(axis=2).reshape(2, levels, k, w),
        cells=cells.sum(axis=1, dtype=from_ends.dtype).reshape(levels, k, w).sum(axis=2),
        sums=moment_sums(rows, k),
    )


@lru_cache(maxsize=8)
def _from_ends(h: int) -> np.ndarray:
    """(2, 1, h, 1): y + 1 and h - y; the smaller the integers, the faster."""
    y = np.arange(h)
    return np.array([y + 1, h - y], np.min_scalar_type(h))[:, None, :, None]


class Placement(NamedTuple):
    """Where the maps of P persons lie: map px -> image px.

    matrix: (P, 2, 2). offset: (P,) complex, x + iy. cell: (P,) area of a cell, image px^2.
    spread: (P, 3, 3): xx, xy, yy of the map, as a row, -> those of the image.
    growth: (P,) map px, what is more in the image than the rounding of a point of the map to float32.
    """

    matrix: np.ndarray
    offset: np.ndarray
    cell: np.ndarray
    spread: np.ndarray
    growth: np.ndarray

    @staticmethod
    def of(transforms: Sequence[CropTransform], codec: Codec) -> Placement:
        """In Python's numbers, which for a few people are faster than arrays."""
        matrices, offsets, cells, spreads, growths = [], [], [], [], []
        for transform in transforms:
            (a, b, x), (c, d, y) = map_to_image(transform, codec).tolist()
            cell = abs(a * d - b * c)
            largest = max(abs(x), abs(y)) + (abs(a) + abs(b) + abs(c) + abs(d)) * max(codec.map_size)
            matrices.append((a, b, c, d))
            offsets.append(complex(x, y))
            cells.append(cell)
            spreads.append((a * a, a * c, c * c, 2 * a * b, a * d + b * c, 2 * c * d, b * b, b * d, d * d))
            # The largest coordinate's rounding to float32 (2^29 of float64's), over the least change per px of the map.
            growths.append(16 * math.ulp(largest) * 2**29 * math.sqrt(a * a + b * b + c * c + d * d) / cell)
        return Placement(
            matrix=np.array(matrices).reshape(-1, 2, 2), offset=np.array(offsets), cell=np.array(cells),
            spread=np.array(spreads).reshape(-1, 3, 3), growth=np.array(growths),
        )  # fmt: skip


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
    place = Placement.of(transforms, codec)
    corners, ellipses = _shapes(_supports(measured, codec.map_size), place)
    by_level = (len(measured), len(levels), -1)
    corners = corners.reshape(*by_level, SIDES, 2)
    ellipses = ellipses.reshape(*by_level, 5).swapaxes(1, 2)
    areas = np.array([person.cells for person in measured]) * place.cell[:, None, None]
    areas = areas.astype(np.float32).swapaxes(1, 2)
    _, covariances = moments(np.array([person.sums for person in measured]).transpose(1, 2, 0, 3))
    covariances = (covariances.transpose(1, 2, 0) @ place.spread).astype(np.float32)
    outlines = [tuple(zip(*its)) for its in corners]  # by keypoint, then level
    if not good.all():
        for numbers in (ellipses, areas, covariances):
            numbers[~good] = np.nan
        valid = valid & good[..., None]
        none = (np.zeros((0, 2), np.float32),) * len(levels)
        outlines = [tuple(its if known else none for its, known in zip(*both)) for both in zip(outlines, good.tolist())]
    as_array = np.asarray(levels, np.float32)
    return [
        Regions(
            levels=as_array, kind=kind, valid=valid[p], ellipses=ellipses[p], areas=areas[p],
            covariances=covariances[p], polygons=outlines[p],
        )
        for p in range(len(measured))
    ]  # fmt: skip


def _supports(measured: Sequence[Measured], map_size: tuple[int, int]) -> np.ndarray:
    """(P, L * K, SIDES) float64, how far each region's cells reach along each of DIRECTIONS, map px."""
    w, h = map_size
    ends = np.array([person.ends for person in measured])
    people = len(ends)
    columns = ends.transpose(1, 4, 0, 2, 3).reshape(2, w, -1)
    places = _places(w, columns.shape[-1]).copy()
    for half, reach in enumerate(_reach(h)):
        places[half, ..., 0] = reach.take(columns[half])
    far = (places.reshape(2, -1, 2) @ _SHARES).reshape(2, w, -1).max(axis=1)
    far = far.reshape(2, people, -1, _HALF).transpose(1, 2, 0, 3)
    return np.add(far, _BESIDE, order="C").reshape(people, -1, SIDES)


@lru_cache(maxsize=8)
def _reach(h: int) -> np.ndarray:
    """(2, h + 1) float32: by Measured.ends, how far a column reaches down and up; nowhere where it has no cell."""
    reach = np.arange(h + 1) - np.array([[0.5], [h - 0.5]])
    reach[:, 0] = -1e30
    return reach.astype(np.float32)


@lru_cache(maxsize=8)
def _places(w: int, regions: int) -> np.ndarray:
    """(2, w, regions, 2) float32: by half, reach (to be filled) and place of each region's columns."""
    places = np.zeros((2, w, regions, 2), np.float32)
    places[..., 1] = np.arange(w)[:, None]
    return places


def _shapes(supports: np.ndarray, place: Placement) -> tuple[np.ndarray, np.ndarray]:
    """The tangents' polygons (P, R, SIDES, 2) and ellipses (P, R, 5), float32 image px, of supports (P, R, SIDES).

    Every side moves out by more than the rounding of corners to float32, so that what is sent is convex and contains
    the region. The ellipse has the region's shape and is grown until it contains the polygon: one about c with
    covariance S reaches c n + sqrt(n S n) in direction n, so least squares give c and S. Its centre and angle are
    rounded first and its size is measured from the rounded ones: the ellipse that is sent contains the polygon that is
    sent. Points are complex numbers, x + iy.
    """
    people, regions = supports.shape[:2]
    to_points = (_POINTS.reshape(-1, 2) @ place.matrix.swapaxes(1, 2)).reshape(people, SIDES, -1)
    points = (supports + place.growth[:, None, None]) @ to_points
    points = (points.view(np.complex128) + place.offset[:, None, None]).astype(np.complex64)
    corners, centre = points[..., :SIDES], points[..., SIDES:]

    half_width = (supports[..., :_HALF] + supports[..., _HALF:]) / 2
    spread = (half_width * half_width) @ (_SPREAD @ place.spread @ _MEAN_XY_APART)
    mean, xy, apart = spread.transpose(2, 0, 1)
    radius = np.hypot(apart, xy)
    flat = np.maximum((mean - radius) / (mean + radius), 1e-4)  # (semi-minor / semi-major)^2
    ellipses = np.empty((people, regions, 5), np.float32)
    ellipses[..., 0], ellipses[..., 1] = centre.real[..., 0], centre.imag[..., 0]
    ellipses[..., 4] = np.arctan2(xy, apart) / 2
    turned = np.subtract(corners, centre, dtype=np.complex128)
    turned *= np.exp(-1j * ellipses[..., 4:].astype(np.float64))
    squares = turned.view(np.float64) ** 2
    major = (squares[..., ::2] + squares[..., 1::2] / flat[..., None]).max(axis=-1) * (1 + 1e-6) ** 2
    ellipses[..., 2] = np.sqrt(major)
    ellipses[..., 3] = np.sqrt(major * flat)
    return points.view(np.float32)[..., : 2 * SIDES].reshape(people, regions, SIDES, 2), ellipses
