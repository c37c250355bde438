"""Records what the pose node says of each image: JSON lines, a video, a picture and a summary (see recording.py).

It ends when the camera has gone, or with Ctrl-C. With --bag also a ROS 2 bag of images, results, zones and status;
--from-bag makes the same of a bag, without listening.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image
from std_msgs.msg import UInt64
from tqdm import tqdm

from probpose_msgs.msg import PersonPoseArray
from probpose_ros.bags import STORAGES
from probpose_ros.recording import Recording
from probpose_ros.ros import qos
from probpose_ros.ros.bag_recorder import BagRecorder, replay
from probpose_ros.ros.convert import message_to_dict, result_of
from probpose_ros.ros.images import image_to_bgr
from probpose_ros.transport import transport_environment

KEPT_IMAGES = 100  # that wait for their result; older ones were dropped by the node
LAST_RESULT = 5.0  # seconds without anything new after which what is still missing counts as dropped


class RecorderError(RuntimeError):
    """Nothing could be recorded; the message says why."""


class Recorder(Node):
    """Matches results to images by stamp, in the order of the results."""

    def __init__(self, recording: Recording, progress: tqdm) -> None:
        super().__init__("recorder")
        self.bag: BagRecorder | None = None
        self.recording, self.progress = recording, progress
        self.received = 0
        self.sent: int | None = None  # images the camera has sent in all, once it says so
        self.heard = time.monotonic()  # when the newest message came
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
        self.total = self.create_subscription(UInt64, "images_sent", self._on_sent, qos.LATCHED)

    def complete(self) -> bool:
        """Every image is here, and the newest has its result (the node always answers the newest)."""
        return self.received == self.sent and self.finished == self.newest

    def _on_sent(self, msg: UInt64) -> None:
        self.sent, self.heard = msg.data, time.monotonic()

    def _on_image(self, msg: Image) -> None:
        self.received += 1
        self.heard = time.monotonic()
        self.newest = _stamp(msg)
        if self.bag is not None:
            self.bag.add("image", msg)
        self.images[self.newest] = msg
        while len(self.images) > KEPT_IMAGES:
            del self.images[next(iter(self.images))]
        self._match(self.newest)

    def _on_result(self, msg: PersonPoseArray) -> None:
        if self.bag is not None:
            self.bag.add("keypoints", msg)
        self.results[_stamp(msg)] = msg
        self.heard = time.monotonic()
        self._match(_stamp(msg))

    def _match(self, stamp: tuple[int, int]) -> None:
        if stamp not in self.images or stamp not in self.results:
            return
        image, message = self.images.pop(stamp), self.results.pop(stamp)
        self.recording.add(image_to_bgr(image), result_of(message), message_to_dict(message))
        self.finished = stamp
        self.progress.update()
        self.heard = time.monotonic()  # drawing and writing took a while


def _stamp(msg: Any) -> tuple[int, int]:
    return msg.header.stamp.sec, msg.header.stamp.nanosec


def record(node: Recorder, wait: float) -> None:
    """Until the camera has said that it is done and its last image has its result; or the camera is gone.

    RecorderError when nothing comes within ``wait`` seconds.
    """
    _spin_until(node, lambda: node.count_publishers("keypoints") > 0, wait, "the pose node did not appear")
    node.subscribe_to_images()
    _spin_until(node, lambda: node.received > 0, wait, f"no image on {node.image.topic_name}")
    _spin_until(node, lambda: node.recording.count > 0, wait, f"images, but no result on {node.keypoints.topic_name}")
    while node.sent is None and node.count_publishers("image"):
        rclpy.spin_once(node, timeout_sec=0.1)
    while not node.complete() and time.monotonic() < node.heard + LAST_RESULT:
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
    parser.add_argument("--bag", choices=STORAGES, help="a ROS 2 bag too: the new folder OUT/bag (needs rosbags)")
    parser.add_argument(
        "--from-bag", type=Path, metavar="BAG", help="do not listen: use the images and results in a bag"
    )
    parser.add_argument("--image-topic", help="of --from-bag, where the bag has several topics of images")
    parser.add_argument("--keypoints-topic", help="of --from-bag, where the bag has several topics of results")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(remove_ros_args(argv))

    os.environ.update(transport_environment())
    rclpy.init(args=argv)
    recording = Recording(args.out, args.fps)
    progress = tqdm(total=args.frames, unit="frame", desc="recording", disable=None)
    node = Recorder(recording, progress)
    problem = None
    try:
        if args.from_bag is not None:
            node.received = replay(recording, args.from_bag, args.image_topic, args.keypoints_topic)
        else:
            node.bag = BagRecorder(node, args.out / "bag", args.bag) if args.bag else None
            record(node, args.wait)
    except (RecorderError, ModuleNotFoundError) as error:
        problem = str(error)
    except (KeyboardInterrupt, ExternalShutdownException):
        problem = None if recording.count else "interrupted before there was a result"
    except OSError as error:  # a full disk
        problem = error.strerror or str(error)
        if recording.count:
            problem = f"stopped after {recording.count} frames: {problem}"
    finally:
        progress.close()
        rclpy.try_shutdown()
        for close in (recording.close, *([node.bag.close] if node.bag else [])):
            try:
                close()
            except OSError as error:
                problem = problem or str(error)
    if problem is not None:
        print(f"recorder: error: {problem}", file=sys.stderr)
        return 1
    print(recording.summary(node.sent or node.received))
    return 0


if __name__ == "__main__":
    sys.exit(main())
