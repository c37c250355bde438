"""Fixtures shared by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import write_tiny_detector, write_tiny_pose


@pytest.fixture(scope="session")
def tiny_detector_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_detector(tmp_path_factory.mktemp("models") / "tiny_detector.onnx")


@pytest.fixture(scope="session")
def tiny_pose_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pose(tmp_path_factory.mktemp("models") / "tiny_pose.onnx")
