"""Zones in metres and the outputs for consumers that know no states, from real messages through the node."""

from __future__ import annotations

import array
import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from ros_bench import Bench, Header, Image, ZoneArray
from test_ros_node import NOBODY, PEOPLE, camera_info, make, value  # noqa: F401  (make: fixture)

pytestmark = pytest.mark.ros

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from geometry_msgs.msg import PoseArray  # noqa: E402
from sensor_msgs.msg import CameraInfo, PointCloud2  # noqa: E402

from probpose_msgs.msg import Zone  # noqa: E402
from probpose_ros.ros.geometry_input import camera_of, depth_values  # noqa: E402


def depth_image(values: np.ndarray, header: Header, big_endian: bool = False, padding: int = 0) -> Image:
    encoding = {"uint16": "16UC1", "float32": "32FC1"}[values.dtype.name]
    values = values.byteswap() if big_endian == (sys.byteorder == "little") else values
    h, w = values.shape
    rows = np.zeros((h, w * values.itemsize + padding), np.uint8)
    rows[:, : w * values.itemsize] = np.ascontiguousarray(values).view(np.uint8)
    msg = Image(header=header, height=h, width=w, encoding=encoding, step=rows.shape[1], is_bigendian=int(big_endian))
    msg.data = array.array("B", rows.tobytes())
    return msg


# --- messages to numbers


def info(**changes: Any) -> CameraInfo:
    made = CameraInfo(width=1280, height=960, distortion_model="plumb_bob", d=[-0.3, 0.1, 0.001, 0.002, 0.0])
    made.k = [900.0, 0.0, 640.0, 0.0, 910.0, 480.0, 0.0, 0.0, 1.0]
    made.p = [800.0, 0.0, 630.0, 0.0, 0.0, 800.0, 470.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, new in changes.items():
        setattr(made, name, new)
    return made


def test_raw_images_use_k_and_the_distortion_and_rectified_ones_p() -> None:
    raw, rectified = camera_of(info(), rectified=False), camera_of(info(), rectified=True)
    assert (raw.fx, raw.fy, raw.cx, raw.cy, raw.distortion) == (900, 910, 640, 480, (-0.3, 0.1, 0.001, 0.002, 0.0))
    assert (rectified.fx, rectified.cx, rectified.cy, rectified.distortion) == (800, 630, 470, ())
    point = np.array([[0.4, -0.3, 2.0]])
    matrix = np.array(info().k).reshape(3, 3)
    pixel = cv2.projectPoints(point, np.zeros(3), np.zeros(3), matrix, np.array(info().d))[0][0, 0]
    np.testing.assert_allclose(raw.rays(pixel) * 2.0, point[0, :2], atol=1e-6)


@pytest.mark.parametrize("model, count", [("rational_polynomial", 8), ("equidistant", 4)])
def test_lens_models_are_opencvs(model: str, count: int) -> None:
    d = np.array([0.1, -0.05, 0.002, 0.001, 0.01, 0.02, -0.01, 0.003])[:count]
    camera = camera_of(info(distortion_model=model, d=d.tolist()), rectified=False)
    point, matrix = np.array([[[0.4, -0.3, 2.0]]]), np.array(info().k).reshape(3, 3)
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    pixel = project(point, np.zeros(3), np.zeros(3), matrix, d)[0].reshape(2)
    np.testing.assert_allclose(camera.rays(pixel), point[0, 0, :2] / 2, atol=1e-6)


def test_binning_and_region_of_interest() -> None:
    made = info(binning_x=2, binning_y=2)
    made.roi.x_offset, made.roi.y_offset, made.roi.width, made.roi.height = 100, 60, 800, 600
    camera = camera_of(made, rectified=True)
    assert (camera.fx, camera.cx, camera.cy, camera.width, camera.height) == (400, 265, 205, 400, 300)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"k": [0.0] * 9}, "focal lengths 0.0, 0.0"),
        ({"k": [float("nan")] * 9}, "focal lengths nan"),
        ({"d": [0.1, 0.2]}, "2 distortion coefficients: must be 0, 4, 5, 8, 12 or 14"),
        ({"distortion_model": "equidistant"}, "5 distortion coefficients: must be 4"),
        ({"distortion_model": "thin_prism_fisheye"}, "'thin_prism_fisheye': must be plumb_bob"),
    ],
)
def test_what_is_no_camera_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=f"camera_info has .*{words}"):
        camera_of(info(**changes), rectified=False)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_depth_arrives_whatever_the_byte_order_and_padding(kind: str, big_endian: bool) -> None:
    values = (np.random.default_rng(0).uniform(0, 9, (6, 8)) * (1000 if kind == "uint16" else 1)).astype(kind)
    np.testing.assert_array_equal(depth_values(depth_image(values, Header(), big_endian, padding=12)), values)


def test_a_broken_depth_image_is_refused() -> None:
    good = depth_image(np.ones((6, 8), np.uint16), Header())
    for name, new, words in (
        ("encoding", "rgb8", "'rgb8': must be 16UC1"), ("step", 4, "step of at least 16"), ("height", 7, "7 px in 96"),
        ("width", 0, "0 x 6"),
    ):  # fmt: skip
        old = getattr(good, name)
        setattr(good, name, new)
        with pytest.raises(ValueError, match=words):
            depth_values(good)
        setattr(good, name, old)


# --- through the node


def cloud_points(msg: PointCloud2) -> np.ndarray:
    assert [(f.name, f.offset, f.datatype) for f in msg.fields] == [("x", 0, 7), ("y", 4, 7), ("z", 8, 7)]
    assert (msg.height, msg.point_step, msg.row_step) == (1, 12, 12 * msg.width) and msg.is_dense
    return np.frombuffer(msg.data, "<f4").reshape(msg.width, 3)


def pose_points(msg: PoseArray) -> np.ndarray:
    assert all(pose.orientation.w == 1 for pose in msg.poses)
    return np.array([(p.position.x, p.position.y, p.position.z) for p in msg.poses])


class Scene:
    """The node with a camera, and a client that listens to everything about zones."""

    def __init__(self, make: Callable[..., Bench], points: bool = True, **parameters: Any) -> None:  # noqa: F811
        self.bench = make(presence_in=0.01, presence_out=0.0, **parameters)
        self.bench.listen_to_results()
        self.bench.listen("/diagnostics", DiagnosticArray)
        if points:
            self.bench.listen("zone_cloud", PointCloud2)
            self.bench.listen("zone_poses", PoseArray)
        self.images = self.bench.publisher()
        self.infos, self.depths = self.bench.publisher("camera_info", CameraInfo), self.bench.publisher("depth")
        self.bench.connected()

    def give_camera(self) -> None:
        self.infos.publish(camera_info(self.bench))
        self.bench.until(lambda: self.bench.node.channels[0].camera, "camera_info")

    def look(self, pixels: np.ndarray, depth: np.ndarray | None = None) -> ZoneArray:
        msg = self.bench.image(pixels)
        if depth is not None:
            image, kept = depth_image(depth, msg.header), self.bench.node.channels[0].advisory._depths

            def has_come() -> bool:  # best effort: again until it has
                self.depths.publish(image)
                return any(found.header == msg.header for found in tuple(kept))

            self.bench.until(has_come, "the depth image")
        return self.bench.answer(self.images, msg, "zones")

    def newest_points(self, after: int) -> tuple[PointCloud2, PoseArray]:
        heard = self.bench.messages
        self.bench.until(lambda: len(heard["zone_cloud"]) > after and len(heard["zone_poses"]) > after, "points")
        cloud, poses = heard["zone_cloud"][-1], heard["zone_poses"][-1]
        return cloud, poses


def own(zones: ZoneArray) -> list[Zone]:
    return [zone for zone in zones.zones if zone.part == "person"]


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_depth_gives_metres_in_the_cameras_frame(make: Callable[..., Bench], kind: str) -> None:  # noqa: F811
    scene = Scene(make, points=False)
    zones = scene.look(PEOPLE)
    assert all(z.range_source == Zone.RANGE_UNKNOWN and not len(z.points) and np.isnan(z.distance) for z in zones.zones)
    scene.give_camera()
    depth = np.full((240, 320), 3, kind)
    depth[:, 160:] = 2
    depth = depth * 1000 if kind == "uint16" else depth
    zones = scene.look(PEOPLE, depth.astype(kind))
    left, right = sorted(own(zones), key=lambda zone: zone.polygon[0].x)
    growth = (1e-3 * zones.age_ms + scene.bench.node.config.zone_lookahead) * 2.0  # the left one's box is all at 3 m
    for zone, metres in ((left, 3.0), (right, 2.0)):
        assert zone.range_source == Zone.RANGE_DEPTH
        points = np.array([(p.x, p.y, p.z) for p in zone.points])
        assert len(points) == 2 * len(zone.polygon) and points[:, 2].min() == pytest.approx(points[0, 2])
        assert 0 <= zone.distance <= metres and points[0, 2] <= metres - 0.9 * growth
    assert scene.bench.node.channels[0].advisory.depth_problem == ""


def test_depth_that_does_not_fit_is_told_and_not_used(make: Callable[..., Bench]) -> None:  # noqa: F811
    scene = Scene(make, points=False)
    scene.give_camera()
    for wrong, words in ((np.ones((120, 170), np.uint16), "170 x 120 px"), (np.ones((7, 7), np.float32), "7 x 7 px")):
        assert all(zone.range_source == Zone.RANGE_UNKNOWN for zone in scene.look(PEOPLE, wrong).zones)
        scene.bench.until(lambda words=words: words in (value(scene.bench, "depth") or ""), words)
    nothing = scene.look(PEOPLE, np.zeros((240, 320), np.uint16))
    assert all(zone.range_source == Zone.RANGE_UNKNOWN for zone in nothing.zones)
    assert all(
        zone.range_source == Zone.RANGE_DEPTH for zone in scene.look(PEOPLE, np.full((240, 320), 2500, np.uint16)).zones
    )


def test_points_are_a_wall_until_something_is_promised(make: Callable[..., Bench]) -> None:  # noqa: F811
    """Not calibrated, no camera_info, a broken image: each time the view is full of points, stamped now."""
    scene = Scene(make)
    heard = scene.bench.messages

    def is_wall(cloud: PointCloud2, poses: PoseArray) -> None:
        points = cloud_points(cloud)
        assert len(points) == len(pose_points(poses)) > 500
        assert points[:, 2].min() < 0.1 and points[:, 2].max() == pytest.approx(5.0)
        assert cloud.header.frame_id == poses.header.frame_id == "cam"

    scene.look(PEOPLE)
    is_wall(*scene.newest_points(0))
    scene.give_camera()
    scene.look(PEOPLE)
    is_wall(*scene.newest_points(len(heard["zone_cloud"]) - 1))
    broken = scene.bench.image(PEOPLE)
    broken.height = 1
    scene.bench.answer(scene.images, broken, "zones")

    def stamped_after(msg: PointCloud2 | PoseArray) -> bool:
        stamp, old = msg.header.stamp, broken.header.stamp
        return (stamp.sec, stamp.nanosec) > (old.sec, old.nanosec)

    for topic in ("zone_cloud", "zone_poses"):
        scene.bench.until(lambda topic=topic: stamped_after(heard[topic][-1]), "points stamped when they were made")
    is_wall(*scene.newest_points(0))


def test_points_of_zones_and_of_nobody(make: Callable[..., Bench]) -> None:  # noqa: F811
    scene = Scene(make, uncalibrated_zones=True, zone_range=4.0)
    scene.give_camera()
    heard = scene.bench.messages
    depth = np.full((240, 320), 2.5, np.float32)
    msg_count = len(heard["zone_cloud"])
    zones = scene.look(PEOPLE, depth)
    cloud, poses = scene.newest_points(msg_count)
    scene.bench.until(lambda: heard["zone_cloud"][-1].header == zones.header, "the cloud of that image")
    points = cloud_points(heard["zone_cloud"][-1])
    assert 100 < len(points) and np.isfinite(points).all()
    nearest = min(zone.distance for zone in zones.zones)
    assert nearest - 1e-3 <= np.linalg.norm(points, axis=1).min() <= nearest + 0.3

    scene.look(NOBODY)
    scene.bench.until(lambda: len(heard["zone_cloud"][-1].data) == 48 and len(heard["zone_poses"][-1].poses) == 4, "4")
    assert (cloud_points(heard["zone_cloud"][-1])[:, 2] == 100).all()
    assert all(len(m.data) for m in heard["zone_cloud"]) and all(len(m.poses) for m in heard["zone_poses"])


def test_a_silent_camera_becomes_a_wall_with_fresh_stamps(make: Callable[..., Bench]) -> None:  # noqa: F811
    scene = Scene(make, stale_after=0.3, uncalibrated_zones=True)
    scene.give_camera()
    heard = scene.bench.messages
    scene.look(NOBODY)
    scene.bench.until(lambda: [m for m in heard["zone_cloud"] if len(m.data) > 10_000], "a wall after the last image")
    walls = scene.bench.until(lambda: [m for m in heard["zone_cloud"] if len(m.data) > 10_000][2:], "again and again")
    stamps = [m.header.stamp.sec + 1e-9 * m.header.stamp.nanosec for m in walls]
    assert stamps == sorted(stamps) and scene.bench.client.get_clock().now().nanoseconds * 1e-9 - stamps[-1] < 10
    assert heard["zones"][-1].state in (ZoneArray.STALE, ZoneArray.UNKNOWN)


def test_nothing_is_made_for_nobody_who_listens(  # noqa: F811
    make: Callable[..., Bench],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from probpose_ros.ros import advisory

    scene = Scene(make, points=False)
    outputs = scene.bench.node.channels[0].advisory
    # Listeners of an earlier test take their time to be gone.
    scene.bench.until(lambda: not outputs.cloud.get_subscription_count(), "nobody listens")
    scene.bench.until(lambda: not outputs.poses.get_subscription_count(), "nobody listens")
    made: list[int] = []
    monkeypatch.setattr(advisory, "wall", lambda *args: made.append(1))
    scene.look(PEOPLE)
    assert not made
