"""Temperature scaling of a model file: its logits, and the same model with another temperature."""

from __future__ import annotations

import numpy as np
import pytest
from test_export import SMALL, example_crops, random_model

from probpose_ros.pose import PoseModel
from probpose_training.checkpoint import codec_of, pose_info
from probpose_training.export import export_pose
from probpose_training.network import NetworkConfig
from probpose_training.temperature import Logits, TemperatureError, sparsemax, write_scaled


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory):
    config = NetworkConfig(**SMALL)
    info = pose_info(config, "test")
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    export_pose(random_model(config), codec_of(info), info, path, with_probmap=True)
    return path


def test_logits_are_those_of_the_maps(path):
    crops = example_crops(PoseModel(path).info.input_size, 2)
    logits, maps = Logits(path)(crops), PoseModel(path)(crops).probmap
    assert logits.shape == maps.shape
    for z, probmap in zip(logits.reshape(-1, *maps.shape[2:]), maps.reshape(-1, *maps.shape[2:]), strict=True):
        np.testing.assert_allclose(sparsemax(z), probmap, atol=1e-4)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_another_temperature(path, tmp_path, factor):
    before = PoseModel(path)
    crops = example_crops(before.info.input_size, 2)
    temperature = write_scaled(path, factor, tmp_path / "scaled.onnx")
    after = PoseModel(tmp_path / "scaled.onnx")
    assert after.info.temperature == temperature == pytest.approx(factor * before.info.temperature)
    expected = np.array([[sparsemax(z / factor) for z in maps] for maps in Logits(path)(crops)])
    np.testing.assert_allclose(after(crops).probmap, expected, atol=1e-4)
    np.testing.assert_array_equal(after(crops).presence, before(crops).presence)
    spread = [(model(crops).probmap > 0).sum() for model in (before, after)]
    assert spread[0] != spread[1] and (spread[1] > spread[0]) == (factor > 1)


def test_a_graph_without_a_temperature_is_refused(tiny_pose_model):
    with pytest.raises(TemperatureError, match="no division of logits by a temperature"):
        Logits(tiny_pose_model)
