"""Fixtures shared by the tests."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_models import write_tiny_detector, write_tiny_pose

# A robot, and the matrix of Pythons, have no torch: there the tests of training are left out as whole files.
TRAINING = {"torch", "probpose_training", "pycocotools"}


def _imports(file: Path) -> set[str]:
    """Top-level names of the modules that a file imports when it is loaded."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


collect_ignore: list[str] = []
if find_spec("torch") is None:
    collect_ignore += [file.name for file in sorted(Path(__file__).parent.glob("*.py")) if _imports(file) & TRAINING]


def pytest_report_header() -> str:
    return f"without torch: {len(collect_ignore)} test files of training are left out" if collect_ignore else ""


@pytest.fixture(scope="session")
def tiny_detector_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_detector(tmp_path_factory.mktemp("models") / "tiny_detector.onnx")


@pytest.fixture(scope="session")
def tiny_pose_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pose(tmp_path_factory.mktemp("models") / "tiny_pose.onnx")
