"""Records what the pose node says of each image: JSON lines, a video, a picture and a summary (see recording.py)."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from probpose_msgs.msg import PersonPoseArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image
from tqdm import tqdm

from probpose_ros.recording import Recording
from probpose_ros.ros.convert import message_to_dict, result_of
from probpose_ros.ros.images import image_to_bgr

KEPT_IMAGES = 100  # that wait for their result; older ones were dropped by the node
LAST_RESULT = 5.0  # seconds to wait for results after the camera is gone


class RecorderError(RuntimeError):
    """Nothing could be recorded; the message says why."""


class Recorder(Node):
    """Matches results to images by stamp, in the order of the results."""

    def __init__(self, recording: Recording, progress: tqdm) -> None:
        super().__init__("recorder")
        self.recording, self.progress = recording, progress
        self.received = 0
        self.newest: tuple[int, int] | None = None  # stamp of the newest image
        self.finished: tuple[int, int] | None = None  # stamp of the newest result recorded
        self.images: dict[tuple[int, int], Image] = {}
        self.results: dict[tuple[int, int], PersonPoseArray] = {}
        profile = QoSProfile(depth=KEPT_IMAGES, reliability=ReliabilityPolicy.RELIABLE)
        self.keypoints = self.create_subscription(PersonPoseArray, "keypoints", self._on_result, profile)
        self.image: Any = None
        self.profile = profile

    def subscribe_to_images(self) -> None:
        """The camera starts when it sees this subscription, so it comes after the one to the results is connected."""
        self.image = self.create_subscription(Image, "image", self._on_image, self.profile)

    def _on_image(self, msg: Image) -> None:
        self.received += 1
        self.newest = _stamp(msg)
        self.images[self.newest] = msg
        while len(self.images) > KEPT_IMAGES:
            del self.images[next(iter(self.images))]
        self._match(self.newest)

    def _on_result(self, msg: PersonPoseArray) -> None:
        self.results[_stamp(msg)] = msg
        self._match(_stamp(msg))

    def _match(self, stamp: tuple[int, int]) -> None:
        if stamp not in self.images or stamp not in self.results:
            return
        image, message = self.images.pop(stamp), self.results.pop(stamp)
        self.recording.add(image_to_bgr(image), result_of(message), message_to_dict(message))
        self.finished = stamp
        self.progress.update()


def _stamp(msg: Any) -> tuple[int, int]:
    return msg.header.stamp.sec, msg.header.stamp.nanosec


def record(node: Recorder, wait: float) -> None:
    """Until the camera is gone and its last image has its result. RecorderError when nothing comes within ``wait`` s."""
    _spin_until(node, lambda: node.count_publishers("keypoints") > 0, wait, "the pose node did not appear")
    node.subscribe_to_images()
    _spin_until(node, lambda: node.received > 0, wait, f"no image on {node.image.topic_name}")
    _spin_until(node, lambda: node.recording.count > 0, wait, f"images, but no result on {node.keypoints.topic_name}")
    while node.count_publishers("image"):
        rclpy.spin_once(node, timeout_sec=0.1)
    end = time.monotonic() + LAST_RESULT
    while node.finished != node.newest and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)


def _spin_until(node: Recorder, done: Any, wait: float, otherwise: str) -> None:
    end = time.monotonic() + wait
    while not done():
        if time.monotonic() > end:
            raise RecorderError(f"{otherwise} within {wait:g} s")
        rclpy.spin_once(node, timeout_sec=0.1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="recorder", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the results (default: %(default)s)")
    parser.add_argument("--frames", type=int, help="images to expect, for the progress bar")
    parser.add_argument("--fps", type=float, default=15.0, help="of the video (default: %(default)s)")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds to wait for node, camera and results each")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(remove_ros_args(argv))

    rclpy.init(args=argv)
    recording = Recording(args.out, args.fps)
    progress = tqdm(total=args.frames, unit="frame", desc="recording")
    node = Recorder(recording, progress)
    try:
        record(node, args.wait)
        problem = None
    except RecorderError as error:
        problem = str(error)
    except (KeyboardInterrupt, ExternalShutdownException):
        problem = "interrupted"
    finally:
        progress.close()
        recording.close()
        rclpy.try_shutdown()
    if problem is not None:
        print(f"recorder: error: {problem}", file=sys.stderr)
        return 1
    print(recording.summary(node.received))
    return 0


if __name__ == "__main__":
    sys.exit(main())
