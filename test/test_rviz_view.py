"""config/pose.rviz, and the program that opens it in the camera's frame. rviz2 itself is not on PyPI: what its loader
needs was read in its sources (branches humble and jazzy), and a stand-in on PATH tells how it is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ros_domains import next_domain

ROOT = Path(__file__).parents[1]
VIEW = ROOT / "config/pose.rviz"
# What the displays read; anything else in the file would be ignored without a word.
COMMON = {"Class", "Name", "Enabled"}
PROPERTIES = {
    "rviz_default_plugins/Camera": {"Topic", "Image Rendering", "Zoom Factor", "Far Plane Distance", "Visibility"},
    "rviz_default_plugins/MarkerArray": {"Topic"},
    "rviz_default_plugins/Axes": {"Length", "Radius"},
    "rviz_default_plugins/Image": {"Topic"},
}
QOS = {"Value", "Depth", "History Policy", "Reliability Policy", "Durability Policy"}


@pytest.fixture
def view() -> dict:
    return yaml.safe_load(VIEW.read_text(encoding="utf-8"))


def test_displays_are_of_rviz_and_show_the_nodes_topics(view: dict) -> None:
    displays = view["Visualization Manager"]["Displays"]
    for display in displays:
        assert set(display) <= COMMON | PROPERTIES[display["Class"]]
        assert set(display.get("Topic", QOS)) == QOS
    topics = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert topics == {"/probpose/image", "/probpose/markers", "/probpose/overlay"}
    shown = {display["Class"].split("/")[1] for display in displays if display["Enabled"]}
    assert shown >= {"Camera", "MarkerArray"}, "it opens on something to see"
    names = {display["Name"] for display in displays} | {"Value"}
    assert set(displays[0]["Visibility"]) <= names and displays[0]["Visibility"]["People"]
    overlay = next(display for display in displays if display["Name"] == "Overlay")
    assert not overlay["Enabled"], "the node draws it only while somebody subscribes"


def test_docks_have_the_names_that_the_stored_layout_places(view: dict) -> None:
    geometry = view["Window Geometry"]
    state = bytes.fromhex(geometry["QMainWindow State"])
    docks = [panel["Name"] for panel in view["Panels"]] + ["Camera with people", "Overlay"]
    assert all(name.encode("utf-16-be") in state for name in docks)
    displays = {display["Name"] for display in view["Visualization Manager"]["Displays"]}
    assert displays >= {"Camera with people", "Overlay"}, (
        "a display that is off is switched on if its dock is not stored"
    )
    # visualization_frame.cpp reads these into a variable that it does not initialise.
    assert (geometry["Hide Left Dock"], geometry["Hide Right Dock"]) == (False, False)


@pytest.mark.ros
def test_topics_and_frame_are_put_in(view: dict) -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2 (make test installs it)")
    from probpose_ros.ros.rviz_view import adapted, camera_info_topics

    made = adapted(view, "/robot/front", "/front/image_raw", "front_optical")["Visualization Manager"]
    assert made["Global Options"]["Fixed Frame"] == "front_optical"
    topics = [display["Topic"]["Value"] for display in made["Displays"] if "Topic" in display]
    assert topics == ["/front/image_raw", "/robot/front/markers", "/robot/front/overlay"]
    assert camera_info_topics("/front/image_raw") == ["/front/camera_info"]
    assert camera_info_topics("/front/image/compressed") == ["/front/camera_info", "/front/image/camera_info"]


@pytest.mark.ros
def test_filled_ellipses_are_not_transparent_in_rviz() -> None:
    """triangle_list_marker.cpp multiplies the opacity of every corner by the marker's own."""
    pytest.importorskip("probpose_msgs.msg", reason="needs ROS 2 (make test installs it)")
    from std_msgs.msg import Header
    from test_ros_convert import some_result
    from test_ros_markers import LENS

    from probpose_ros.config import NodeConfig
    from probpose_ros.ros.markers import people_markers

    ellipses = people_markers(some_result(1), [], Header(), LENS, NodeConfig()).markers[0]
    assert ellipses.type == ellipses.TRIANGLE_LIST and ellipses.colors
    assert all(ellipses.color.a * color.a > 0.2 for color in ellipses.colors)


CAMERA = """
import rclpy
from sensor_msgs.msg import CameraInfo
rclpy.init(); node = rclpy.create_node("camera")
publisher = node.create_publisher(CameraInfo, "/front/info", 1)
info = CameraInfo(); info.header.frame_id = "front_optical"
node.create_timer(0.1, lambda: publisher.publish(info)); rclpy.spin(node)
"""


@pytest.mark.ros
def test_rviz_is_started_in_the_frame_of_a_camera(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2 (make test installs it)")
    rviz = tmp_path / "rviz2"
    rviz.write_text(f'#!{sys.executable}\nimport json, sys\nprint("CALLED", json.dumps(sys.argv[1:]))\n')
    rviz.chmod(0o755)
    environment = {
        **os.environ, "ROS_DOMAIN_ID": str(next_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path),
    }  # fmt: skip
    camera = subprocess.Popen([sys.executable, "-c", CAMERA], env=environment, stderr=subprocess.DEVNULL)
    command = [sys.executable, "-m", "probpose_ros.ros.rviz_view"]
    topics = ["--image", "/front/image_raw", "--camera-info", "/front/info"]
    try:
        done = subprocess.run(
            [*command, *topics], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    finally:
        camera.terminate()
        camera.wait(10)
    assert done.returncode == 0, done.stderr
    option, path, *rest = json.loads(done.stdout.split("CALLED ")[1])
    assert option == "-d" and rest == ["--ros-args", "-r", "/front/camera_info:=/front/info"]
    made = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    assert made["Visualization Manager"]["Global Options"]["Fixed Frame"] == "front_optical"

    environment["PATH"] = str(tmp_path / "nothing")
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "sudo apt install ros-$ROS_DISTRO-rviz2" in done.stderr
