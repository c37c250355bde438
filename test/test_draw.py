"""The overlay shows what the result says and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from probpose_ros.draw import COLORS, OUTSIDE, draw
from probpose_ros.types import FrameResult, FrameState, KeypointState, Person, RegionKind, Regions

IMAGE = np.full((480, 640, 3), 128, np.uint8)


def person(state: KeypointState = KeypointState.IN, points: np.ndarray | None = None, regions: bool = True) -> Person:
    """A person whose joints lie on a grid 60 px apart, all in one state, regions of 10 x 5 px."""
    grid = np.array([[200 + 60 * (k % 4), 100 + 60 * (k // 4)] for k in range(17)], np.float32)
    points = grid if points is None else points
    ellipses = np.zeros((17, 1, 5), np.float32)
    ellipses[:, 0, :2], ellipses[:, 0, 2:4] = points, (10, 5)
    numbers = np.full(17, np.nan if state == KeypointState.UNKNOWN else 0.5, np.float32)
    return Person(
        score=0.9,
        bbox=np.array([180, 80, 400, 360], np.float32),
        window=np.array([100, 40, 480, 400], np.float32),
        keypoints=points,
        presence=numbers, visibility=numbers, quality=numbers, peak=numbers,
        states=np.full(17, state, np.uint8),
        regions=Regions(
            levels=np.array([0.95], np.float32), kind=RegionKind.UNKNOWN, valid=np.zeros((17, 1), bool),
            ellipses=ellipses, areas=np.full((17, 1), 157, np.float32), polygons=(),
            covariances=np.zeros((17, 3), np.float32),
        ) if regions else None,
    )  # fmt: skip


def frame(*people: Person) -> FrameResult:
    return FrameResult(people, 640, 480, FrameState.OK if people else FrameState.NO_PERSON_DETECTED)


def shows(canvas: np.ndarray, color: tuple[int, int, int], tolerance: int = 12) -> np.ndarray:
    """(H, W) bool: where the colour is."""
    return (np.abs(canvas.astype(int) - color) <= tolerance).all(-1)


@pytest.mark.parametrize("state", [KeypointState.IN, KeypointState.IN_OR_OUT])
def test_joints_have_the_colour_of_their_state(state):
    one = person(state)
    canvas = draw(IMAGE, frame(one), legend=False)
    assert canvas.shape == IMAGE.shape and canvas.dtype == np.uint8
    for x, y in one.keypoints.astype(int):
        assert shows(canvas, COLORS[state])[y, x]
    other = COLORS[KeypointState.OUT]
    assert not shows(canvas, other).any()


def test_out_is_a_hollow_ring_without_region_or_bone():
    one = person(KeypointState.OUT)
    canvas = draw(IMAGE, frame(one), legend=False)
    assert shows(canvas, COLORS[KeypointState.OUT]).sum() > 17 * 8
    for x, y in one.keypoints.astype(int):
        assert (canvas[y, x] == IMAGE[y, x]).all()  # hollow
        assert (canvas[y, x + 9] == IMAGE[y, x + 9]).all() or x + 9 > 400  # no region of 10 px
    assert not shows(canvas, COLORS[KeypointState.IN]).any()


def test_unknown_has_no_place():
    nowhere = np.full((17, 2), np.nan, np.float32)
    one = person(KeypointState.UNKNOWN, nowhere)
    boxes_only = draw(IMAGE, frame(replace(one, regions=None)), legend=False)
    np.testing.assert_array_equal(draw(IMAGE, frame(one), legend=False), boxes_only)
    # Unknown is counted in the legend.
    assert (draw(IMAGE, frame(one)) != boxes_only).any()


def test_regions_are_filled_translucently():
    with_regions = draw(IMAGE, frame(person()), legend=False)
    without = draw(IMAGE, frame(person(regions=False)), legend=False)
    x, y = person().keypoints[3].astype(int)  # an ear: its bones lead up and left
    spot = (y, x + 7)
    assert (without[spot] == IMAGE[spot]).all()
    assert with_regions[spot][1] > 128 and not shows(with_regions, COLORS[KeypointState.IN])[spot]


def test_margin_shows_joints_outside_the_image():
    points = person().keypoints.copy()
    points[16] = (320, 520)  # 40 px below the image
    one = person(points=points)
    canvas = draw(IMAGE, frame(one), margin=0.1, legend=False)
    assert canvas.shape == (480 + 128, 640 + 128, 3)
    assert shows(canvas, COLORS[KeypointState.IN])[520 + 64, 320 + 64]
    assert shows(canvas, OUTSIDE)[5, 5]
    np.testing.assert_array_equal(canvas[64 + 5, 64 + 5], IMAGE[5, 5])


@pytest.mark.parametrize(("point", "rows", "columns"), [
    ((320, 2000), slice(460, 480), slice(300, 340)),
    ((-1e7, 240), slice(220, 260), slice(0, 20)),
])  # fmt: skip
def test_joints_beyond_the_canvas_become_arrows_at_its_edge(point, rows, columns):
    points = np.full((17, 2), np.nan, np.float32)
    points[16] = point
    one = replace(person(points=points, regions=False), bbox=np.array([300, 200, 301, 201], np.float32))
    states = np.zeros(17, np.uint8)
    states[16] = KeypointState.IN
    canvas = draw(IMAGE, frame(replace(one, states=states)), legend=False)
    arrow = shows(canvas, COLORS[KeypointState.IN], tolerance=60)
    assert arrow[rows, columns].sum() > 5
    arrow[rows, columns] = False
    assert not arrow.any()


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (60, 80), (1080, 1920)])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_any_size(shape, margin):
    image = np.zeros((*shape, 3), np.uint8)
    before = image.copy()
    for people in ((), (person(), person(KeypointState.OUT))):
        canvas = draw(image, frame(*people), margin)
        assert canvas.shape[0] == shape[0] + 2 * round(margin * max(shape))
    np.testing.assert_array_equal(image, before)
    assert canvas is not image


def test_an_empty_image_says_so_but_only_where_there_is_room():
    assert (draw(IMAGE, frame()) != IMAGE).any()
    np.testing.assert_array_equal(draw(IMAGE, frame(), legend=False), IMAGE)
    small = IMAGE[:40, :40]
    np.testing.assert_array_equal(draw(small, frame()), small)
