"""What the node says of its calibration: identity in every message, and the reason where it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_bench import Bench, PersonPoseArray, ZoneArray
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


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"fp32"', '"fp16"', "calibrated for precision 'fp16', but 'fp32' is running"),
        ('"model_sha256": "', '"model_sha256": "0', "calibrated for model_sha256"),
        ('"input_size": [\n   ', '"input_size": [\n   9', "calibrated for input_size"),
        ("  0.95\n", "  1.95\n", "levels must lie between 0 and 1, got 1.95"),
        ('"marginal",', "", "not JSON"),
    ],
    ids=["precision", "model", "input size", "level", "damaged"],
)
def test_refused_and_running_on(  # noqa: F811
    make: Callable[..., Bench],  # noqa: F811
    path: Path,
    old: str,
    new: str,
    words: str,
) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    people, zones, status = answers(make(calibration=str(path)))
    assert people.calibration_id == zones.calibration_id == status.calibration_hash == ""
    assert words in status.message
    assert people.state == PersonPoseArray.UNKNOWN and len(people.people) == 2
    for person in people.people:
        for keypoint in person.keypoints:
            assert keypoint.state == KeypointState.UNKNOWN
            assert not any(region.valid or region.kind for region in keypoint.regions)
    assert not any(zone.valid for zone in zones.zones)


def test_too_few_samples_are_not_valid(make: Callable[..., Bench], path: Path) -> None:  # noqa: F811
    calibration = load_calibration(path)
    few = tuple(replace(group, marginal=(group.marginal[0], np.inf)) for group in calibration.groups)
    path.write_text(replace(calibration, groups=few, sha256="").to_json())
    people, zones, _ = answers(make(calibration=str(path)))
    assert people.state == PersonPoseArray.OK and len(people.people) == 2  # the people are there as ever
    for person in people.people:
        for keypoint in person.keypoints:
            assert [region.valid for region in keypoint.regions] == [True, False]
    assert zones.zones and not any(zone.valid for zone in zones.zones)  # made of the highest level
    assert zones.state == ZoneArray.UNKNOWN
