"""The launch file's own functions, and its exit status, wherever launch is installed (it is not on PyPI)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

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
