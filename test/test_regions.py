"""Highest-density regions: against plain sorting and sums, and what ellipse and polygon must contain after float32."""

from __future__ import annotations

import numpy as np
import pytest

from probpose_ros.codec import Codec
from probpose_ros.geometry import CropTransform
from probpose_ros.regions import is_distribution, map_to_image, regions_from_maps
from probpose_ros.types import RegionKind, Regions

CODEC = Codec((192, 256), (48, 64))
LEVELS = [0.5, 0.8, 0.95]


def random_maps(rng: np.random.Generator, shape: tuple[int, ...] = (17, 64, 48)) -> np.ndarray:
    """Maps as sparsemax makes them: some blobs, cut off at 0, from a single cell to most of the window."""
    y, x = np.arange(shape[1])[:, None], np.arange(shape[2])
    maps = np.zeros(shape)
    for m in maps:
        for _ in range(rng.integers(1, 4)):
            centre, width = rng.uniform(0, 1, 2) * [shape[2], shape[1]], 10 ** rng.uniform(-0.7, 1, 2)
            column, row = np.exp(-(((y - centre[1]) / width[1]) ** 2)), np.exp(-(((x - centre[0]) / width[0]) ** 2))
            m += rng.uniform(0.2, 1) * column * row
        m -= rng.uniform(0.01, 0.9) * m.max()
    maps = np.maximum(maps, 0)
    return (maps / maps.sum((1, 2), keepdims=True)).astype(np.float32)


def random_transform(rng: np.random.Generator) -> CropTransform:
    size = 10 ** rng.uniform(0.7, 3.3, 2)
    corner = rng.uniform(-1000, 4000, 2)
    return CropTransform.from_bbox(np.concatenate([corner, corner + size]), (192, 256))


def one(maps: np.ndarray, transform: CropTransform, levels: list[float]) -> Regions:
    """Of one person."""
    return regions_from_maps(maps[None], [transform], CODEC, levels)[0]


def expected_regions(probmap: np.ndarray, levels: list[float]) -> list[np.ndarray]:
    """(h, w) bool: the densest cells that reach each level, as few whole steps of a sixteenth of an octave as do."""
    mantissa, exponent = np.frexp(probmap.astype(np.float64))
    step = np.ldexp(np.floor(mantissa * 32), exponent)
    values, place = np.unique(-step, return_inverse=True)
    masses = np.bincount(place.ravel(), probmap.ravel()).cumsum()
    return [step >= -values[np.flatnonzero(masses >= level * masses[-1])[0]] for level in levels]


def row_ends(inside: np.ndarray) -> np.ndarray:
    """(n, 2) x, y of the first and the last cell of each row (h, w): what is convex and holds these holds them all."""
    y = np.flatnonzero(inside.any(axis=1))
    first, last = inside[y].argmax(axis=1), inside.shape[1] - 1 - inside[y, ::-1].argmax(axis=1)
    return np.column_stack([np.concatenate([first, last]), np.concatenate([y, y])])


def cell_corners(cells: np.ndarray, transform: CropTransform) -> np.ndarray:
    """(4 n, 2) float64 image px."""
    offsets = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    return transform.to_image(CODEC.to_crop((cells[:, None] + offsets).reshape(-1, 2)))


def in_ellipse(points: np.ndarray, ellipse: np.ndarray) -> np.ndarray:
    x, y, major, minor, theta = ellipse.astype(np.float64)
    turned = (points - [x, y]) @ np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    return ((turned / [major, minor]) ** 2).sum(-1) <= 1


def in_convex(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    a = polygon.astype(np.float64)
    edge = np.roll(a, -1, axis=0) - a
    offset = points[:, None] - a
    cross = edge[:, 0] * offset[..., 1] - edge[:, 1] * offset[..., 0]
    return (cross >= 0).all(-1) | (cross <= 0).all(-1)


def area_of(polygon: np.ndarray) -> float:
    x, y = (polygon.astype(np.float64) - polygon[0]).T
    return abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


def check_containment(rng: np.random.Generator, rounds: int) -> None:
    for _ in range(rounds):
        maps, transform = random_maps(rng), random_transform(rng)
        regions = one(maps, transform, LEVELS)
        for k, probmap in enumerate(maps):
            for level, inside in enumerate(expected_regions(probmap, LEVELS)):
                corners = cell_corners(row_ends(inside), transform)
                assert in_ellipse(corners, regions.ellipses[k, level]).all()
                assert in_convex(corners, regions.polygons[k][level]).all()
                assert len(regions.polygons[k][level]) <= 16


def test_ellipse_and_polygon_contain_the_region():
    check_containment(np.random.default_rng(0), rounds=10)


@pytest.mark.slow
def test_ellipse_and_polygon_contain_the_region_1e5_maps():
    check_containment(np.random.default_rng(1), rounds=100_000 // 17 + 1)


def test_regions_have_the_mass_and_the_area():
    rng = np.random.default_rng(2)
    maps, transform = random_maps(rng), random_transform(rng)
    regions = one(maps, transform, LEVELS)
    # The cell's side in image px is that of the window over the number of steps between cells.
    cell_area = transform.window_size.prod() / (47 * 63)
    for k, probmap in enumerate(maps):
        for level, inside in enumerate(expected_regions(probmap, LEVELS)):
            assert probmap[inside].sum() >= LEVELS[level] - 1e-5
            np.testing.assert_allclose(regions.areas[k, level], inside.sum() * cell_area, rtol=1e-5)
    assert (np.diff(regions.areas, axis=1) >= 0).all()


def test_exports_are_not_much_larger_than_the_region():
    # One convex blob: the hull adds the steps of the grid only, the ellipse some more. Otherwise a huge shape would do.
    y, x = np.mgrid[:64, :48]
    blob = np.maximum(1 - ((x - 20) / 9) ** 2 - ((y - 30) / 14) ** 2, 0)
    maps = np.repeat((blob / blob.sum())[None], 17, axis=0).astype(np.float32)
    regions = one(maps, random_transform(np.random.default_rng(3)), [0.9])
    assert 1 <= area_of(regions.polygons[0][0]) / regions.areas[0, 0] < 1.15
    assert 1 <= np.pi * regions.ellipses[0, 0, 2:4].prod() / regions.areas[0, 0] < 1.35


def test_covariance_is_the_maps_in_image_px():
    rng = np.random.default_rng(4)
    maps, transform = random_maps(rng), random_transform(rng)
    found = one(maps, transform, [0.5]).covariances
    centres = transform.to_image(CODEC.to_crop(np.stack(np.meshgrid(np.arange(48), np.arange(64)), -1).reshape(-1, 2)))
    cell = transform.window_size / [47, 63]
    for probmap, (xx, xy, yy) in zip(maps, found, strict=True):
        expected = np.cov(centres.T, aweights=probmap.ravel().astype(np.float64), ddof=0) + np.diag(cell**2) / 12
        np.testing.assert_allclose([[xx, xy], [xy, yy]], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_single_cell_gives_that_cell():
    maps = np.zeros((17, 64, 48), np.float32)
    maps[:, 10, 30] = 1
    transform = CropTransform(np.array([100.0, 200.0]), np.array([47.0, 63.0]), (192, 256))  # 1 cell = 1 px
    regions = one(maps, transform, LEVELS)
    centre = transform.to_image(CODEC.to_crop(np.array([30, 10])))
    np.testing.assert_allclose(regions.areas, 1, rtol=1e-6)
    np.testing.assert_allclose(regions.ellipses[..., :2], np.broadcast_to(centre, (17, 3, 2)))
    np.testing.assert_allclose(regions.ellipses[..., 2:4], np.sqrt(0.5), rtol=2e-3)  # the circle around a unit square
    np.testing.assert_allclose(regions.covariances, [[1 / 12, 0, 1 / 12]] * 17, atol=1e-6)
    assert area_of(regions.polygons[5][1]) == pytest.approx(1, rel=1e-2)


def test_a_flat_map_gives_the_window():
    maps = np.full((17, 64, 48), 1 / (64 * 48), np.float32)
    transform = random_transform(np.random.default_rng(5))
    regions = one(maps, transform, [0.5])  # equal cells enter together
    window = transform.window_size.prod() * 48 * 64 / (47 * 63)
    assert area_of(regions.polygons[0][0]) == pytest.approx(window, rel=1e-3)


def test_nothing_is_promised():
    rng = np.random.default_rng(6)
    regions = one(random_maps(rng), random_transform(rng), LEVELS)
    assert regions.kind == RegionKind.UNKNOWN and not regions.valid.any()
    assert regions.levels.tolist() == [np.float32(level) for level in LEVELS]
    for array in (regions.ellipses, regions.areas, regions.covariances, regions.levels, regions.polygons[0][0]):
        assert array.dtype == np.float32


@pytest.mark.parametrize("fault", [np.nan, np.inf, -0.5, 0.3, "empty"])
def test_what_is_no_distribution_has_no_region(fault):
    maps, transform = random_maps(np.random.default_rng(8)), random_transform(np.random.default_rng(9))
    clean = one(maps, transform, LEVELS)
    if fault == "empty":
        maps[3] = 0
    else:
        maps[3, 5, 5] += fault
    assert is_distribution(maps).tolist() == [k != 3 for k in range(17)]
    regions = one(maps, transform, LEVELS)
    for found, expected in ((regions.ellipses, clean.ellipses), (regions.areas, clean.areas)):
        assert np.isnan(found[3]).all()
        np.testing.assert_array_equal(np.delete(found, 3, 0), np.delete(expected, 3, 0))
    assert np.isnan(regions.covariances[3]).all()
    assert [len(polygon) for polygon in regions.polygons[3]] == [0, 0, 0]


def test_map_to_image_is_the_way_through_the_crop():
    transform = CropTransform(np.array([50.0, 70.0]), np.array([120.0, 160.0]), (192, 256), rotation=0.3)
    matrix = map_to_image(transform, CODEC)
    points = np.random.default_rng(10).uniform(0, 60, (20, 2))
    found = points @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(found, transform.to_image(CODEC.to_crop(points)), atol=1e-9)
