"""The walls of docs/architecture.md, read from every import statement."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAINING_ONLY = {"torch", "lightning_fabric", "lightning", "pycocotools", "probpose_training"}
NEVER = {"torchvision", "timm"}
ROS = {
    "rclpy", "rcl_interfaces", "lifecycle_msgs", "launch", "launch_ros", "tf2_ros", "cv_bridge", "message_filters",
    "builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "probpose_msgs", "sensor_msgs", "std_msgs",
    "vision_msgs", "visualization_msgs", "hri_msgs", "foxglove_msgs",
}  # fmt: skip


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays inside its package and so behind its wall.
            if node.level == 0 and node.module:
                yield node.lineno, node.module
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def crossings(folder: str, forbidden: set[str], *, besides: str | None = None) -> list[str]:
    """``file:line module`` of every import of a forbidden top-level or dotted name below the folder."""
    found = []
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"nothing to read in {folder}"
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        if besides and name.startswith(besides):
            continue
        for line, module in imports(file):
            if any(module == wall or module.startswith(wall + ".") for wall in forbidden):
                found.append(f"{name}:{line} {module}")
    return found


def test_run_time_never_imports_torch_or_training() -> None:
    assert not crossings("probpose_ros", TRAINING_ONLY | NEVER)


def test_only_the_ros_folder_knows_ros() -> None:
    assert not crossings("probpose_ros", ROS, besides="probpose_ros/ros/")


def test_core_never_imports_the_ros_folder() -> None:
    # The demo starts the nodes as processes; the core works where ROS is missing.
    assert not crossings("probpose_ros", {"probpose_ros.ros"}, besides="probpose_ros/ros/")


def test_training_knows_no_ros() -> None:
    assert not crossings("training", ROS | NEVER | {"probpose_ros.ros"})


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("import torch.nn as nn", "torch.nn"),
        ("from torch import nn", "torch"),
        ("def f():\n    import torch", "torch"),
        ("from probpose_ros import ros", "probpose_ros.ros"),
    ],
)
def test_the_reader_sees_every_kind_of_import(tmp_path: Path, line: str, module: str) -> None:
    file = tmp_path / "probe.py"
    file.write_text(line)
    assert module in {found for _, found in imports(file)}
