"""Zones contain what they say they contain, and promise nothing that the regions do not.

The truth is a world of points in metres: every person is one that fits the stated assumptions (stature, bones, speed),
moves by as much as it may, and is projected by OpenCV. The zones of the pictures must hold the projections.
"""

from __future__ import annotations

import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import person_image
from world_person import CAMERA, person_in_view, posed, random_body

from probpose_ros import Pipeline, PipelineConfig, body
from probpose_ros.camera import Camera, view_corners
from probpose_ros.config import ConfigError, NodeConfig
from probpose_ros.depth import DepthImage
from probpose_ros.support import polygons_around
from probpose_ros.types import FrameResult, FrameState, KeypointState, Person, RegionKind
from probpose_ros.zones import RangeSource, apparent_size, bodies, zones_at

CONFIG = NodeConfig()


@pytest.fixture(scope="module")
def person(tiny_detector_model, tiny_pose_model) -> Person:
    models = {"detector": str(tiny_detector_model), "model": str(tiny_pose_model)}
    config = PipelineConfig(**models, presence_in=0.01, presence_out=0)
    (person,) = Pipeline(config)(person_image((40, 40, 100, 200))).people
    return person


def person_zone(person: Person):
    """Of the picture that person() is from, in the moment of the image, without a camera."""
    return zones_at(bodies(FrameResult((person,), 320, 240, FrameState.OK), CONFIG), 0.0, CONFIG)[0]


def calibrated(person: Person) -> Person:
    """As if its regions were calibrated."""
    regions = replace(person.regions, kind=RegionKind.MARGINAL, valid=np.ones_like(person.regions.valid))
    return replace(person, regions=regions)


def inside(polygon: np.ndarray, point: np.ndarray) -> float:
    """Signed distance in px, positive inside."""
    return cv2.pointPolygonTest(polygon[:, None], tuple(map(float, point)), True)


def frame(*people: Person) -> FrameResult:
    return FrameResult(people, CAMERA.width, CAMERA.height, FrameState.OK)


def with_states(person: Person, states: dict[int, KeypointState]) -> Person:
    changed = person.states.copy()
    for k, state in states.items():
        changed[k] = state
    return replace(person, states=changed)


# --- the shapes


@pytest.mark.parametrize("seed", range(50))
def test_polygons_contain_points_and_are_little_larger_than_their_hull(seed):
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(rng.integers(1, 9), 2)) * 10 ** rng.uniform(0, 3)).astype(np.float32)
    polygon = polygons_around(points.astype(np.float64)).astype(np.float32)
    assert min(inside(polygon, point) for point in points) >= -1e-3 * abs(points).max()
    hull = cv2.convexHull(points)
    (_, size, _) = cv2.minAreaRect(points)
    # At most a needle's tenth on both sides of every side.
    assert cv2.contourArea(polygon) <= cv2.contourArea(hull) + 0.2 * max(size) ** 2 + 1e-3 * abs(points).max()


def test_the_polygon_of_a_circle():
    angle = np.linspace(0, 2 * np.pi, 3601)
    polygon = polygons_around(np.column_stack([np.cos(angle), np.sin(angle)]))
    assert cv2.contourArea(polygon.astype(np.float32)) == pytest.approx(16 * np.tan(np.pi / 16), rel=1e-4)


# --- what they contain


def test_contains_every_region_and_the_bbox(person):
    zone = person_zone(calibrated(person))
    assert zone.valid and zone.kind == RegionKind.MARGINAL and zone.level == np.float32(0.95)
    points = np.concatenate([polygons[-1] for polygons in person.regions.polygons])
    x0, y0, x1, y1 = person.bbox
    for point in [*points, (x0, y0), (x1, y0), (x1, y1), (x0, y1)]:
        assert inside(zone.polygon, point) >= -1e-3


@pytest.mark.parametrize("seed", range(20))
def test_each_part_contains_the_regions_of_its_joints_and_the_person_all_parts(seed):
    picture = person_in_view(random_body(np.random.default_rng(seed)))
    own, *parts = zones_at(bodies(frame(picture), CONFIG, CAMERA), 0.0, CONFIG, CAMERA)
    assert [own.part, *(zone.part for zone in parts)] == ["person", *(part.name for part in body.PARTS)]
    for zone, part in zip(parts, body.PARTS, strict=True):
        for k in part.joints:
            assert min(inside(zone.polygon, corner) for corner in picture.regions.polygons[k][-1]) >= 0
        assert min(inside(own.polygon, corner) for corner in zone.polygon) >= -0.01


@pytest.mark.parametrize("seed", range(20))
def test_what_moved_at_the_assumed_speed_is_still_inside_the_image_zone(seed):
    """Joints of every person that fits the assumptions, moved in any direction, without any depth."""
    rng = np.random.default_rng(seed)
    joints = random_body(rng)
    people = bodies(frame(person_in_view(joints)), CONFIG, CAMERA)
    for age in rng.uniform(0, 0.4, 5):
        own, *parts = zones_at(people, age, CONFIG, CAMERA)
        for zone, part in zip(parts, body.PARTS, strict=True):
            speed = CONFIG.zone_arm_speed if part.arm else CONFIG.zone_body_speed
            for k in part.joints:
                direction = rng.normal(size=3)
                moved = joints[k] + speed * age * direction / np.linalg.norm(direction)
                pixel = cv2.projectPoints(moved[None], np.zeros(3), np.zeros(3), CAMERA.matrix, None)[0][0, 0]
                assert inside(zone.polygon, pixel) >= 0 and inside(own.polygon, pixel) >= 0


def test_inflation_grows_with_age_and_ends_in_the_whole_view():
    people = bodies(frame(person_in_view(posed())), CONFIG, CAMERA)
    before = zones_at(people, 0.0, CONFIG, CAMERA)
    for age in (0.03, 0.1, 0.2, 0.4, 0.6, 1.0, 3.0):
        after = zones_at(people, age, CONFIG, CAMERA)
        for small, large in zip(before, after, strict=True):
            assert min(inside(large.polygon, corner) for corner in small.polygon) >= 0
            assert not (large.valid and not small.valid)
        before = after
    view = view_corners(CAMERA.width, CAMERA.height)
    for zone in before:
        assert not zone.valid and min(inside(zone.polygon, corner) for corner in view) > 0


def test_an_age_that_is_not_known_is_the_whole_view():
    for zone in zones_at(bodies(frame(person_in_view(posed())), CONFIG, CAMERA), float("nan"), CONFIG, CAMERA):
        assert not zone.valid and np.isnan(zone.distance) and np.isfinite(zone.polygon).all()
        assert min(inside(zone.polygon, corner) for corner in view_corners(CAMERA.width, CAMERA.height)) > 0


def test_zones_without_the_limbs_and_ids_change_nothing():
    picture = person_in_view(posed())
    alone = replace(CONFIG, zone_limbs=False)
    (own,) = zones_at(bodies(frame(picture), alone, CAMERA), 0.1, alone, CAMERA)
    named = bodies(frame(replace(picture, id=7)), CONFIG, CAMERA)
    first = zones_at(named, 0.1, CONFIG, CAMERA)[0]
    np.testing.assert_array_equal(own.polygon, first.polygon)
    assert (own.person_id, first.person_id) == (-1, 7)


# --- what is not known


@pytest.mark.parametrize("state", [KeypointState.OUT, KeypointState.IN_OR_OUT])
def test_a_joint_that_may_be_out_is_bounded_by_the_bones(state):
    """Wherever bones of a fitting person let the joint be, the zone holds it; and the zone keeps its promise."""
    rng = np.random.default_rng(3)
    joints = posed()
    left_knee, left_ankle = 13, 15
    picture = with_states(person_in_view(joints), {left_knee: state, left_ankle: state})
    own, *parts = zones_at(bodies(frame(picture), CONFIG, CAMERA), 0.0, CONFIG, CAMERA)
    thigh, shin = (next(zone for zone in parts if zone.part == name) for name in ("left_thigh", "left_shin"))
    assert own.valid and thigh.valid and shin.valid
    for _ in range(300):
        stature = rng.uniform(1.4, 1.7)  # not larger than the person of posed(), who tells the scale
        directions = rng.normal(size=(2, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        knee = joints[11] + 0.245 * stature * directions[0]
        ankle = knee + 0.246 * stature * directions[1]
        pixels = cv2.projectPoints(np.array([knee, ankle]), np.zeros(3), np.zeros(3), CAMERA.matrix, None)[0][:, 0]
        assert inside(thigh.polygon, pixels[0]) >= 0 and inside(shin.polygon, pixels[1]) >= 0
    elsewhere = next(zone for zone in parts if zone.part == "right_forearm")
    plain = zones_at(bodies(frame(person_in_view(joints)), CONFIG, CAMERA), 0.0, CONFIG, CAMERA)
    np.testing.assert_allclose(elsewhere.polygon, next(z for z in plain if z.part == "right_forearm").polygon, rtol=0.2)


def test_an_unknown_joint_joins_the_window_and_makes_its_parts_invalid(person):
    picture = with_states(calibrated(person), {9: KeypointState.UNKNOWN})
    zone = person_zone(picture)
    assert not zone.valid
    x0, y0, x1, y1 = person.window
    for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)):
        assert inside(zone.polygon, corner) >= -1e-3
    zones = zones_at(bodies(frame(with_states(person_in_view(posed()), {9: 0})), CONFIG, CAMERA), 0.0, CONFIG, CAMERA)
    assert {zone.part for zone in zones if not zone.valid} == {"person", "left_forearm"}


def test_nobody_joint_in_or_too_few_bones_to_tell_the_size_is_the_whole_view():
    picture = person_in_view(posed())
    nowhere = with_states(picture, dict.fromkeys(range(17), KeypointState.OUT))
    close_up = with_states(picture, dict.fromkeys(range(7, 17), KeypointState.OUT))
    assert np.isnan(apparent_size(close_up, CONFIG)).all()
    for hidden in (nowhere, close_up):
        for zone in zones_at(bodies(frame(hidden), CONFIG, CAMERA), 0.0, CONFIG, CAMERA):
            assert not zone.valid
            assert min(inside(zone.polygon, corner) for corner in view_corners(CAMERA.width, CAMERA.height)) > 0
    # Depth tells the distance; then the head is bounded, and far enough away the unseen legs are too.
    for distance, all_bounded in ((1.5, False), (4.0, True)):
        depth = DepthImage(np.full((480, 640), distance, np.float32), 0.0)
        own, head, *_ = zones_at(bodies(frame(close_up), CONFIG, CAMERA, depth, 0.0), 0.0, CONFIG, CAMERA)
        assert head.valid and own.valid == all_bounded


def test_without_calibration_or_regions_nothing_is_promised(person):
    assert person_zone(person).kind == RegionKind.UNKNOWN
    assert not person_zone(person).valid
    bare = person_zone(replace(person, regions=None))
    assert not bare.valid and np.isnan(bare.level)
    x0, y0, x1, y1 = person.window
    assert inside(bare.polygon, (x0, y0)) >= -1e-3 and inside(bare.polygon, (x1, y1)) >= -1e-3


def test_a_region_that_is_not_valid_makes_its_parts_invalid():
    picture = person_in_view(posed())
    valid = picture.regions.valid.copy()
    valid[16, -1] = False
    picture = replace(picture, regions=replace(picture.regions, valid=valid))
    zones = zones_at(bodies(frame(picture), CONFIG, CAMERA), 0.0, CONFIG, CAMERA)
    assert {zone.part for zone in zones if not zone.valid} == {"person", "right_shin"}


def test_without_camera_info_the_zones_are_no_smaller_than_with_a_narrower_lens():
    people = frame(person_in_view(posed()))
    blind = zones_at(bodies(people, CONFIG), 0.1, CONFIG)
    known = zones_at(bodies(people, CONFIG, CAMERA), 0.1, CONFIG, CAMERA)  # 56 degrees wide
    for a, b in zip(blind, known, strict=True):
        assert min(inside(a.polygon, corner) for corner in b.polygon) >= -0.01
        assert len(a.points) == 0 and np.isnan(a.distance) and a.source == RangeSource.UNKNOWN


def test_statures_the_wrong_way_round_are_refused():
    with pytest.raises(ConfigError, match="shortest_person = 2.1: must not be above tallest_person = 2.0"):
        NodeConfig(shortest_person=2.1)


numbers = st.floats(width=32) | st.sampled_from([0.0, 1e30, float("nan"), float("inf")])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(numbers, min_size=4, max_size=4), st.lists(numbers, min_size=34, max_size=34),
    st.lists(st.integers(0, 3), min_size=17, max_size=17), st.booleans(), numbers,
)  # fmt: skip
def test_whatever_the_numbers_polygons_are_finite_and_nothing_is_promised_about_nonsense(
    box, points, states, seen, age
):
    """Nonsense in a result: never an error, never a polygon that is none, and no promise without a regular bbox."""
    picture = person_in_view(posed())
    picture = replace(
        picture, bbox=np.array(box, np.float32), keypoints=np.array(points, np.float32).reshape(17, 2),
        states=np.array(states, np.uint8), regions=picture.regions if seen else None,
    )  # fmt: skip
    depth = DepthImage(np.full((480, 640), 2.9, np.float32), 0.0)
    with np.errstate(all="ignore"):
        for camera, image in ((CAMERA, depth), (CAMERA, None), (None, None)):
            for zone in zones_at(bodies(frame(picture), CONFIG, camera, image, 0.0), age, CONFIG, camera):
                assert np.isfinite(zone.polygon).all() and zone.polygon.shape == (16, 2)
                assert seen or not zone.valid
                assert np.isnan(zone.distance) or zone.distance >= 0


def test_a_person_of_no_size_is_at_an_unknown_distance():
    picture = replace(
        person_in_view(posed()), bbox=np.zeros(4, np.float32), keypoints=np.zeros((17, 2), np.float32),
        states=np.full(17, KeypointState.IN, np.uint8), regions=None,
    )  # fmt: skip
    for camera in (CAMERA, None):
        for zone in zones_at(bodies(frame(picture), CONFIG, camera, None, 0.0), 0.1, CONFIG, camera):
            assert np.isfinite(zone.polygon).all() and not zone.valid and np.isnan(zone.distance)


# --- metres


def in_convex_hull(point: np.ndarray, near: float, far: float, camera: Camera, zone) -> bool:
    """Whether a point (3,) lies in the zone's volume: between its faces, its projection in the ray polygon."""
    ray = (point[:2] / point[2]).astype(np.float32)
    return (
        near <= point[2] <= far
        and cv2.pointPolygonTest(zone.rays.astype(np.float32)[:, None], tuple(map(float, ray)), True) >= -1e-5
    )


@pytest.mark.parametrize("lens", [(), (-0.25, 0.08, 0.001, -0.001, -0.01), (0.2, -0.05, 0.0, 0.0)])
@pytest.mark.parametrize("seed", range(5))
def test_volumes_hold_whoever_moved_in_metres(seed, lens):
    """A person's surface in a rendered depth image, through a lens: the volume of every part holds its joints."""
    rng = np.random.default_rng(seed)
    camera = replace(CAMERA, distortion=lens)
    joints = random_body(rng)
    picture = person_in_view(joints, camera)
    depth = DepthImage(rendered_depth(joints, camera), 0.0)
    people = bodies(frame(picture), CONFIG, camera, depth, 0.0)
    for age in (0.0, 0.1, 0.3):
        own, *parts = zones_at(people, age, CONFIG, camera)
        for zone, part in zip(parts, body.PARTS, strict=True):
            speed = CONFIG.zone_arm_speed if part.arm else CONFIG.zone_body_speed
            assert zone.source == RangeSource.DEPTH
            for k in part.joints:
                direction = rng.normal(size=3)
                moved = joints[k] + speed * age * direction / np.linalg.norm(direction)
                assert in_convex_hull(moved, zone.near, zone.far, camera, zone)
                assert zone.distance <= np.linalg.norm(moved) and own.distance <= zone.distance + 1e-9


def rendered_depth(joints: np.ndarray, camera: Camera, background: float = 6.0) -> np.ndarray:
    """(h, w) float32 m: discs of 8 cm around the points on the bones, their front 8 cm nearer than the bone."""
    depth = np.full((camera.height, camera.width), background, np.float32)
    for part in body.PARTS:
        for a in part.joints:
            for b in part.joints:
                for t in np.linspace(0, 1, 12):
                    point = joints[a] + t * (joints[b] - joints[a])
                    pixel = cv2.projectPoints(
                        point[None], np.zeros(3), np.zeros(3), camera.matrix, np.array(camera.distortion or [0.0] * 4)
                    )[0][0, 0]
                    mask = np.zeros(depth.shape, np.uint8)
                    cv2.circle(mask, tuple(int(v) for v in pixel.round()), int(0.08 * camera.fx / point[2]), 1, -1)
                    depth[(mask > 0) & (depth > point[2] - 0.08)] = point[2] - 0.08
    return depth


def test_distance_is_that_of_the_nearest_point():
    depth = DepthImage(np.full((480, 640), 2.5, np.float32), 0.0)
    for where in ((0.0, 0.0), (0.6, 0.2)):
        joints = posed(x=where[0], y=where[1], z=2.6)
        for zone in zones_at(bodies(frame(person_in_view(joints)), CONFIG, CAMERA, depth, 0.0), 0.0, CONFIG, CAMERA):
            assert zone.near == pytest.approx(2.5, abs=1.2) and zone.near <= 2.5
            # Sampled: the near face, densely.
            weights = np.random.default_rng(0).dirichlet(np.full(len(zone.rays), 0.2), 20000)
            face = np.column_stack([weights @ zone.rays, np.ones(len(weights))]) * zone.near
            assert zone.distance <= np.linalg.norm(face, axis=1).min() + 1e-9
            assert zone.distance == pytest.approx(np.linalg.norm(face, axis=1).min(), abs=0.05)
            assert len(zone.points) == 2 * len(zone.rays)
            np.testing.assert_allclose(zone.points[: len(zone.rays), 2], zone.near)


def test_depth_makes_zones_tighter_and_age_moves_them_closer():
    people = frame(person_in_view(posed(z=3.0)))
    depth = DepthImage(np.full((480, 640), 2.9, np.float32), 0.0)
    measured = bodies(people, CONFIG, CAMERA, depth, 0.0)
    for a, b in zip(zones_at(measured, 0.1, CONFIG, CAMERA), zones_at(bodies(people, CONFIG, CAMERA), 0.1, CONFIG)):
        assert cv2.contourArea(a.polygon) < cv2.contourArea(b.polygon)
    now, later = (zones_at(measured, age, CONFIG, CAMERA) for age in (0.0, 0.5))
    for a, b, part in zip(now[1:], later[1:], body.PARTS):
        speed = CONFIG.zone_arm_speed if part.arm else CONFIG.zone_body_speed
        assert a.near == pytest.approx(2.9) and a.near - b.near == pytest.approx(0.5 * speed)
        assert b.far - a.far == pytest.approx(0.5 * speed)
    assert zones_at(measured, 5.0, CONFIG, CAMERA)[0].distance == 0.0


def test_depth_of_another_time_counts_as_movement_or_not_at_all():
    people = frame(person_in_view(posed()))
    depth = DepthImage(np.full((480, 640), 2.9, np.float32), 10.0)
    same = zones_at(bodies(people, CONFIG, CAMERA, depth, 10.0), 0.0, CONFIG, CAMERA)[0]
    late = zones_at(bodies(people, CONFIG, CAMERA, depth, 10.04), 0.0, CONFIG, CAMERA)[0]
    assert same.near - late.near == pytest.approx(0.04 * CONFIG.zone_arm_speed)
    for stamp in (10.2, 9.8, float("nan")):
        zone = zones_at(bodies(people, CONFIG, CAMERA, depth, stamp), 0.0, CONFIG, CAMERA)[0]
        assert zone.source == RangeSource.UNKNOWN and np.isnan(zone.distance)


def test_an_assumed_range_holds_everybody_who_fits_and_is_off_by_default():
    config = replace(CONFIG, assume_range=True)
    for seed in range(30):
        joints = random_body(np.random.default_rng(seed))
        people = frame(person_in_view(joints))
        own, *parts = zones_at(bodies(people, config, CAMERA), 0.0, config, CAMERA)
        assert own.source == RangeSource.ASSUMED
        for zone, part in zip(parts, body.PARTS, strict=True):
            for k in part.joints:
                assert in_convex_hull(joints[k], zone.near, zone.far, CAMERA, zone)
        assert zones_at(bodies(people, CONFIG, CAMERA), 0.0, CONFIG, CAMERA)[0].source == RangeSource.UNKNOWN


def test_what_leaves_the_image_may_come_nearer_there():
    depth = DepthImage(np.full((480, 640), 2.9, np.float32), 0.0)
    whole = zones_at(bodies(frame(person_in_view(posed())), CONFIG, CAMERA, depth, 0.0), 0.0, CONFIG, CAMERA)
    cut = zones_at(bodies(frame(person_in_view(posed(y=0.6))), CONFIG, CAMERA, depth, 0.0), 0.0, CONFIG, CAMERA)
    nearer = {a.part for a, b in zip(whole, cut, strict=True) if b.near < a.near - 0.1}
    assert "left_shin" in nearer and "right_shin" in nearer and "head" not in nearer


def test_a_part_that_is_not_measured_is_as_near_as_the_bones_let_it_be():
    """A hand too close to the sensor leaves a hole: its zone comes nearer and grows, the others stay."""
    joints = posed(z=3.0)
    joints[9] = (0.3, 0.0, 2.75)  # left wrist
    picture = person_in_view(joints)
    values = np.full((480, 640), 2.9, np.float32)
    whole = bodies(frame(picture), CONFIG, CAMERA, DepthImage(values, 0.0), 0.0)
    middle = picture.keypoints[[7, 9]].mean(axis=0).round().astype(int)
    values = values.copy()
    values[middle[1] - 40 : middle[1] + 40, middle[0] - 22 : middle[0] + 40] = 0
    holes = bodies(frame(picture), CONFIG, CAMERA, DepthImage(values, 0.0), 0.0)
    for a, b in zip(*(zones_at(people, 0.1, CONFIG, CAMERA) for people in (whole, holes)), strict=True):
        if b.part == "left_forearm":
            bone = 0.146 * (1 + body.TOLERANCE) * CONFIG.tallest_person
            assert a.near - b.near == pytest.approx(bone) and b.source == RangeSource.DEPTH
            assert cv2.contourArea(b.polygon) > 1.1 * cv2.contourArea(a.polygon)
        elif b.part not in ("person", "left_upper_arm"):
            np.testing.assert_array_equal(a.polygon, b.polygon)
            assert a.near == b.near


def test_zones_of_a_person_take_well_under_a_millisecond():
    people = frame(person_in_view(posed()))
    depth = DepthImage(np.full((480, 640), 2.9, np.float32), 0.0)
    took = []
    for _ in range(50):
        began = time.thread_time()
        zones_at(bodies(people, CONFIG, CAMERA, depth, 0.0), 0.1, CONFIG, CAMERA)
        took.append(time.thread_time() - began)
    assert min(took) < 1e-3, f"{1e3 * min(took):.2f} ms"
