"""8-bit model files: what is computed in 8 bits, what is not, and that the runtime takes them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from test_export import random_model
from test_network import SMALL

from probpose_ros.backends import load
from probpose_ros.cli import main
from probpose_ros.pose import PoseModel
from probpose_training.checkpoint import codec_of, pose_info
from probpose_training.export import example_crops, export_pose
from probpose_training.network import NetworkConfig
from probpose_training.quantise import quantise


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("int8"), NetworkConfig(**SMALL, input_size=(96, 128))
    info = pose_info(config, "small")
    export_pose(random_model(config), codec_of(info), info, folder / "m.onnx", with_probmap=True, precision="fp16")
    quantise(folder / "m.onnx", info, example_crops(config.input_size), folder / "m8.onnx")
    return folder / "m.onnx", folder / "m8.onnx"


def test_the_network_is_in_8_bits_and_the_probabilities_are_not(files):
    graph = onnx.load(files[1]).graph
    makers = {name: node for node in graph.node for name in node.output}
    first, *heavy = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    assert makers[first.input[0]].op_type != "DequantizeLinear"  # the image is not rounded
    in_8_bits = {node.name for node in heavy if getattr(makers.get(node.input[1]), "op_type", "") == "DequantizeLinear"}
    for part, expected in (("/backbone/", True), ("/decoder/", True), ("/decode/", False), ("/scalars/", False)):
        names = {node.name for node in heavy if part in node.name}
        assert names and (names & in_8_bits) == (names if expected else set()), part


def test_activations_are_in_8_bits(files):
    graph = onnx.load(files[1]).graph
    quantised = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    cuts = [node for node in graph.node if node.op_type in ("Clip", "Relu") and "/backbone/" in node.name]
    assert cuts and all(node.output[0] in quantised for node in cuts)


def test_the_runtime_takes_it_and_it_says_nearly_the_same(files):
    full, small = (PoseModel(path) for path in files)
    assert (small.info.precision, small.info.name, small.info.metrics) == ("int8", "small_int8", {})
    assert small.info.map_size == full.info.map_size and small.has_probmap
    crops = example_crops(full.info.input_size)
    expected, found = full(crops), small(crops)
    for name in ("presence", "visibility", "quality"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=0.1)
    np.testing.assert_allclose(found.probmap.sum((-2, -1)), 1, atol=1e-5)


def test_what_the_command_needs(files, tmp_path, capsys):
    out = str(tmp_path / "out.onnx")
    assert main(["export", str(files[0]), "--precision", "int8", "--out", out]) == 2
    assert "--images" in capsys.readouterr().err
    assert main(["export", str(files[0]), "--precision", "int8", "--out", out, "--images", str(tmp_path)]) == 2
    assert "--annotations" in capsys.readouterr().err


def test_the_command_with_a_detector(tiny_detector_model, tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8))
    out = tmp_path / "out/d8.onnx"
    command = ["export", str(tiny_detector_model), "--precision", "int8", "--out", str(out), "--images", str(tmp_path)]
    assert main(command) == 0
    assert '"precision": "int8"' in load(out).metadata["probpose"]
