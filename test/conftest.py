"""Fixtures shared by the tests."""

from __future__ import annotations

import ast
import logging
from importlib.util import find_spec
from pathlib import Path

import pytest

# A robot has no torch, and onnx only from pip: there, test files that import what is missing are left out as a whole.
NEEDS = {
    "torch": {"torch", "probpose_training", "pycocotools"},
    "onnx": {"onnx", "tiny_models", "tensorrt_double", "poisoned_models"},
}


def _imports(file: Path) -> set[str]:
    """Top-level names of the modules that a file imports when it is loaded."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


_missing = [library for library in NEEDS if find_spec(library) is None]
_unwanted = {name for library in _missing for name in NEEDS[library]}
collect_ignore = [file.name for file in sorted(Path(__file__).parent.glob("test_*.py")) if _imports(file) & _unwanted]


def pytest_report_header() -> str:
    return f"without {', '.join(_missing)}: {len(collect_ignore)} test files are left out" if _missing else ""


@pytest.fixture(autouse=True)
def loggers_that_are_heard() -> None:
    """ROS's launch, once it is imported, makes every new logger one that caplog does not hear."""
    logging.setLoggerClass(logging.Logger)


@pytest.fixture(scope="session")
def tiny_detector_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = pytest.importorskip("tiny_models", reason="the tests' models are made with onnx (pip install onnx)")
    return models.write_tiny_detector(tmp_path_factory.mktemp("models") / "tiny_detector.onnx")


@pytest.fixture(scope="session")
def tiny_pose_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = pytest.importorskip("tiny_models", reason="the tests' models are made with onnx (pip install onnx)")
    return models.write_tiny_pose(tmp_path_factory.mktemp("models") / "tiny_pose.onnx")
