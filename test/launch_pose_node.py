"""launch_testing of the launch file: the node comes up, answers images, and ends cleanly within a second.

``launch_test test/launch_pose_node.py`` where the package is installed; pytest runs it through test_launch.py.
"""

from __future__ import annotations

import os
import tempfile
import time
import unittest
from pathlib import Path

import launch_testing
import launch_testing.actions
import launch_testing.asserts
import rclpy
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnShutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tiny_models import person_image, write_tiny_detector, write_tiny_pose

from launch import LaunchDescription
from probpose_msgs.msg import PersonPoseArray, SkeletonInfo, Status
from probpose_ros.ros.images import bgr_to_image

ROOT = Path(__file__).parents[1]
NAMESPACE = "tested"
PATIENCE = 60.0  # seconds, on a machine that is busy with other things
moments: dict[str, float] = {}


def generate_test_description() -> LaunchDescription:
    models = Path(tempfile.mkdtemp())
    arguments = {
        "namespace": NAMESPACE,
        "detector": str(write_tiny_detector(models / "detector.onnx")),
        "model": str(write_tiny_pose(models / "pose.onnx")),
        "image_topic": "/front/image_raw",
    }
    source = PythonLaunchDescriptionSource(str(ROOT / "launch/pose.launch.py"))
    return LaunchDescription([
        IncludeLaunchDescription(source, launch_arguments=arguments.items()),
        RegisterEventHandler(OnShutdown(on_shutdown=lambda event, context: note("told to end"))),
        RegisterEventHandler(OnProcessExit(on_exit=lambda event, context: note("ended"))),
        launch_testing.actions.ReadyToTest(),
    ])  # fmt: skip


def note(moment: str) -> None:
    moments.setdefault(moment, time.monotonic())


class TestNode(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        rclpy.init()
        cls.node = rclpy.create_node("tester")

    @classmethod
    def tearDownClass(cls) -> None:
        cls.node.destroy_node()
        rclpy.shutdown()

    def subscribe(self, kind: type, topic: str, **qos: object) -> list:
        found: list = []
        self.node.create_subscription(kind, f"/{NAMESPACE}/{topic}", found.append, QoSProfile(depth=10, **qos))
        return found

    def wait_for(self, done) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            self.assertLess(time.monotonic(), end, "nothing came in time")
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def test_images_are_answered_with_their_own_header(self) -> None:
        answers = self.subscribe(PersonPoseArray, "keypoints")
        camera = self.node.create_publisher(Image, "/front/image_raw", 1)
        sent = {}

        def answered() -> bool:
            now = self.node.get_clock().now().to_msg()
            sent[now.sec, now.nanosec] = header = Header(stamp=now, frame_id="front_optical_frame")
            x = 20 + len(sent) % 20  # a picture that never changes is a frozen camera
            camera.publish(bgr_to_image(person_image((x, 40, x + 60, 200), (200, 30, 260, 220)), header))
            return len(answers) >= 5

        self.wait_for(answered)
        for msg in answers:
            self.assertEqual(msg.header, sent[msg.header.stamp.sec, msg.header.stamp.nanosec])
            self.assertEqual(len(msg.people), 2)
            self.assertIn(msg.state, (PersonPoseArray.OK, PersonPoseArray.STALE))  # stale on a machine that is too busy
        self.assertEqual([msg.sequence for msg in answers], sorted({msg.sequence for msg in answers}))

    def test_late_subscribers_get_the_skeleton(self) -> None:
        found = self.subscribe(SkeletonInfo, "skeleton_info", durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.wait_for(lambda: found)
        self.assertEqual(len(found[0].names), 17)

    def test_it_has_a_heartbeat(self) -> None:
        beats = self.subscribe(Status, "status")
        self.wait_for(lambda: len(beats) >= 3)
        self.assertEqual(beats[0].sequence + 2, beats[2].sequence)


@launch_testing.post_shutdown_test()
class TestShutdown(unittest.TestCase):
    def test_it_ends_cleanly(self, proc_info) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)

    def test_it_ends_within_a_second(self) -> None:
        crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # processes that share a core
        self.assertLess(moments["ended"] - moments["told to end"], 1.0 * crowd)
