"""Depth images: against counting pixels one by one, and what is not measured says nothing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from probpose_ros.depth import SAMPLES, SPECKLE, DepthImage

SQUARE = np.array([[10, 10], [29, 10], [29, 29], [10, 29]], float)


def metres(rng: np.random.Generator, h: int = 60, w: int = 80) -> np.ndarray:
    return rng.uniform(0.5, 8, (h, w)).astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_nearest_and_farthest_are_those_of_the_pixels_inside(seed):
    rng = np.random.default_rng(seed)
    values = metres(rng)
    polygon = cv2.convexHull((rng.uniform(5, 35, (8, 2)) + rng.uniform(0, 15, 2)).astype(np.float32))[:, 0]
    found = DepthImage(values, 0.0).interval(polygon.astype(float))
    distance = [
        [cv2.pointPolygonTest(polygon[:, None], (float(x), float(y)), True) for x in range(80)] for y in range(60)
    ]
    surely, perhaps = (np.sort(values[np.array(distance) >= limit]) for limit in (0.6, -1.6))
    assert perhaps[0] <= found[0] <= surely[SPECKLE] and surely[-1 - SPECKLE] <= found[1] <= perhaps[-1]


def test_both_encodings_say_the_same():
    values = np.round(metres(np.random.default_rng(1)), 3)
    a = DepthImage(values, 0.0).interval(SQUARE)
    b = DepthImage(np.round(values * 1000).astype(np.uint16), 0.0).interval(SQUARE)
    np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("factor", [2, 0.5, 3, 1 / 3])
def test_a_whole_multiple_of_the_image_size(factor):
    """The image is 120 x 90 px; the near square covers its pixels 30 .. 59."""
    h, w = int(90 * factor), int(120 * factor)
    values = np.full((h, w), 5.0, np.float32)
    a, b = int(30 * factor), int(60 * factor)
    values[a:b, a:b] = 2.0
    depth = DepthImage.aligned(values, 0.0, 120, 90)
    inner = np.array([[32, 32], [57, 32], [57, 57], [32, 57]], float)
    assert depth.interval(inner) == (2.0, 2.0)
    outer = np.array([[5, 65], [25, 65], [25, 85], [5, 85]], float)
    assert depth.interval(outer) == (5.0, 5.0)
    both = np.array([[50, 50], [75, 50], [75, 75], [50, 75]], float)
    assert depth.interval(both) == (2.0, 5.0)


@pytest.mark.parametrize("size", [(81, 60), (80, 61), (120, 90), (40, 31), (54, 40)])
def test_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} px, the image 80 x 60: must be equal or whole"):
        DepthImage.aligned(np.zeros(size[::-1], np.float32), 0.0, 80, 60)


@pytest.mark.parametrize("hole", [0.0, np.nan, np.inf, -1.0, np.uint16(0), np.uint16(65535)])
def test_holes_are_left_out_and_too_many_say_nothing(hole):
    whole = isinstance(hole, np.uint16)
    values = np.full((60, 80), 3000 if whole else 3.0, np.uint16 if whole else np.float32)
    values[10:18, 10:30] = hole  # 40 %
    assert DepthImage(values, 0.0).interval(SQUARE) == pytest.approx((3, 3))
    values[10:22, 10:30] = hole  # 60 %
    assert DepthImage(values, 0.0).interval(SQUARE) is None
    values[:] = hole
    assert DepthImage(values, 0.0).interval(SQUARE) is None


def test_what_is_too_near_to_be_measured_is_at_the_camera():
    values = np.full((60, 80), 3.0, np.float32)
    values[15:20, 15:20] = -np.inf
    assert DepthImage(values, 0.0).interval(SQUARE) == (0.0, 3.0)


def test_speckles_are_not_a_surface_and_a_hand_is():
    values = np.full((60, 80), 3.0, np.float32)
    values[12, 12:15] = 0.4
    assert DepthImage(values, 0.0).interval(SQUARE)[0] == 3.0
    values[12:15, 12:15] = 0.4
    assert DepthImage(values, 0.0).interval(SQUARE)[0] == np.float32(0.4)


def test_occluders_make_the_interval_larger():
    values = np.full((60, 80), 6.0, np.float32)  # the wall
    values[:, 15:25] = 3.0  # somebody
    values[20:, :] = 1.2  # a table before them
    assert DepthImage(values, 0.0).interval(SQUARE) == pytest.approx((1.2, 6.0))


def test_outside_the_image_nothing_is_known_and_a_part_is_what_is_seen():
    depth = DepthImage(np.full((60, 80), 3.0, np.float32), 0.0)
    assert depth.interval(SQUARE + 500) is None and depth.interval(SQUARE - 500) is None
    assert depth.interval(SQUARE - 20) == (3.0, 3.0)
    assert depth.interval(np.array([[-1e5, -1e5], [1e5, -1e5], [1e5, 1e5], [-1e5, 1e5]])) == (3.0, 3.0)


def test_large_polygons_are_sampled_finely_enough_for_a_hand():
    """A zone of 1000 px: whatever is at least twice the sampling step on each side is seen."""
    side = 2 * (1000 // SAMPLES + 1) + 2
    values = np.full((1080, 1920), 4.0, np.float32)
    values[500 : 500 + side, 700 : 700 + side] = 1.0
    polygon = np.array([[300, 30], [1300, 30], [1300, 1030], [300, 1030]], float)
    assert DepthImage(values, 0.0).interval(polygon)[0] == 1.0
