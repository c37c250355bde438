"""What the node says of its calibration: identity in every message, and the reason where it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_bench import Bench, PersonPoseArray
from test_calibration import example
from test_ros_node import PEOPLE, make  # noqa: F401  (fixture)

pytestmark = pytest.mark.ros

from probpose_ros.calibration import load_calibration  # noqa: E402
from probpose_ros.config import PipelineConfig  # noqa: E402
from probpose_ros.pipeline import Pipeline  # noqa: E402
from probpose_ros.types import KeypointState, RegionKind  # noqa: E402


@pytest.fixture
def path(tiny_detector_model: Path, tiny_pose_model: Path, tmp_path: Path) -> Path:
    """A calibration of the tiny models."""
    subject = Pipeline(PipelineConfig(detector=str(tiny_detector_model), model=str(tiny_pose_model))).subject
    path = tmp_path / "a.calibration.json"
    path.write_text(example(subject).to_json())
    return path


def answers(bench: Bench) -> tuple[PersonPoseArray, Any, Any]:
    """The people, zones and a status that follow from one image."""
    bench.listen_to_results()
    publisher = bench.publisher()
    message = bench.image(PEOPLE)
    people, zones = bench.answer(publisher, message), bench.answer(publisher, message, "zones")
    (status, *_) = bench.until(lambda: [m for m in bench.messages["status"] if m.processed], "status")
    return people, zones, status


def test_identity_and_validity(make: Callable[..., Bench], path: Path) -> None:  # noqa: F811
    calibration = load_calibration(path)
    people, zones, status = answers(make(calibration=str(path)))
    assert people.calibration_id == zones.calibration_id == calibration.id != ""
    assert status.calibration_hash == calibration.sha256 and status.message == ""
    assert people.state == PersonPoseArray.OK
    for person in people.people:
        for keypoint in person.keypoints:
            assert keypoint.regions[0].kind == RegionKind.MARGINAL and keypoint.regions[0].valid
    assert zones.kind == RegionKind.MARGINAL and np.isnan(zones.delta)


def test_refused_and_running_on(make: Callable[..., Bench], path: Path) -> None:  # noqa: F811
    path.write_text(path.read_text().replace('"fp32"', '"fp16"'))
    people, zones, status = answers(make(calibration=str(path)))
    assert people.calibration_id == zones.calibration_id == status.calibration_hash == ""
    assert "calibrated for precision 'fp16', but 'fp32' is running" in status.message
    assert people.state == PersonPoseArray.UNKNOWN and len(people.people) == 2
    for person in people.people:
        for keypoint in person.keypoints:
            assert keypoint.state == KeypointState.UNKNOWN
            assert not any(region.valid or region.kind for region in keypoint.regions)
    assert not any(zone.valid for zone in zones.zones)
