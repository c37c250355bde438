"""Model metadata: what is written is read, what is wrong is refused with the reason."""

from __future__ import annotations

import json

import pytest

from probpose_ros.model_info import DetectorInfo, ModelInfoError, PoseInfo, from_json

POSE = PoseInfo(kind="pose", name="p", input_size=(192, 256), trained_on="photographs", metrics={"AP": 0.6})


@pytest.mark.parametrize("info", [POSE, DetectorInfo(kind="detector", name="d", input_size=(320, 320))])
def test_round_trip(info):
    assert from_json(info.to_json(), info.kind, "m.onnx") == info


def changed(**values) -> str:
    return json.dumps({**json.loads(POSE.to_json()), **values})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "m.onnx: no 'probpose' metadata; make the file with 'probpose export'"),
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object, got list"),
        (changed(format_version=2), "format_version 2; this version reads 1"),
        (changed(kind="detector"), "this is a 'detector' model; a 'pose' model is needed"),
        (changed(colour="red"), "unknown metadata colour"),
        (changed(input_size=[192]), r"input_size must be \[width, height\] in px, got \[192\]"),
        (changed(map_size=[48, -1]), "map_size must be"),
        (changed(padding="wide"), "padding must be of type float, got 'wide'"),
        (changed(name=None), "name must be of type str, got None"),
        ("[" * 100_000, "is not JSON"),
        (json.dumps({"format_version": 1, "kind": "pose"}), "incomplete metadata"),
    ],
)
def test_refused(text, words):
    with pytest.raises(ModelInfoError, match=words):
        from_json(text, "pose", "m.onnx")
