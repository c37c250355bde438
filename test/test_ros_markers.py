"""Markers as RViz would read them: every corner, projected by OpenCV through the lens, lies on what it stands for."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("visualization_msgs.msg", reason="needs ROS 2 (make test installs it)")
pytestmark = pytest.mark.ros

from std_msgs.msg import Header  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402
from world_person import CAMERA, person_in_view, posed  # noqa: E402

from probpose_ros.config import NodeConfig  # noqa: E402
from probpose_ros.depth import DepthImage  # noqa: E402
from probpose_ros.ros import markers as m  # noqa: E402
from probpose_ros.types import FrameResult, FrameState, KeypointState  # noqa: E402
from probpose_ros.zones import bodies, zones_at  # noqa: E402

CONFIG = NodeConfig()
LENS = replace(CAMERA, distortion=(-0.2, 0.05, 0.0005, -0.0005, 0.0))


def made(
    state: FrameState = FrameState.OK, depth: bool = True, out: int | None = None
) -> tuple[dict, list, FrameResult]:
    picture = person_in_view(posed(z=3.0), LENS)
    if out is not None:
        states = picture.states.copy()
        states[out] = KeypointState.OUT
        picture = replace(picture, states=states)
    result = FrameResult((picture,), LENS.width, LENS.height, state)
    image = DepthImage(np.full((480, 640), 2.9, np.float32), 0.0) if depth else None
    zones = zones_at(bodies(result, CONFIG, LENS, image, 0.0), 0.0, CONFIG, LENS)
    array: MarkerArray = m.people_markers(result, zones, Header(frame_id="cam"), LENS, CONFIG)
    return {marker.ns: marker for marker in array.markers}, zones, result


def points(marker: Marker) -> np.ndarray:
    return np.array([(p.x, p.y, p.z) for p in marker.points])


def pixels(marker: Marker) -> np.ndarray:
    return cv2.projectPoints(points(marker), np.zeros(3), np.zeros(3), LENS.matrix, np.array(LENS.distortion))[0][:, 0]


def test_what_rviz_asks_of_markers() -> None:
    found, _, _ = made()
    assert [found[name].type for name in ("ellipses", "skeleton", "joints")] == [
        Marker.TRIANGLE_LIST, Marker.LINE_LIST, Marker.SPHERE_LIST
    ]  # fmt: skip
    assert len({marker.id for marker in found.values()}) == len(found) == 6
    for marker in found.values():
        assert marker.action == Marker.ADD and marker.header.frame_id == "cam" and marker.pose.orientation.w == 1
        assert len(marker.colors) == len(marker.points) > 0 and marker.color.a == 1
        assert 0 < marker.lifetime.sec + 1e-9 * marker.lifetime.nanosec < 0.31 and min(points(marker)[:, 2]) > 0
        if marker.type == Marker.LINE_LIST:
            assert len(marker.points) % 2 == 0 and 0 < marker.scale.x < 0.1
    assert len(found["ellipses"].points) % 3 == 0
    scale = found["ellipses"].scale
    assert (scale.x, scale.y, scale.z) == (1, 1, 1)


def test_joints_and_ellipses_lie_on_their_pixels_through_the_lens() -> None:
    found, zones, result = made()
    np.testing.assert_allclose(pixels(found["joints"]), result.people[0].keypoints, atol=0.01)
    assert (points(found["joints"])[:, 2] == zones[0].near).all()  # at the measured distance
    rims = pixels(found["ellipses"]).reshape(17, -1, 2)
    radius = np.linalg.norm(rims - result.people[0].keypoints[:, None], axis=2)
    np.testing.assert_allclose(radius, 4.5, atol=0.05)  # the region of the drawn level, 0.5
    areas = [cv2.contourArea(triangle.astype(np.float32)) for triangle in rims.reshape(-1, 3, 2)]
    assert sum(areas) / 17 == pytest.approx(12 / 2 * 4.5**2 * np.sin(np.pi / 6), rel=0.02)  # a filled dodecagon


def test_volumes_are_the_edges_of_the_zone_in_metres() -> None:
    found, zones, _ = made()
    corners, seen = zones[0].points, points(found["volumes"])
    assert len(seen) == 2 * 3 * len(corners) // 2
    assert max(np.abs(corners - point).sum(axis=1).min() for point in seen) < 1e-6
    assert max(np.abs(seen - corner).sum(axis=1).min() for corner in corners) < 1e-6


def test_without_depth_everything_is_at_the_marker_depth() -> None:
    found, _, _ = made(depth=False)
    assert found.pop("volumes").action == Marker.DELETE
    assert all((points(marker)[:, 2] == CONFIG.marker_depth).all() for marker in found.values())


@pytest.mark.parametrize(
    "state, color", [(FrameState.OK, m.ZONE_COLOR), (FrameState.STALE, m.STALE_COLOR)], ids=["ok", "stale"]
)
def test_zones_are_coloured_by_state(state: FrameState, color: tuple) -> None:
    found, _, _ = made(state)
    drawn = {(round(c.r, 3), round(c.g, 3), round(c.b, 3)) for c in found["zones"].colors}
    assert drawn == {tuple(round(value, 3) for value in color)}


def test_what_is_unknown_outlines_the_whole_view_and_a_joint_that_is_out_is_not_drawn() -> None:
    result = FrameResult((), LENS.width, LENS.height, FrameState.UNKNOWN)
    array = m.people_markers(result, [], Header(frame_id="cam"), LENS, CONFIG)
    (view,) = [marker for marker in array.markers if marker.action == Marker.ADD]
    assert view.ns == "zones"
    corners = pixels(view)
    assert corners.min() == pytest.approx(0, abs=0.1) and corners.max(axis=0) == pytest.approx((639, 479), abs=0.1)
    assert len(made(out=15)[0]["joints"].points) == 16
