"""Zones as points: dense enough for whoever counts points or measures the distance to them, and never none.

The consumers stand here in a few lines, after reading what they do with a message: Nav2's collision_monitor counts the
points in a polygon on the ground, ssm_safety takes the distance from each robot link to each point.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree
from world_person import CAMERA, person_in_view, posed

from probpose_ros.camera import Camera
from probpose_ros.config import NodeConfig
from probpose_ros.depth import DepthImage
from probpose_ros.fill import FAR_AWAY, FEWEST_POINTS, MOST_POINTS, fill, fill_zones, nobody, wall
from probpose_ros.types import FrameResult, FrameState
from probpose_ros.zones import bodies, zones_at

CONFIG = NodeConfig()
SPACING, REACH = CONFIG.zone_spacing, CONFIG.zone_range


def zones(z: float, depth: bool, config: NodeConfig = CONFIG) -> list:
    """Of somebody who stands z m before the camera, 50 ms ago."""
    result = FrameResult((person_in_view(posed(z=z)),), CAMERA.width, CAMERA.height, FrameState.OK)
    image = DepthImage(np.full((480, 640), z - 0.1, np.float32), 0.0) if depth else None
    return zones_at(bodies(result, config, CAMERA, image, 0.0), 0.05, config, CAMERA)


def on_robot(points: np.ndarray) -> np.ndarray:
    """Optical frame -> base: x ahead, y left, z up; the camera looks ahead from 0.2 m before and 0.8 m above it."""
    return points @ np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]) + [0.2, 0.0, 0.8]


def collision_monitor(points: np.ndarray, polygon: np.ndarray, low: float, high: float, jazzy: bool) -> bool:
    """Whether at least 4 points are in the polygon. Humble cuts the height in the base, Jazzy in the cloud's frame."""
    base = on_robot(points)
    kept = (points if jazzy else base)[:, 2]
    kept = base[(kept >= low) & (kept <= high)]
    count = sum(
        cv2.pointPolygonTest(polygon.astype(np.float32)[:, None], tuple(map(float, point)), False) >= 0
        for point in kept[:, :2]
    )
    return count >= 4


def ahead(start: float, end: float, width: float = 0.4) -> np.ndarray:
    return np.array([[start, -width / 2], [end, -width / 2], [end, width / 2], [start, width / 2]])


def links_distance(points: np.ndarray, link: np.ndarray, ignored_below: float = 0.15) -> float:
    """ssm_safety's: from a link to the nearest point that is not taken for the robot itself; infinity lets it run."""
    distance = np.linalg.norm(points - link, axis=1)
    return distance[distance >= ignored_below].min(initial=np.inf)


@pytest.mark.parametrize("seed", range(20))
def test_no_place_of_a_frustum_is_far_from_a_point_and_no_point_outside(seed):
    rng = np.random.default_rng(seed)
    polygon = cv2.convexHull(rng.uniform(-0.6, 0.6, (6, 2)).astype(np.float32))[:, 0].astype(float)
    near = rng.uniform(0.1, 3)
    far = near + rng.uniform(0.0, 2)
    points = fill(polygon, near, far, 0.2)
    assert 0 < len(points) <= MOST_POINTS and np.isfinite(points).all()
    assert points[:, 2].min() == pytest.approx(near) and points[:, 2].max() == pytest.approx(max(far, near + 1e-3))
    rays = (points[:, :2] / points[:, 2:]).astype(np.float32)
    outline = polygon.astype(np.float32)[:, None]
    assert min(cv2.pointPolygonTest(outline, tuple(map(float, ray)), True) for ray in rays) > -1e-4
    # Anywhere inside: a grid of 0.2 m has no place farther than half its diagonal from a point; at the border, 0.2 m.
    inside = rng.dirichlet(np.ones(len(polygon)), 500) @ polygon
    depths = rng.uniform(near, far, (500, 1))
    places = np.column_stack([inside * depths, depths])
    assert cKDTree(points).query(places)[0].max() <= 0.2 * np.sqrt(3)


def test_the_number_of_points_is_limited():
    wide = np.array([[-2, -2], [2, -2], [2, 2], [-2, 2]], float)
    assert 500 < len(fill(wide, 0.0, 50.0, 0.05)) <= MOST_POINTS


@pytest.mark.parametrize("jazzy", [False, True])
@pytest.mark.parametrize("depth", [False, True])
def test_nav2_stops_before_a_person_with_the_documented_heights(jazzy, depth):
    points = fill_zones(zones(3.5, depth), REACH, SPACING)
    assert collision_monitor(points, ahead(3.3, 3.9), -1000, 1000, jazzy)
    if depth:  # measured: nobody right before the robot
        assert not collision_monitor(points, ahead(0.3, 2.0), -1000, 1000, jazzy)
    else:  # a person at an unknown distance may be anywhere on the way
        assert collision_monitor(points, ahead(0.3, 0.7), -1000, 1000, jazzy)


def test_nav2s_own_default_heights_would_lose_everybody_on_jazzy():
    """max_height 0.5 m is compared with the depth in the camera's frame: why the documentation sets it."""
    assert not collision_monitor(fill_zones(zones(3.5, True), REACH, SPACING), ahead(3.3, 3.9), 0.05, 0.5, jazzy=True)


@pytest.mark.parametrize("lens", [CAMERA, Camera.assumed(640, 480), replace(CAMERA, fx=1800.0, fy=1800.0)])
def test_a_wall_stops_every_consumer(lens):
    points = wall(lens, REACH, SPACING)
    for start in np.arange(0.3, 4.5, 0.3):
        assert collision_monitor(points, ahead(start, start + 0.4), -1000, 1000, jazzy=True)
    rng = np.random.default_rng(0)
    view = np.array(
        [lens.rays(np.array([x, y])) for x, y in rng.uniform(0, (lens.width - 1, lens.height - 1), (200, 2))]
    )
    depths = rng.uniform(0.2, REACH, (200, 1))
    for link in np.column_stack([view * depths, depths]):
        assert links_distance(points, link) < 0.5


def test_nobody_is_four_points_out_of_reach():
    points = nobody(CAMERA)
    assert points.shape == (4, 3) and (points[:, 2] == FAR_AWAY).all()
    assert not collision_monitor(points, ahead(0.2, 10, 5), -1000, 1000, jazzy=True)
    assert links_distance(points, np.array([0.0, 0.0, 1.0])) > 90


def test_ssm_safety_sees_a_robot_link_inside_a_zone_and_beside_it():
    """Corners alone would leave a link in the middle of a person half a metre from the nearest point."""
    points = fill_zones(zones(2.0, True), REACH, SPACING)
    chest = posed(z=2.0)[[5, 6, 11, 12]].mean(axis=0)
    assert links_distance(points, chest) < 0.35
    hand = posed(z=2.0)[9]
    assert links_distance(points, hand + [0, 0, -0.6]) < 0.6


def test_the_parts_stand_for_the_person_where_they_are_there():
    both = zones(2.0, True)
    np.testing.assert_array_equal(fill_zones(both, REACH, SPACING), fill_zones(both[1:], REACH, SPACING))
    assert len(fill_zones(both[:1], REACH, SPACING)) > 100
    crowd = both * 8
    assert len(fill_zones(crowd, REACH, SPACING)) <= FEWEST_POINTS * len(crowd)
