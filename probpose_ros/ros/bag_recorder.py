"""What camera and pose node say, into a bag; and a recording made from such a bag, or one of ``ros2 bag record``."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo

from probpose_msgs.msg import PersonPoseArray, SkeletonInfo, Status, ZoneArray
from probpose_ros.bags import IMAGES, PEOPLE, BagReader, BagWriter
from probpose_ros.image_message import ImageError, image_to_bgr
from probpose_ros.recording import Recording
from probpose_ros.ros import qos
from probpose_ros.ros.convert import message_to_dict, result_of

RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
# Beside images and keypoints, which the recorder has in hand anyway.
TOPICS = {
    "camera_info": (CameraInfo, RELIABLE),
    "zones": (ZoneArray, RELIABLE),
    "status": (Status, RELIABLE),
    "skeleton_info": (SkeletonInfo, qos.LATCHED),
}


class BagRecorder:
    """Writes messages as they arrive, under the topics' full names. BagError from a callback if the disk is full."""

    def __init__(self, node: Node, path: Path, storage: str) -> None:
        self.node, self.bag = node, BagWriter(path, storage)
        for name, (kind, profile) in TOPICS.items():
            write = partial(self._write, name, kind, profile is qos.LATCHED)
            node.create_subscription(kind, name, write, profile, raw=True)

    def add(self, name: str, msg: Any) -> None:
        """name: of the topic, as the node that subscribes has it."""
        self._write(name, type(msg), False, serialize_message(msg))

    def close(self) -> None:
        self.bag.close()

    def _write(self, name: str, kind: type, latched: bool, data: bytes) -> None:
        time = self.node.get_clock().now().nanoseconds
        kind_name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        self.bag.write(self.node.resolve_topic_name(name), kind_name, time, data, latched)


def replay(recording: Recording, path: Path, image_topic: str | None, keypoints_topic: str | None) -> int:
    """Adds every image of the bag that has a result with its stamp; number of images.

    BagError where the bag breaks off; everything before has been added by then.
    """
    results: dict[tuple[int, int], PersonPoseArray] = {}
    with BagReader(path, (PEOPLE,), keypoints_topic, raw=True, option="--keypoints-topic") as reader:
        broken = None
        try:
            for _, data in reader:
                msg = deserialize_message(bytes(data), PersonPoseArray)
                results[msg.header.stamp.sec, msg.header.stamp.nanosec] = msg
        except OSError as error:
            broken = error
    count = 0
    with BagReader(path, IMAGES, image_topic, option="--image-topic") as reader:
        for _, image in reader:
            count += 1
            msg = results.get((image.header.stamp.sec, image.header.stamp.nanosec))
            if msg is None:
                continue
            with contextlib.suppress(ImageError):  # then its result says nothing either
                recording.add(image_to_bgr(image), result_of(msg), message_to_dict(msg))
    if broken is not None:
        raise broken
    return count
