"""No default stands twice with two values: dataclasses, config/pose.yaml and the launch file agree."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from probpose_ros.config import NodeConfig, PipelineConfig
from probpose_ros.parameter_file import parameter_file

ROOT = Path(__file__).parents[1]
# What the node needs for a first start but the launch file decides by itself.
LAUNCH_ONLY = {"namespace", "params_file", "rviz", "image_topic", "camera_info_topic", "depth_topic"}


def options() -> dict:
    configs = (PipelineConfig(), NodeConfig())
    return {spec.name: getattr(config, spec.name) for config in configs for spec in fields(config)}


def test_yaml_is_what_the_dataclasses_say() -> None:
    text = (ROOT / "config/pose.yaml").read_text(encoding="utf-8")
    assert text == parameter_file(), "python -m probpose_ros.parameter_file > config/pose.yaml"
    assert yaml.safe_load(text) == {"/**": {"ros__parameters": options()}}


def test_launch_arguments_are_options_and_write_no_default_again() -> None:
    """Without ROS's launch package: what the file says is read from its syntax tree."""
    tree = ast.parse((ROOT / "launch/pose.launch.py").read_text(encoding="utf-8"))
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    }
    assert set(tables["PARAMETERS"]) == {"compressed", "cameras", "model", "detector", "backend"}
    assert set(tables["PARAMETERS"]) < set(options())
    defaults = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if getattr(call.func, "id", "") == "DeclareLaunchArgument":
            value = next(keyword.value for keyword in call.keywords if keyword.arg == "default_value")
            name = call.args[0].value if isinstance(call.args[0], ast.Constant) else "every option and topic"
            defaults[name] = ast.literal_eval(value)
    assert defaults == {"every option and topic": "", "namespace": "probpose", "params_file": "", "rviz": "false"}
    assert set(tables["TOPICS"]) | {"namespace", "params_file", "rviz"} == LAUNCH_ONLY


def test_node_declares_what_the_yaml_says() -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2 (make test installs it)")
    from probpose_ros.ros.node import PoseNode

    rclpy = pytest.importorskip("rclpy")
    rclpy.init(domain_id=101)
    try:
        node = PoseNode(namespace="defaults")
        written = yaml.safe_load((ROOT / "config/pose.yaml").read_text(encoding="utf-8"))["/**"]["ros__parameters"]
        declared = {name: node.get_parameter(name).value for name in written}
        assert {
            name: list(value) if isinstance(written[name], list) else value for name, value in declared.items()
        } == (written)
        node.destroy_node()
    finally:
        rclpy.shutdown()


def test_commands_take_the_defaults_of_the_options() -> None:
    """An option of a command that has the name of a parameter writes no default of its own."""
    known = options()
    others = {("compare.py", "backend")}  # runs a single file, not the pipeline
    for file in [*ROOT.glob("probpose_ros/**/*.py"), *ROOT.glob("training/commands/*.py")]:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or getattr(call.func, "attr", "") != "add_argument":
                continue
            names = [arg.value[2:].replace("-", "_") for arg in call.args if isinstance(arg, ast.Constant)]
            default = next((keyword.value for keyword in call.keywords if keyword.arg == "default"), None)
            same = {name for name in names if name in known and (file.name, name) not in others}
            if same and isinstance(default, ast.Constant):
                assert default.value is None, f"{file.name}: {same} writes the default {default.value!r} again"
