"""The launch file's own functions, and its exit status, wherever launch is installed (it is not on PyPI)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ros_domains import next_domain

pytestmark = pytest.mark.ros
REASON = "launch and launch_ros are not on PyPI; this test runs where ROS is installed"
launch = pytest.importorskip("launch", reason=REASON)
pytest.importorskip("launch_ros", reason=REASON)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pose():
    spec = importlib.util.spec_from_file_location("pose_launch", ROOT / "launch/pose.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shipped_params_file_is_for_the_node_in_any_namespace(pose):
    for namespace in ("probpose", "robot/head", ""):
        assert pose.node_parameters(str(ROOT / "config/pose.yaml"), namespace)["max_people"] == 8


@pytest.mark.parametrize(
    "text", ["/probpose/pose_node:\n", "probpose/pose_node:\n", "/**/pose_node:\n", "probpose:\n  pose_node:\n"]
)
def test_keys_that_match_the_node(pose, tmp_path, text):
    path = tmp_path / "p.yaml"
    depth = "  " * text.count("\n")
    path.write_text(f"{text}{depth}ros__parameters:\n{depth}  cameras: [front]\n")
    assert pose.node_parameters(str(path), "probpose")["cameras"] == ["front"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("pose_node:\n  ros__parameters: {threads: 1}\n", "nothing in it is for /probpose/pose_node"),
     ("- a list\n", "nothing in it is for"), ("a: [1\n", "not YAML")],
)  # fmt: skip
def test_params_files_that_ros_would_ignore_are_refused(pose, tmp_path, text, message):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        pose.node_parameters(str(path), "probpose")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        pose.node_parameters(str(tmp_path / "none.yaml"), "probpose")


def test_arguments_become_parameters_and_remappings(pose):
    given = dict.fromkeys([*pose.PARAMETERS, *pose.TOPICS], "")
    assert pose.parameter_overrides(given) == {} and pose.remappings(given, []) == []
    given.update(compressed="True", cameras="[front, 'rear']", image_topic="/{camera}/image_raw")
    overrides = pose.parameter_overrides(given)
    assert overrides == {"compressed": True, "cameras": ["front", "rear"]}
    assert pose.remappings(given, overrides["cameras"]) == [
        ("front/image", "/front/image_raw"), ("rear/image", "/rear/image_raw")
    ]  # fmt: skip
    with pytest.raises(ValueError, match="must contain {camera}"):
        pose.remappings({**given, "image_topic": "/image"}, ["front"])
    with pytest.raises(ValueError, match="compressed:=maybe: must be true or false"):
        pose.parameter_overrides({**given, "compressed": "maybe"})


@pytest.mark.parametrize("arguments", [["model:=nothing"], ["params_file:=/nowhere.yaml"]], ids=["model", "params"])
def test_a_node_that_cannot_run_fails_the_launch(arguments):
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    service = launch.LaunchService(argv=arguments)
    source = PythonLaunchDescriptionSource(str(ROOT / "launch/pose.launch.py"))
    pairs = [tuple(argument.split(":=")) for argument in arguments]
    service.include_launch_description(launch.actions.IncludeLaunchDescription(source, launch_arguments=pairs))
    assert service.run() == 1


def test_rviz_looks_at_the_nodes_topics(pose):
    given = dict.fromkeys([*pose.PARAMETERS, *pose.TOPICS], "")
    assert pose.rviz_topics({**given, "namespace": "probpose"}, []) == []
    given.update(namespace="/robot/", image_topic="/camera/image_raw", camera_info_topic="info")
    assert pose.rviz_topics(given, []) == ["--image", "/camera/image_raw", "--camera-info", "/robot/info"]
    given.update(image_topic="/{camera}/image", camera_info_topic="")
    assert pose.rviz_topics(given, ["front", "rear"]) == ["--image", "/front/image"]


def test_the_launched_node_answers_and_ends_cleanly(tmp_path):
    """launch_testing, as a process of its own: its pytest plugin does not run under every pytest."""
    pytest.importorskip("launch_testing", reason=REASON)
    pytest.importorskip("onnx", reason="the tests' models are made with onnx (pip install onnx)")
    command = [sys.executable, "-m", "launch_testing.launch_test", str(ROOT / "test/launch_pose_node.py")]
    paths = [str(ROOT), str(ROOT / "test"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "ROS_DOMAIN_ID": str(next_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(tmp_path),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran 3 tests" in done.stderr and "Ran 2 tests" in done.stderr  # running and after the shutdown
