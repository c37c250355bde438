"""A pose node and a client in one process, for the tests marked ``ros``. Import it only after the skip checks below."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_domains import next_domain

REASON = "needs ROS 2: rclpy and the built probpose_msgs (make test installs both)"
rclpy = pytest.importorskip("rclpy", reason=REASON)
pytest.importorskip("probpose_msgs.msg", reason=REASON)

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from probpose_msgs.msg import PersonPoseArray, SkeletonInfo, Status, ZoneArray  # noqa: E402
from probpose_ros.ros.images import bgr_to_image  # noqa: E402
from probpose_ros.ros.node import PoseNode  # noqa: E402

TIMEOUT = 30.0  # seconds, for busy machines; every wait ends as soon as it may

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


class Bench:
    """``node`` is in namespace /probpose with tiny models; ``messages`` collects what the client hears, by topic."""

    def __init__(self, detector: Path, model: Path, **parameters: Any) -> None:
        rclpy.init(domain_id=next_domain())
        # Tests send the same few plain pictures again and again.
        lenient = {"frozen_after": 0.0, "min_contrast": 0.0}
        overrides = {"detector": str(detector), "model": str(model), **lenient, **parameters}
        self.node = PoseNode(
            namespace="probpose",
            parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()],
        )
        self.client = rclpy.create_node("client", namespace="probpose")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.client)
        self.messages: dict[str, list[Any]] = defaultdict(list)

    def close(self) -> None:
        self.node.on_shutdown()
        for node in (self.node, self.client):  # else the next bench sees their topics until they are collected
            node.destroy_node()
        rclpy.shutdown()

    def start(self) -> None:
        assert self.node.trigger_configure().name == "SUCCESS"
        assert self.node.trigger_activate().name == "SUCCESS"

    def listen(self, topic: str, kind: Any, qos: Any = 10) -> None:
        self.client.create_subscription(kind, topic, self.messages[topic].append, qos)

    def listen_to_results(self, prefix: str = "") -> None:
        self.listen(prefix + "keypoints", PersonPoseArray)
        self.listen(prefix + "zones", ZoneArray)
        self.listen(prefix + "status", Status)

    def publisher(self, topic: str = "image", kind: Any = Image, qos: Any = 1) -> Any:
        """A publisher that the node is connected to."""
        publisher = self.client.create_publisher(kind, topic, qos)
        self.until(lambda: publisher.get_subscription_count() > 0, f"the node subscribed to {topic}")
        return publisher

    def connected(self) -> None:
        """Waits until every subscription of the client has its publisher."""
        topics = [subscription.topic_name for subscription in self.client.subscriptions]
        self.until(lambda: all(self.client.count_publishers(topic) for topic in topics), "publishers")

    def until(self, done: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
        end = time.monotonic() + timeout
        while not (result := done()):
            assert time.monotonic() < end, f"not within {timeout} s: {what}"
            self.executor.spin_once(timeout_sec=0.02)
        return result

    def answer(self, publisher: Any, msg: Any, topic: str = "keypoints") -> Any:
        """Publishes an image and returns the message on ``topic`` with its stamp. Sent again if best effort lost it."""
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            publisher.publish(msg)
            retry = time.monotonic() + 3
            while time.monotonic() < retry:
                self.executor.spin_once(timeout_sec=0.02)
                for found in self.messages[topic]:
                    if found.header == msg.header:
                        return found
        raise AssertionError(f"no answer on {topic}")

    def image(self, pixels: np.ndarray, frame: str = "cam") -> Image:
        return bgr_to_image(pixels, Header(stamp=self.client.get_clock().now().to_msg(), frame_id=frame))


__all__ = ["Bench", "Header", "Image", "PersonPoseArray", "SkeletonInfo", "Status", "ZoneArray", "REASON", "TIMEOUT"]
