"""A camera for trying things out: publishes images of the virtual camera, a file, a folder or a real camera.

The pinhole of its camera_info is assumed (see virtual_camera.camera_matrix), not calibrated.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, UInt64

from probpose_ros.ros import qos
from probpose_ros.ros.images import bgr_to_image
from probpose_ros.transport import transport_environment
from probpose_ros.virtual_camera import VirtualCamera, camera_matrix


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="camera_node", description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="image, folder, video, bag or camera index (default: the virtual camera)")
    parser.add_argument("--frames", type=int, help="stop after this many images (default: all there are)")
    parser.add_argument("--rate", type=float, default=15.0, help="images a second (default: %(default)s)")
    parser.add_argument("--subscribers", type=int, default=0, help="wait for this many subscribers first (default: 0)")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds to wait for them (default: %(default)s)")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(remove_ros_args(argv))
    if not 0 < args.rate <= 1000:
        parser.error(f"--rate {args.rate}: must be above 0 and at most 1000")
    try:
        images = open_images(args.source, args.frames)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    os.environ.update(transport_environment())
    rclpy.init(args=argv)
    try:
        return publish_images(CameraNode(), images, args.rate, args.subscribers, args.wait)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        rclpy.try_shutdown()


def open_images(source: str | None, frames: int | None) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 BGR images; at most ``frames``."""
    if source is None:
        return iter(VirtualCamera() if frames is None else VirtualCamera(frames))
    from probpose_ros.sources import open_source

    return itertools.islice((image for _, image in open_source(source)), frames)


class CameraNode(Node):
    def __init__(self) -> None:
        super().__init__("camera")
        # Reliable, so that a recorder misses nothing; the pose node, best effort, loses nothing over shared memory.
        profile = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self.images = self.create_publisher(Image, "image", profile)
        self.infos = self.create_publisher(CameraInfo, "camera_info", profile)
        self.sent = self.create_publisher(UInt64, "images_sent", qos.LATCHED)  # once, at the end

    def publish(self, image: np.ndarray) -> None:
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id="camera_optical_frame")
        height, width = image.shape[:2]
        k = camera_matrix(width, height)
        info = CameraInfo(header=header, width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
        info.k, info.r = k.ravel().tolist(), np.eye(3).ravel().tolist()
        info.p = np.column_stack([k, np.zeros(3)]).ravel().tolist()
        self.infos.publish(info)
        self.images.publish(bgr_to_image(image, header))


def publish_images(node: CameraNode, images: Iterator[np.ndarray], rate: float, subscribers: int, wait: float) -> int:
    """Publishes at a fixed rate once ``subscribers`` are there; exit status."""
    deadline = time.monotonic() + wait
    while node.images.get_subscription_count() < subscribers:
        if time.monotonic() > deadline:
            found, topic = node.images.get_subscription_count(), node.images.topic_name
            node.get_logger().fatal(f"{found} of {subscribers} subscribers of {topic} came within {wait:g} s")
            return 1
        rclpy.spin_once(node, timeout_sec=0.05)
    # We know of them; they learn of us a moment later, and a reader drops what comes from a writer it does not know.
    settled = time.monotonic() + 0.3
    while subscribers and time.monotonic() < settled:
        rclpy.spin_once(node, timeout_sec=0.05)

    due, sent = time.monotonic(), 0
    for image in images:
        time.sleep(max(0.0, due - time.monotonic()))
        if not rclpy.ok():
            return 0
        node.publish(image)
        sent += 1
        due = max(due + 1 / rate, time.monotonic())
    # A publisher that goes away takes with it what a slow subscriber has not read: stay until the recorder has left.
    node.sent.publish(UInt64(data=sent))
    deadline = time.monotonic() + wait
    while node.sent.get_subscription_count() and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
