"""The zones of one camera: the topic ``zones``, and the same for consumers that know neither states nor ages.

``zone_cloud`` (PointCloud2, for Nav2's collision_monitor) and ``zone_poses`` (PoseArray, for ssm_safety) are published
only while somebody listens. They have no field for a state, so anything but zones that hold and "nobody detected"
becomes a wall of points over the whole view, and no message is ever empty.
"""

from __future__ import annotations

import array
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseArray, Quaternion
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from probpose_msgs.msg import Zone as ZoneMessage
from probpose_msgs.msg import ZoneArray
from probpose_ros.camera import Camera
from probpose_ros.config import NodeConfig
from probpose_ros.depth import DepthImage
from probpose_ros.fill import fill_zones, nobody, wall
from probpose_ros.ros import qos
from probpose_ros.ros.convert import zones_head
from probpose_ros.ros.geometry_input import depth_values
from probpose_ros.ros.wire import message_bytes, zone_items
from probpose_ros.types import FrameResult, FrameState
from probpose_ros.zones import Body, Zone, bodies, whole_view, zones_at

UPRIGHT = Quaternion(w=1.0)
XYZ = [PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate("xyz")]


class Advisory:
    """Publishers of zones and the depth images they use. ``publish`` is called by one thread at a time."""

    def __init__(self, node: Node, prefix: str, config: NodeConfig) -> None:
        self.config, self.clock = config, node.get_clock()
        self.zones = node.create_publisher(ZoneArray, prefix + "zones", qos.OUTPUT)
        self.cloud = node.create_publisher(PointCloud2, prefix + "zone_cloud", qos.OUTPUT)
        self.poses = node.create_publisher(PoseArray, prefix + "zone_poses", qos.OUTPUT)
        self.publishers = [self.zones, self.cloud, self.poses]
        self.sequence = 0
        self.depth_problem = "no depth image yet"
        # The camera's and the depth camera's images come in any order: the last few, and the nearest in time is used.
        self._depths: deque[Image] = deque(maxlen=4)
        self.frame_id = ""  # of camera_info, until there is an image
        self._wall_made: Any = (None, None, None)

    def on_depth(self, msg: Image) -> None:
        self._depths.append(msg)

    def bodies(self, result: FrameResult, header: Header, camera: Camera | None) -> list[Body]:
        """What zones are made of; see :mod:`probpose_ros.zones`."""
        stamp = _seconds(header)
        depth = self._depth(result, stamp) if camera and result.people else None
        return bodies(result, self.config, camera, depth, stamp)

    def publish(
        self, header: Header, result: FrameResult, people: Sequence[Body], age_ms: float, camera: Camera | None,
        calibration_id: str, delta: float,
    ) -> list[Zone]:  # fmt: skip
        """Everything for an image of that age; returns the zones."""
        zones = zones_at(people, 1e-3 * age_ms + self.config.zone_lookahead, self.config, camera)
        message = zones_head(result, header, zones, age_ms, self.config, calibration_id, delta)
        message.sequence = self.sequence
        self.sequence += 1
        unknown, stale = result.state == FrameState.UNKNOWN, result.state == FrameState.STALE
        shown = [*zones, whole_view(result.image_width, result.image_height)] if unknown else zones
        items = zone_items(shown, ZoneMessage.STALE if stale else ZoneMessage.OK)
        self.zones.publish(message_bytes(message, len(shown), items))
        if self.cloud.get_subscription_count() or self.poses.get_subscription_count():
            self._publish_points(header, result.state, message.state, zones, camera)
        return zones

    def _publish_points(
        self, header: Header, seen: FrameState, state: int, zones: list[Zone], camera: Camera | None
    ) -> None:
        """seen: the state of the result, state: that of its zones, which is UNKNOWN too where they promise nothing."""
        config, poses = self.config, None
        if camera and (state == FrameState.OK or (seen == FrameState.OK and config.uncalibrated_zones)):
            points = fill_zones(zones, config.zone_range, config.zone_spacing)
        elif camera and state == FrameState.NO_PERSON_DETECTED:
            points = nobody(camera)
        else:
            # The wall stands before the camera now, whatever was seen when; an old stamp would be ignored.
            header = Header(stamp=self.clock.now().to_msg(), frame_id=header.frame_id or self.frame_id)
            if not header.frame_id:  # no image and no camera_info yet
                return
            points, poses = self._wall(camera or Camera.assumed(640, 480))
        if self.cloud.get_subscription_count():
            self.cloud.publish(cloud_message(points, header))
        if self.poses.get_subscription_count():
            self.poses.publish(PoseArray(header=header, poses=poses or poses_of(points)))

    def _wall(self, camera: Camera) -> tuple[np.ndarray, list[Pose]]:
        """Made once: it is large, and repeated at every beat while something is wrong."""
        key = camera, self.config.zone_range, self.config.zone_spacing
        if key != self._wall_made[0]:
            points = wall(*key)
            self._wall_made = key, points, poses_of(points)
        return self._wall_made[1:]

    def _depth(self, result: FrameResult, stamp: float) -> DepthImage | None:
        """The depth image nearest in time that fits the image; says why if there is none."""
        messages = tuple(self._depths)
        if not messages:
            return None
        msg = min(messages, key=lambda msg: abs(_seconds(msg.header) - stamp))
        late = abs(_seconds(msg.header) - stamp)
        try:
            if not late <= self.config.depth_max_age:
                raise ValueError(f"the nearest depth image is {1e3 * late:.0f} ms off the image")
            values = depth_values(msg)
            depth = DepthImage.aligned(values, _seconds(msg.header), result.image_width, result.image_height)
        except ValueError as error:
            self.depth_problem = str(error)
            return None
        self.depth_problem = ""
        return depth


def cloud_message(points: np.ndarray, header: Header) -> PointCloud2:
    """(N, 3) m -> an unordered cloud of float32 x, y, z."""
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(points, np.dtype("<f4")).data.cast("B"))
    return PointCloud2(
        header=header, height=1, width=len(points), fields=XYZ, point_step=12, row_step=12 * len(points), data=data,
        is_dense=True,
    )  # fmt: skip


def poses_of(points: np.ndarray) -> list[Pose]:
    """(N, 3) m -> poses that are not turned."""
    return [Pose(position=Point(x=x, y=y, z=z), orientation=UPRIGHT) for x, y, z in points.tolist()]


def _seconds(header: Header) -> float:
    return Time.from_msg(header.stamp).nanoseconds * 1e-9
