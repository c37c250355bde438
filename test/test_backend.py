"""Loading model files: onnxruntime against ONNX's own reference evaluator, and what is refused."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from tiny_models import POSE_INFO, person_image, write_tiny_pose

from probpose_ros.backends import BackendError, load
from probpose_ros.config import PipelineConfig
from probpose_ros.model_info import METADATA_KEY, from_json
from probpose_ros.models import find_model, model_names


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request):
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="openvino is optional: pip install openvino")
    return request.param


def test_outputs_agree_with_the_reference_evaluator(tiny_pose_model):
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), dtype=np.uint8)
    session = load(tiny_pose_model)
    reference = ReferenceEvaluator(onnx.load(tiny_pose_model))
    found = session.run(crops)
    expected = dict(zip(reference.output_names, reference.run(None, {"image": crops}), strict=True))
    assert set(found) == set(expected) == {"keypoints", "presence", "visibility", "quality", "peak", "probmap"}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", [PipelineConfig().model, PipelineConfig().detector])
def test_bundled_models_say_the_same_on_every_backend(name, backend):
    expected, session = load(find_model(name), "onnxruntime", 1), load(find_model(name), backend)
    assert session.backend == backend and session.metadata == expected.metadata
    _, height, width, _ = session.inputs["image"].shape
    crops = np.stack([cv2.resize(person_image((100, 10 + i, 220, 230)), (width, height)) for i in range(3)])
    for batch in (1, 3):
        found = session.run(crops[:batch])
        for output, values in expected.run(crops[:batch]).items():
            np.testing.assert_allclose(found[output], values, rtol=1e-3, atol=1e-3, err_msg=output)


def test_results_stay_when_the_session_runs_again(tiny_detector_model, backend):
    session = load(tiny_detector_model, backend)
    dark, bright = np.zeros((1, 160, 160, 3), np.uint8), person_image((40, 40, 100, 120), size=(160, 160))[None]
    first = session.run(dark)["scores"]
    assert session.run(np.concatenate([bright, dark]))["scores"].max() > 0.5  # another batch size, too
    session.run(bright)
    assert not first.any()


def test_without_openvino_the_error_says_what_to_do(tiny_pose_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match="openvino cannot be imported .*; run: pip install openvino"):
        load(tiny_pose_model, "openvino")


def test_session_describes_itself(tiny_detector_model, backend):
    session = load(tiny_detector_model, backend, threads=1)
    assert from_json(session.metadata[METADATA_KEY], "detector", "").name == "tiny_detector"
    assert session.inputs["image"].shape == ("B", 160, 160, 3)
    assert session.inputs["image"].dtype == np.uint8
    assert str(session.outputs["boxes"]) == "float32 (B, 4, 4)"
    feed = {"image": np.zeros((1, 160, 160, 3), np.uint8)}
    np.testing.assert_array_equal(session.run(feed)["boxes"], session.run(feed["image"])["boxes"])


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.onnx: no such model file"):
        load(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 500])
def test_corrupt_file(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(BackendError, match=r"broken.onnx: (onnxruntime )?cannot load it as an ONNX model") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_truncated_file(tmp_path, tiny_pose_model):
    path = tmp_path / "half.onnx"
    path.write_bytes(tiny_pose_model.read_bytes()[:5000])
    with pytest.raises(BackendError, match="cannot load"):
        load(path)


def test_unknown_backend(tiny_pose_model):
    with pytest.raises(BackendError, match="backend = 'cuda': must be one of auto, tensorrt, onnxruntime, openvino"):
        load(tiny_pose_model, "cuda")


def test_models_are_found_by_name_and_by_path(tmp_path, monkeypatch):
    prefix = tmp_path / "install"
    folder = prefix / "share/probpose_ros/models"
    folder.mkdir(parents=True)
    path = write_tiny_pose(folder / "my_pose.onnx", POSE_INFO)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/does/not/exist:{prefix}")
    assert find_model("my_pose") == path
    assert find_model(path) == path
    assert "my_pose" in model_names()
    with pytest.raises(FileNotFoundError, match=r"model 'yours' is not bundled \(there are: .*my_pose"):
        find_model("yours")
    with pytest.raises(FileNotFoundError, match="yours.onnx: no such model file"):
        find_model("yours.onnx")


def test_detector_finds_nothing_in_a_dark_image(tiny_detector_model):
    scores = load(tiny_detector_model).run(np.zeros((2, 160, 160, 3), np.uint8))["scores"]
    assert scores.shape == (2, 4) and not scores.any()
    canvas = person_image((40, 40, 100, 120), size=(160, 160))
    assert load(tiny_detector_model).run(canvas[None])["scores"].max() == np.float32(0.9)
