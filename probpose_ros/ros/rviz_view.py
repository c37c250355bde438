"""RViz on config/pose.rviz, in the camera's own frame: waits for the first image or camera_info to learn its frame_id.

``ros2 launch probpose_ros pose.launch.py rviz:=true`` starts it; on its own: ``ros2 run probpose_ros rviz_view``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rclpy
import yaml
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from probpose_ros.ros import qos
from probpose_ros.transport import share_file, transport_environment

CONFIG_PREFIX = "/probpose"  # of the topics in config/pose.rviz
TRANSPORTS = ("/compressed", "/compressedDepth", "/theora")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rviz_view", description=__doc__.splitlines()[0])
    parser.add_argument("--prefix", default=CONFIG_PREFIX, help="of the node's topics (default: %(default)s)")
    parser.add_argument("--image", help="image topic (default: PREFIX/image)")
    parser.add_argument("--camera-info", help="camera_info topic (default: PREFIX/camera_info)")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(remove_ros_args(argv))
    image, camera_info = args.image or f"{args.prefix}/image", args.camera_info or f"{args.prefix}/camera_info"
    if shutil.which("rviz2") is None:
        print("rviz_view: error: rviz2 is not installed: sudo apt install ros-$ROS_DISTRO-rviz2", file=sys.stderr)
        return 1
    os.environ.update(transport_environment())
    try:
        frame = camera_frame(image, camera_info)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        rclpy.try_shutdown()
    if not frame:
        print(f"rviz_view: error: {image} has no frame_id, so nothing has a place in 3D; set it in the camera's driver",
              file=sys.stderr)  # fmt: skip
        return 1
    view = yaml.safe_load(share_file("config/pose.rviz").read_text(encoding="utf-8"))
    with tempfile.NamedTemporaryFile("w", suffix=".rviz", prefix="probpose-", delete=False, encoding="utf-8") as file:
        yaml.safe_dump(adapted(view, args.prefix, image, frame), file, sort_keys=False)
    print(f"rviz_view: frame {frame}, {file.name}")
    command = ["rviz2", "-d", file.name, "--ros-args"]
    for topic in camera_info_topics(image):
        if topic != camera_info:
            command += ["-r", f"{topic}:={camera_info}"]
    sys.stdout.flush()
    os.execvp(command[0], command)  # signals reach RViz itself


def camera_frame(image: str, camera_info: str) -> str:
    """The frame_id of the first message on one of the two topics; says every few seconds that it waits."""
    rclpy.init(args=[])
    node = rclpy.create_node("rviz_view")
    found: list[str] = []

    def learn(msg: Any) -> None:
        found.append(msg.header.frame_id)

    kind = CompressedImage if image.endswith(TRANSPORTS) else Image
    for type_, topic in ((kind, image), (CameraInfo, camera_info)):
        node.create_subscription(type_, topic, learn, qos.sensor_input())
    said = time.monotonic()
    while not found:
        rclpy.spin_once(node, timeout_sec=0.2)
        if time.monotonic() - said > 5:
            said = time.monotonic()
            node.get_logger().info(f"RViz opens with the first message on {image} or {camera_info}")
    return found[0]


def adapted(view: dict[str, Any], prefix: str, image: str, frame: str) -> dict[str, Any]:
    """The content of pose.rviz with the camera's frame and with these topics instead of those of CONFIG_PREFIX."""
    manager = view["Visualization Manager"]
    manager["Global Options"]["Fixed Frame"] = frame
    for display in manager["Displays"]:
        if topic := display.get("Topic"):
            name = topic["Value"].removeprefix(CONFIG_PREFIX)
            topic["Value"] = image if name == "/image" else prefix + name
    return view


def camera_info_topics(image: str) -> list[str]:
    """Where RViz's Camera display looks for the camera_info of an image topic: beside it, by versions of RViz."""
    beside = {str(Path(image).with_name("camera_info"))}
    if image.endswith(TRANSPORTS):
        beside.add(str(Path(image).parent.with_name("camera_info")))
    return sorted(beside)


if __name__ == "__main__":
    sys.exit(main())
