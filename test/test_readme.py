"""The ten-line subscriber of the README, as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ros_domains import next_domain

pytest.importorskip("rclpy", reason="needs ROS 2 (make test installs it)")
pytest.importorskip("probpose_msgs.msg", reason="needs the built probpose_msgs (make test builds it)")
pytestmark = pytest.mark.ros

from test_docs import blocks  # noqa: E402

README = Path(__file__).parents[1] / "README.md"
PUBLISHER = """
import rclpy
from probpose_msgs.msg import Keypoint, PersonPose, PersonPoseArray
rclpy.init(); node = rclpy.create_node("publisher")
publisher = node.create_publisher(PersonPoseArray, "/probpose/keypoints", 10)
person = PersonPose(score=0.75)
for k in range(3):
    person.keypoints[k].state = Keypoint.IN
node.create_timer(0.1, lambda: publisher.publish(PersonPoseArray(people=[person], age_ms=12.0))); rclpy.spin(node)
"""


def test_subscriber_prints_people() -> None:
    code = next(
        block.text for block in blocks(README) if block.language == "python" and "create_subscription" in block.text
    )
    assert len([line for line in code.splitlines() if line.strip()]) <= 12, "the README promises a short one"
    environment = {
        **os.environ, "ROS_DOMAIN_ID": str(next_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    publisher = subprocess.Popen([sys.executable, "-c", PUBLISHER], env=environment)
    listener = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    patience = threading.Timer(60, listener.kill)
    patience.start()
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "person 0.75: 3 of 17 keypoints in the window, 12 ms old\n"
    finally:
        patience.cancel()
        for process in (publisher, listener):
            process.kill()
            process.wait(10)
