"""Parameters: what is refused, with which words, at start and at run time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

REASON = "needs ROS 2: rclpy (make test installs it)"
rclpy = pytest.importorskip("rclpy", reason=REASON)
pytestmark = pytest.mark.ros

from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from probpose_ros.config import ConfigError, NodeConfig, PipelineConfig  # noqa: E402
from probpose_ros.ros import parameters  # noqa: E402


@pytest.fixture
def context() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.shutdown()


def node_with(**values: Any) -> Node:
    overrides = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
    return rclpy.create_node("test", parameter_overrides=overrides)


def test_defaults_are_the_configs(context: None) -> None:
    assert parameters.declare(node_with()) == (PipelineConfig(), NodeConfig())


def test_values_arrive_and_a_whole_number_is_a_number(context: None) -> None:
    node = node_with(marker_depth=2, cameras=["a", "b"], levels=[0.9], use_sim_time=False)
    pipeline, config = parameters.declare(node)
    assert (config.marker_depth, config.cameras, pipeline.levels) == (2.0, ["a", "b"], [0.9])


@pytest.mark.parametrize(
    "values, words",
    [
        ({"detector_treshold": 0.5}, ["'detector_treshold'", "detector_threshold"]),
        ({"detector_threshold": 1.5}, ["detector_threshold = 1.5", "0.0 to 1.0"]),
        ({"detector_threshold": "high"}, ["'high'", "a number"]),
        ({"max_people": 0}, ["max_people = 0", "1 to 100"]),
        ({"backend": "cuda"}, ["'cuda'", "auto, tensorrt, onnxruntime"]),
        ({"cameras": "front"}, ["'front'", "list of strings"]),
    ],
)
def test_refused_at_start(context: None, values: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parameters.declare(node_with(**values))
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


def test_change_at_run_time(context: None) -> None:
    node = node_with()
    parameters.declare(node)
    applied: list[tuple[PipelineConfig, NodeConfig]] = []
    parameters.on_change(node, lambda *configs: applied.append(configs))

    def change(name: str, value: Any) -> Any:
        return node.set_parameters([Parameter(name, value=value)])[0]

    assert change("detector_threshold", 0.7).successful and change("marker_depth", 3).successful
    assert (applied[-1][0].detector_threshold, applied[-1][1].marker_depth) == (0.7, 3.0)
    for name, value, word in (
        ("detector_threshold", 1.5, "1.0"), ("detector_threshold", "high", "0.0 to 1.0"),
        ("model", "other", "read-only"),
    ):  # fmt: skip
        result = change(name, value)
        assert not result.successful and name in result.reason and word in result.reason
    assert len(applied) == 2 and node.get_parameter("detector_threshold").value == 0.7


def test_what_apply_refuses_stays_as_it_was(context: None) -> None:
    node = node_with()
    parameters.declare(node)

    def refuse(*configs: Any) -> None:
        raise ConfigError("presence_out = 0.9: must not be above presence_in")

    parameters.on_change(node, refuse)
    result = node.set_parameters([Parameter("presence_out", value=0.9)])[0]
    assert (result.successful, result.reason) == (False, "presence_out = 0.9: must not be above presence_in")
    assert node.get_parameter("presence_out").value == PipelineConfig().presence_out


def test_descriptors_say_range_and_help(context: None) -> None:
    node = node_with()
    parameters.declare(node)
    threshold, model, people = (node.describe_parameter(n) for n in ("detector_threshold", "model", "max_people"))
    assert (threshold.floating_point_range[0].from_value, threshold.floating_point_range[0].to_value) == (0.0, 1.0)
    assert (people.integer_range[0].from_value, people.integer_range[0].to_value) == (1, 100)
    assert model.read_only and not threshold.read_only and "person" in threshold.description
