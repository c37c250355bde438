"""ROS parameters = the fields of the config dataclasses: declared, described and checked from there, never twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from probpose_ros.config import ConfigError, NodeConfig, PipelineConfig, allowed, check_option

SPECS: dict[str, Field] = {spec.name: spec for config in (PipelineConfig, NodeConfig) for spec in fields(config)}


def default(spec: Field) -> Any:
    return spec.default if spec.default_factory is MISSING else spec.default_factory()


def descriptor(spec: Field) -> ParameterDescriptor:
    """What `ros2 param describe` shows: help, range, and whether it may change while the node runs."""
    # Typing is dynamic so that `marker_depth: 1` is as good as 1.0 and an empty list has a type; check_option decides.
    made = ParameterDescriptor(
        description=spec.metadata["help"],
        additional_constraints=allowed(spec),
        read_only=not spec.metadata["runtime"],
        dynamic_typing=True,
    )
    low, high = spec.metadata["minimum"], spec.metadata["maximum"]
    if low is not None and high is not None:
        if spec.type == "float":
            made.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        elif spec.type == "int":
            made.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return made


def declare(node: Node) -> tuple[PipelineConfig, NodeConfig]:
    """Declares every option as a parameter and returns the configs with the user's values.

    Raises ConfigError for a name that is no option (rclpy would ignore it without a word) and for a bad value.
    """
    overrides: dict[str, Parameter] = node._parameter_overrides  # rclpy shows undeclared ones nowhere else
    for name in overrides:
        if name not in SPECS and not node.has_parameter(name) and not name.startswith("qos_overrides."):
            raise ConfigError(f"unknown parameter {name!r}; the parameters are: {', '.join(sorted(SPECS))}")
    for name, spec in SPECS.items():
        if name in overrides and overrides[name].value is not None:  # an empty list in YAML has no type and no value
            check_option(spec, _plain(overrides[name].value))
    for name, spec in SPECS.items():
        node.declare_parameter(name, default(spec), descriptor(spec))
    return read(node)


def read(node: Node, changes: dict[str, Any] | None = None) -> tuple[PipelineConfig, NodeConfig]:
    """The configs as the parameters stand now, with ``changes`` in place of the values they name."""
    values: dict[str, Any] = {}
    for name, spec in SPECS.items():
        value = node.get_parameter(name).value
        values[name] = default(spec) if value is None else _plain(value)
    values.update(changes or {})
    pipeline = {spec.name: values[spec.name] for spec in fields(PipelineConfig)}
    node_only = {spec.name: values[spec.name] for spec in fields(NodeConfig)}
    return PipelineConfig(**pipeline), NodeConfig(**node_only)


def on_change(node: Node, apply: Callable[[PipelineConfig, NodeConfig], None]) -> None:
    """Calls ``apply`` with the new configs when parameters change. A ConfigError refuses the change."""

    def check(parameters: list[Parameter]) -> SetParametersResult:
        changes = {p.name: _plain(p.value) for p in parameters if p.name in SPECS}
        try:
            if changes:
                apply(*read(node, changes))
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool)) or value is None else list(value)
