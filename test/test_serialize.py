"""JSON of results: the field names are those of the message files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_models import person_image

from probpose_ros import Pipeline, PipelineConfig
from probpose_ros.serialize import frame_to_dict, to_json
from probpose_ros.types import FrameResult, FrameState

MESSAGES = Path(__file__).parents[1] / "probpose_msgs/msg"


def fields_of(message: str) -> list[str]:
    """Field names of a .msg file, without constants, in order."""
    text = re.sub(r"#.*", "", (MESSAGES / f"{message}.msg").read_text())
    return [line.split()[1] for line in text.splitlines() if line.strip() and "=" not in line]


@pytest.fixture(scope="module")
def frame(tiny_detector_model, tiny_pose_model) -> FrameResult:
    pipeline = Pipeline(PipelineConfig(detector=str(tiny_detector_model), model=str(tiny_pose_model)))
    return pipeline(person_image((40, 40, 100, 200), (200, 30, 260, 220)))


@pytest.fixture
def values(frame) -> dict:
    line = to_json(frame_to_dict(frame, levels=[0.5, 0.95], model="tiny", stamp=1.25, frame_id="a.png", sequence=7))
    assert "\n" not in line
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_field_names_are_the_messages(values):
    assert list(values) == fields_of("PersonPoseArray")
    person = values["people"][0]
    assert list(person) == fields_of("PersonPose")
    keypoint = person["keypoints"][0]
    assert set(keypoint) - set(fields_of("Keypoint")) == {"peak"}
    assert set(fields_of("Keypoint")) <= set(keypoint)
    assert list(keypoint["regions"][0]) == fields_of("Region")


def test_values(values, frame):
    assert values["header"] == {"stamp": {"sec": 1, "nanosec": 250_000_000}, "frame_id": "a.png"}
    assert (values["sequence"], values["state"], values["model"]) == (7, int(FrameState.OK), "tiny")
    assert (values["image_width"], values["image_height"]) == (320, 240)
    assert values["age_ms"] is None  # unknown is null, never 0
    assert len(values["people"]) == 2
    for found, person in zip(values["people"], frame.people, strict=True):
        np.testing.assert_allclose([[k["x"], k["y"]] for k in found["keypoints"]], person.keypoints, rtol=1e-6)
        np.testing.assert_allclose(found["window"], person.window, rtol=1e-6)
        assert [k["state"] for k in found["keypoints"]] == person.states.tolist()
        for k, keypoint in enumerate(found["keypoints"]):
            assert keypoint["id"] == k
            np.testing.assert_allclose(keypoint["covariance"], person.regions.covariances[k], rtol=1e-6)
            for j, region in enumerate(keypoint["regions"]):
                shape = [region[name] for name in ("x", "y", "semi_major", "semi_minor", "theta")]
                np.testing.assert_allclose(shape, person.regions.ellipses[k, j], rtol=1e-6, atol=1e-9)
                assert region["valid"] is False and len(region["polygon"]) == len(person.regions.polygons[k][j])


def test_nan_is_null_everywhere():
    assert to_json({"a": [float("nan"), 1.0, float("inf")], "b": np.float32("nan")}) == '{"a":[null,1.0,null],"b":null}'


def test_no_people():
    values = frame_to_dict(FrameResult((), 4, 3, FrameState.NO_PERSON_DETECTED), levels=[0.5], model="m")
    assert values["people"] == [] and values["state"] == 2
    assert np.isnan(values["processing_ms"])
