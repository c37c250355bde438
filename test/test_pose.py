"""The pose model: what it checks at load, and that its arrays mean what they say."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tiny_models import BODY, POSE_INFO, with_changes, write_tiny_pose

from probpose_ros.backends import BackendError
from probpose_ros.model_info import METADATA_KEY
from probpose_ros.pose import PoseModel


def test_outputs(tiny_pose_model):
    model = PoseModel(tiny_pose_model)
    crops = np.random.default_rng(0).integers(0, 256, (5, 64, 48, 3), dtype=np.uint8)
    output = model(crops)
    assert output.keypoints.shape == (5, 17, 2)
    assert output.probmap.shape == (5, 17, 16, 12)
    for name in ("presence", "visibility", "quality", "peak"):
        assert getattr(output, name).shape == (5, 17)
    np.testing.assert_allclose(output.probmap.sum((2, 3)), 1, atol=1e-5)
    np.testing.assert_array_equal(output.peak, output.probmap.max((2, 3)))
    # A white crop: the keypoints are where the priors are.
    white = model(np.full((1, 64, 48, 3), 255, np.uint8)).keypoints[0]
    assert np.abs(white - BODY * [47, 63]).max() < 3


def test_a_batch_is_its_rows(tiny_pose_model):
    model = PoseModel(tiny_pose_model)
    crops = np.random.default_rng(1).integers(0, 256, (3, 64, 48, 3), dtype=np.uint8)
    together = model(crops)
    for i in range(3):
        np.testing.assert_allclose(model(crops[i : i + 1]).keypoints[0], together.keypoints[i], atol=1e-4)


@pytest.mark.parametrize("probmap", [True, False])
def test_no_crops(tmp_path, probmap):
    output = PoseModel(write_tiny_pose(tmp_path / "m.onnx", probmap=probmap))(np.zeros((0, 64, 48, 3), np.uint8))
    assert output.keypoints.shape == (0, 17, 2) and output.presence.shape == (0, 17)
    assert (output.probmap.shape == (0, 17, 16, 12)) if probmap else (output.probmap is None)


def test_wrong_crops(tiny_pose_model):
    with pytest.raises(ValueError, match=r"crops are uint8 \(2, 64, 64, 3\); expected uint8 \(N, 64, 48, 3\)"):
        PoseModel(tiny_pose_model)(np.zeros((2, 64, 64, 3), np.uint8))


def write_with_metadata(path, info, change=lambda model: None):
    model = onnx.load(write_tiny_pose(path))
    onnx.helper.set_model_props(model, {METADATA_KEY: info.to_json()})
    change(model)
    onnx.save(model, path)
    return path


def fix_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize(
    ("changes", "change", "words"),
    [
        ({"input_size": (192, 256)}, None, r"'image' is uint8 \(N, 64, 48, 3\); expected uint8 \(N, 256, 192, 3\)"),
        ({"map_size": (48, 64)}, None, r"output 'probmap' is float32 \(N, 17, 16, 12\); expected .*\(N, 17, 64, 48\)"),
        ({"decode_profile": "dark"}, None, "profile must be one of oks, reference, got 'dark'"),
        ({}, fix_batch, r"input 'image' is uint8 \(1, 64, 48, 3\); expected uint8 \(N, 64, 48, 3\)"),
        ({}, lambda m: m.graph.output.pop(1), "no output 'presence'"),
    ],
)
def test_models_that_contradict_their_metadata(tmp_path, changes, change, words):
    path = write_with_metadata(tmp_path / "m.onnx", with_changes(POSE_INFO, **changes), change or (lambda model: None))
    with pytest.raises(ValueError, match=words):
        PoseModel(path)


def test_another_skeleton_is_refused(tmp_path):
    path = write_with_metadata(tmp_path / "m.onnx", with_changes(POSE_INFO, skeleton="body25"))
    with pytest.raises(BackendError, match="skeleton 'body25'; this version knows coco17"):
        PoseModel(path)
