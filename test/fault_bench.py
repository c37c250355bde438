"""The node in its own process, a camera at a steady rate and a listener: for causing faults and timing what is said.

Import it only after the skip checks of ros_bench.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ros_bench import Image, PersonPoseArray, Status, ZoneArray, rclpy
from ros_domains import next_domain
from tiny_models import person_image

from probpose_ros.ros.images import bgr_to_image

from rclpy.executors import SingleThreadedExecutor  # isort: skip
from rclpy.qos import QoSProfile, ReliabilityPolicy  # isort: skip
from sensor_msgs.msg import CameraInfo, CompressedImage  # isort: skip
from std_msgs.msg import Header, String  # isort: skip

ROOT = Path(__file__).parents[1]
RATE = 30.0
LIMIT = 0.1  # s, the node's stale_after
WAIT = 180.0  # s, for busy machines; every wait ends as soon as it may
BAD = (PersonPoseArray.STALE, PersonPoseArray.UNKNOWN)
NAMES = {0: "UNKNOWN", 1: "OK", 2: "NO_PERSON_DETECTED", 3: "STALE"}
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
BOX = (60, 40, 150, 220)


def node_process(
    domain: int, arguments: list[str], parameters: dict[str, Any], program: str, **options: Any
) -> subprocess.Popen:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "test"), environment.get("PYTHONPATH", "")])
    for name, value in parameters.items():
        arguments = [*arguments, "-p", f"{name}:={value}"]
    command = [sys.executable, *program.split(), "--ros-args", *arguments]
    return subprocess.Popen(command, env=environment, text=True, **options)


@dataclass
class Heard:
    """A message of the node and when it came, time.monotonic."""

    at: float
    state: int
    stamp: tuple[int, int]
    message: Any


@dataclass
class Sent:
    """An image and when it was sent, time.monotonic; good: without a fault."""

    at: float
    stamp: tuple[int, int]
    good: bool


class Camera:
    """Publishes an image of one person over sensor noise, RATE times a second, in a thread of its own.

    A fault is a function that makes the picture, and one that turns the message into the one that is sent or None.
    """

    def __init__(self, node: Any, topic: str, rate: float, compressed: bool) -> None:
        self.node, self.rate = node, rate
        self.convert = bgr_to_jpeg if compressed else bgr_to_image
        self.publisher = node.create_publisher(CompressedImage if compressed else Image, topic, RELIABLE)
        self.fault: tuple[Callable[[], np.ndarray], Callable[[Any], Any]] | None = None
        self.normal: Callable[[Any], Any] = lambda msg: msg
        self.sent: list[Sent] = []
        self.running = threading.Event()
        self.running.set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def change(
        self, pixels: Callable[[], np.ndarray], alter: Callable[[Any], Any]
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Functions that begin and end a fault."""
        return lambda: setattr(self, "fault", (pixels, alter)), lambda: setattr(self, "fault", None)

    def send_infos(self) -> None:
        """From now on with every image a camera_info that fits it."""
        self.infos = self.node.create_publisher(CameraInfo, "camera_info", 1)
        self.normal = self.with_info(info)

    def with_info(self, make: Callable[[], CameraInfo]) -> Callable[[Any], Any]:
        return lambda msg: self.infos.publish(make()) or msg

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            if not self.running.wait(0.1):
                continue
            fault = self.fault
            pixels, alter = fault or (lambda: scene(255), self.normal)
            header = Header(stamp=self.node.get_clock().now().to_msg(), frame_id="cam")
            msg = alter(self.convert(pixels(), header))
            if msg is not None:
                self.sent.append(Sent(time.monotonic(), stamp_of(msg), fault is None))
                self.publisher.publish(msg)
            due = max(due + 1 / self.rate, time.monotonic())


def info(width: int = 320, height: int = 240, focal: float = 300.0) -> CameraInfo:
    k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0] if focal else [0.0] * 9
    return CameraInfo(width=width, height=height, k=k)


def bgr_to_jpeg(image: np.ndarray, header: Header) -> CompressedImage:
    return CompressedImage(header=header, format="jpeg", data=cv2.imencode(".jpg", image)[1].tobytes())


def stamp_of(msg: Any) -> tuple[int, int]:
    return msg.header.stamp.sec, msg.header.stamp.nanosec


def scene(grey: int, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """One person of that grey, and a strip of noise: no two images are alike."""
    image = person_image(BOX, size=size)
    image[image == 255] = grey
    image[:, -64:] = np.random.default_rng().integers(0, 60, (size[1], 64, 3), np.uint8)
    return image


class FaultBench:
    """``heard[topic]`` collects the messages of one camera's keypoints, zones and status."""

    def __init__(
        self, detector: Path, model: Path, program: str = "-m probpose_ros.ros.node", compressed: bool = False,
        **parameters: Any,
    ) -> None:  # fmt: skip
        self.parameters = {"detector": detector, "model": model, "compressed": compressed, **parameters}
        self.program = program
        self.context, self.domain = rclpy.Context(), next_domain()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.client = rclpy.create_node("client", namespace="probpose", context=self.context)
        self.heard: dict[str, list[Heard]] = {}
        for topic, kind in (("keypoints", PersonPoseArray), ("zones", ZoneArray), ("status", Status)):
            self.listen(topic, kind)
        self.command = self.client.create_publisher(String, "fault", RELIABLE)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.client)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.process: subprocess.Popen | None = None
        self.cameras: list[Camera] = []

    def _spin(self) -> None:
        while not self._stop.is_set():
            self.executor.spin_once(timeout_sec=0.1)

    def listen(self, topic: str, kind: Any, **options: Any) -> None:
        heard: list[Heard] = self.heard.setdefault(topic, [])

        def on_message(msg: Any) -> None:
            heard.append(Heard(time.monotonic(), getattr(msg, "state", -1), stamp_of(msg), msg))

        self.client.create_subscription(kind, topic, on_message, **{"qos_profile": 100, **options})

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen:
        self.process = node_process(
            self.domain, ["-r", "__ns:=/probpose", *arguments], self.parameters, self.program, **options
        )  # fmt: skip
        return self.process

    def camera(self, topic: str = "image", rate: float = RATE) -> Camera:
        self.cameras.append(Camera(self.client, topic, rate, self.parameters["compressed"]))
        return self.cameras[-1]

    def until(self, done: Callable[[], Any], what: str, timeout: float = WAIT) -> Any:
        end = time.monotonic() + timeout
        while not (result := done()):
            assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
            assert self.process is None or self.process.poll() is None, f"the node ended before: {what}"
            time.sleep(0.002)
        return result

    def next(self, topic: str, moment: float, states: tuple[int, ...]) -> Heard:
        """Waits for the first message after that moment with one of the states."""

        def found() -> Heard | None:
            later = itertools.takewhile(lambda heard: heard.at > moment, reversed(self.heard[topic]))
            return next((heard for heard in reversed(list(later)) if heard.state in states), None)

        return self.until(found, f"{topic} with a state of {states}")

    def settle(self, began: float, states: tuple[int, ...], still: float = 0.3) -> float:
        """Waits until everything said since ``began`` is BAD for a while, the status one of ``states``; since when."""

        def settled() -> float | None:
            recent = {topic: self.heard[topic][-99:] for topic in ("status", "zones", "keypoints")}
            last_good = max([began, *(h.at for heard in recent.values() for h in heard if h.state not in BAD)])
            first_bad = [[h.at for h in recent[topic] if h.at > last_good] for topic in ("status", "zones")]
            if time.monotonic() - last_good < still or not all(first_bad):
                return None
            return max(times[0] for times in first_bad) if self.heard["status"][-1].state in states else None

        return self.until(settled, f"status and zones of {states}")

    def healthy(self, count: int = 5) -> None:
        """Waits until the newest ``count`` results and the status are OK."""

        def ok(topic: str, newest: int) -> bool:
            heard = self.heard[topic][-newest:]
            now = time.monotonic()
            return len(heard) == newest and all(h.state == PersonPoseArray.OK and now - h.at < 5 for h in heard)

        calibrated = "calibration" in self.parameters  # else zones promise nothing, and are UNKNOWN
        self.until(lambda: ok("keypoints", count) and ok("status", 1) and (ok("zones", 1) or not calibrated), "OK")

    def send(self, command: str) -> float:
        """To faulty_node.py; returns when it was sent."""
        self.until(lambda: self.command.get_subscription_count(), "the faulty node listens")
        self.command.publish(String(data=command))
        return time.monotonic()

    def close(self) -> None:
        for camera in self.cameras:
            camera.close()
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        self._stop.set()
        self._thread.join()
        # Now, and not when the garbage collector comes, beside the threads of another bench.
        self.executor.shutdown()
        self.client.destroy_node()
        rclpy.try_shutdown(context=self.context)


@dataclass
class Row:
    """One line of the table in docs/reliability.md; times of every round, ms."""

    section: str
    fault: str
    detectable: str  # from when on a fault can be told at all
    states: str = ""
    said_ms: list[float] = field(default_factory=list)
    recovered_ms: list[float] = field(default_factory=list)
    recovered_frames: list[int] = field(default_factory=list)
    note: str = ""
    lost_ms: list[float] = field(default_factory=list)
    load: float = field(default_factory=lambda: os.getloadavg()[0])
