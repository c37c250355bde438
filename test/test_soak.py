"""The node for a long time and with large images: nothing grows, nothing is lost. Slow, but for a short form."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_domains import next_domain
from tiny_models import person_image

pytestmark = pytest.mark.ros
from fault_bench import Image, PersonPoseArray, Row, Status, itertools, node_process, rclpy, scene, stamp_of  # noqa: E402
from ros_bench import bgr_to_image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from test_reliability import rows  # noqa: E402, F401  (fixture)

NODE = "-m probpose_ros.ros.node"


def resources(pid: int) -> tuple[float, int, int]:
    """Resident memory in MB, threads and open file handles of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd"))


def soak(models: tuple[Path, Path], frames: int) -> np.ndarray:
    """One image after the other, some broken, each answered; (samples, 3) of :func:`resources`."""
    domain = next_domain()
    rclpy.init(domain_id=domain)
    process = node_process(
        domain, ["-r", "__ns:=/probpose"], {"detector": models[0], "model": models[1], "stale_after": 10.0}, NODE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        client = rclpy.create_node("client", namespace="probpose")
        publisher = client.create_publisher(Image, "image", 1)
        newest: list[Any] = [None]
        client.create_subscription(PersonPoseArray, "keypoints", lambda msg: newest.__setitem__(0, msg), 1)
        executor = rclpy.executors.SingleThreadedExecutor()
        executor.add_node(client)
        pictures = [scene(255) for _ in range(20)] + [person_image(size=(200, 240)), scene(200, (200, 240))]
        samples = []
        for i, picture in zip(range(frames), itertools.cycle(pictures)):
            msg = bgr_to_image(picture, Header(stamp=client.get_clock().now().to_msg(), frame_id="cam"))
            if i % 50 == 49:
                msg.encoding = "nonsense"
            answered = False
            end = time.monotonic() + 120
            while not answered:  # best effort: one that was lost is sent again
                publisher.publish(msg)
                retry = time.monotonic() + 2
                while not answered and time.monotonic() < retry:
                    executor.spin_once(timeout_sec=0.1)
                    answered = newest[0] is not None and stamp_of(newest[0]) == stamp_of(msg)
                assert process.poll() is None and time.monotonic() < end, f"no answer to image {i}"
            if i % max(1, frames // 100) == 0:
                samples.append(resources(process.pid))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        rclpy.shutdown()
    return np.array(samples)


def check_constant(samples: np.ndarray, allowed_mb: float) -> None:
    """From a fifth of the way on, when caches are filled; a single sample may be higher (threads of DDS)."""
    first, second = np.array_split(samples[len(samples) // 5 :], 2)
    memory, threads, handles = np.median(second, axis=0) - np.median(first, axis=0)
    assert memory < allowed_mb and threads < 1 and handles < 1, (memory, threads, handles, samples)


def test_what_grows_is_found_and_a_moment_is_not() -> None:
    samples = np.tile([200.0, 19, 26], (60, 1))
    samples[40] = 230, 21, 28
    check_constant(samples, allowed_mb=8.0)
    for leak in np.diag([20.0, 1, 1]):
        with pytest.raises(AssertionError):
            check_constant(samples + leak * (np.arange(60) // 20)[:, None], allowed_mb=8.0)


def test_a_short_soak(tiny_detector_model: Path, tiny_pose_model: Path) -> None:
    check_constant(soak((tiny_detector_model, tiny_pose_model), 600), allowed_mb=8.0)


@pytest.mark.slow
def test_soak_of_100_000_frames(tiny_detector_model: Path, tiny_pose_model: Path, rows: list[Row]) -> None:  # noqa: F811
    frames = int(os.environ.get("SOAK_FRAMES", "100000"))
    samples = soak((tiny_detector_model, tiny_pose_model), frames)
    (rss0, threads0, handles0), (rss1, threads1, handles1) = samples[len(samples) // 5], samples[-1]
    note = (
        f"{frames} frames, one in 50 broken; memory {rss0:.1f} MB after a fifth, {rss1:.1f} MB at the end; "
        f"threads {threads0:.0f}, {threads1:.0f}; file handles {handles0:.0f}, {handles1:.0f}"
    )
    rows.append(Row("Load", "soak", "-", "OK", note=note))
    check_constant(samples, allowed_mb=32.0)  # one step of MALLOC_TOP_PAD_; a leak of 1 KB a frame would be 40 MB


HD_CAMERA = """
import os, sys, time
from probpose_ros.transport import transport_environment
os.environ.update(transport_environment())
import numpy as np, rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from probpose_ros.ros.images import bgr_to_image
frames, rate = int(sys.argv[1]), float(sys.argv[2])
rclpy.init()
node = rclpy.create_node("camera", namespace="probpose")
publisher = node.create_publisher(Image, "image", QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE))
image = np.random.default_rng(0).integers(0, 150, (1080, 1920, 3), np.uint8)
msg = bgr_to_image(image, Header(frame_id="cam"))
while not publisher.get_subscription_count():
    time.sleep(0.05)
time.sleep(2.0)
due = time.monotonic()
for i in range(frames):
    time.sleep(max(0.0, due - time.monotonic()))
    msg.data[i] ^= 255
    msg.header.stamp = node.get_clock().now().to_msg()
    publisher.publish(msg)
    due = max(due + 1 / rate, time.monotonic())
time.sleep(5.0)
"""


@pytest.mark.slow
def test_1080p_without_loss(tiny_detector_model: Path, tiny_pose_model: Path, rows: list[Row]) -> None:  # noqa: F811
    """Every image that was sent reaches the node (one it has no time for is replaced there, and counted)."""
    frames, rate = int(os.environ.get("HD_FRAMES", "1000")), float(os.environ.get("HD_RATE", "15"))
    domain = next_domain()
    node = node_process(
        domain, ["-r", "__ns:=/probpose"], {"detector": tiny_detector_model, "model": tiny_pose_model}, NODE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    rclpy.init(domain_id=domain)
    camera = None
    try:
        client = rclpy.create_node("client", namespace="probpose")
        heard: list[Status] = []
        client.create_subscription(Status, "status", heard.append, 10)
        while not heard:
            rclpy.spin_once(client, timeout_sec=0.5)
            assert node.poll() is None
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        camera = subprocess.Popen([sys.executable, "-c", HD_CAMERA, str(frames), str(rate)], env=environment)
        began = time.monotonic()
        while camera.poll() is None:
            rclpy.spin_once(client, timeout_sec=0.5)
            assert time.monotonic() < began + 60 + 4 * frames / rate
        last = heard[-1]
    finally:
        for process in filter(None, (node, camera)):
            process.kill()
            process.wait()
        rclpy.shutdown()
    lost = frames - last.received
    note = f"{frames} images of 1920 x 1080 at {rate:g} Hz: {lost} lost, {last.dropped} replaced (counted)"
    rows.append(Row("Load", "1080p over the shipped transport profile", "-", "OK", note=note))
    assert lost == 0
