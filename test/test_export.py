"""The exported model file: same numbers as torch and as the NumPy codec, right metadata, written only when verified."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from reference_files import golden, needs_reference
from test_network import SMALL, TINY, TINY_LIGHT, check_keypoints, recipe_model

from probpose_ros.cli import main
from probpose_ros.codec import Codec
from probpose_ros.model_info import METADATA_KEY, from_json
from probpose_training import export
from probpose_training.checkpoint import codec_of, pose_info, save_checkpoint
from probpose_training.decode import ExpectedOksDecode
from probpose_training.export import ExportError, example_crops, export_pose
from probpose_training.graph import PoseGraph, PoseResult
from probpose_training.network import NetworkConfig, ProbPose

# What TensorRT cannot take (no Sort, limits of TopK) or what should have been folded away.
UNWANTED = {"Sort", "TopK", "BatchNormalization", "CumSum", "Floor", "Mod", "Loop", "If", "NonZero", "ScatterND"}


def random_model(config: NetworkConfig) -> ProbPose:
    """Random weights and batch statistics whose maps have clear peaks."""
    torch.manual_seed(1)
    model = ProbPose(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    torch.nn.init.normal_(model.head.final_layer.weight, std=1)
    # A regressed heatmap that is nowhere positive would be a flat map, whose peak is anywhere.
    torch.nn.init.constant_(model.head.final_layer.bias, 3)
    return model


def calm_model(config: NetworkConfig) -> ProbPose:
    """The same with activations and logits of a trained network's size, which survive rounding to half."""
    model = random_model(config)
    for module in model.modules():
        # The official start of training, 0.001, leaves activations below half's smallest normal number.
        if isinstance(module, torch.nn.ConvTranspose2d) or getattr(module, "out_channels", 0) == 17:
            torch.nn.init.normal_(module.weight, std=0.1)
    return model


def run(path, crops: np.ndarray, names=None) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(names, {"image": crops})


@pytest.mark.parametrize(
    "base", [SMALL, {**SMALL, "input_size": (144, 192)}, TINY_LIGHT, {"map_activation": "heatmap", **SMALL}]
)
@pytest.mark.parametrize("profile", ["oks", "reference"])
def test_file_equals_torch_for_every_batch_size(tmp_path, base, profile):
    config = NetworkConfig(**base)
    model, info = random_model(config), pose_info(config, "test", decode_profile=profile)
    report = export_pose(model, codec_of(info), info, tmp_path / "m.onnx", with_probmap=True)
    assert report["probmap"] < 1e-4
    for batch in (1, 3):
        crops = example_crops(config.input_size, 3 + batch)[:batch]
        with torch.no_grad():
            expected = PoseGraph(model, codec_of(info))(torch.from_numpy(crops))
        found = PoseResult(*run(tmp_path / "m.onnx", crops, list(PoseResult._fields)))
        for name in ("presence", "visibility", "quality", "peak", "probmap"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-4)
        if config.map_activation == "sparsemax":  # The other maps are too flat for a peak inside a cell.
            decoded = codec_of(info).decode(found.probmap)
            np.testing.assert_allclose(found.keypoints, decoded.keypoints, rtol=0, atol=0.25)
            np.testing.assert_allclose(found.peak, decoded.peak, rtol=0, atol=1e-6)


def test_the_file_says_what_it_is(tmp_path):
    config = NetworkConfig(**SMALL, temperature=0.8)
    info = pose_info(config, "tiny", trained_on="noise", licence="none", metrics={"ap": 0.1}, padding=1.5)
    export_pose(random_model(config), codec_of(info), info, tmp_path / "m.onnx", precision="fp16")
    model = onnx.load(tmp_path / "m.onnx")
    props = {p.key: p.value for p in model.metadata_props}
    assert from_json(props[METADATA_KEY], "pose", "m.onnx") == replace(info, precision="fp16")
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == ["keypoints", "presence", "visibility", "quality", "peak"]
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        256,
        192,
        3,
    ]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert not UNWANTED & {node.op_type for node in model.graph.node}
    assert not any(node.doc_string for node in model.graph.node)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_fp16_halves_the_file(tmp_path):
    config = NetworkConfig()
    info, model = pose_info(config, "default"), random_model(config)
    for precision in ("fp32", "fp16"):
        export_pose(model, codec_of(info), info, tmp_path / f"{precision}.onnx", precision=precision)
    full, half = ((tmp_path / f"{precision}.onnx").stat().st_size for precision in ("fp32", "fp16"))
    assert half < 0.55 * full and half < 8e6
    crops = example_crops(config.input_size)
    for a, b in zip(run(tmp_path / "fp32.onnx", crops)[1:4], run(tmp_path / "fp16.onnx", crops)[1:4], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0.02)


@needs_reference
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_golden_decode_in_the_graph(tmp_path):
    """The decode of the recorded maps, run by onnxruntime."""
    data = golden("decode.npz")
    codec = Codec((192, 256), (48, 64), "reference")
    # One map per row, put at its own keypoint's place; the other places are empty maps.
    maps = np.zeros((51, 17, 64, 48), np.float32)
    maps[np.arange(51), data["keypoint_index"]] = data["maps"]
    path = tmp_path / "decode.onnx"
    torch.onnx.export(
        ExpectedOksDecode(codec), (torch.tensor(maps[:2]),), path, input_names=["image"],
        dynamic_axes={"image": {0: "batch"}}, opset_version=export.OPSET, dynamo=False,
    )  # fmt: skip
    keypoints, peak = (out[np.arange(51), data["keypoint_index"]] for out in run(path, maps))
    clear = data["rel_margin_top1_top2"] > 1e-4
    np.testing.assert_allclose(codec.to_map(keypoints)[clear], data["heatmap_xy"][clear], rtol=0, atol=0.002)
    np.testing.assert_allclose(peak[clear], data["scores"][clear], rtol=0, atol=1e-7)


@needs_reference
@pytest.mark.parametrize("kind, final_scale", [("sharp", 1.0), ("broad", 0.05)])
def test_golden_network_in_the_graph(tmp_path, kind, final_scale):
    expected, model = golden(f"net_tiny_{kind}.npz"), recipe_model("tiny", final_scale)
    info = pose_info(TINY, "golden", decode_profile="reference")
    export_pose(model, codec_of(info), info, tmp_path / "m.onnx", with_probmap=True)
    found = PoseResult(*map(torch.tensor, run(tmp_path / "m.onnx", expected["images_bgr_u8"])))
    for name, key in (("presence", "prob"), ("visibility", "vis"), ("quality", "oks"), ("probmap", "heatmaps")):
        np.testing.assert_allclose(getattr(found, name), expected[key], rtol=0, atol=2e-5)
    check_keypoints(found, expected, "noflip")


def test_a_wrong_graph_is_not_written(tmp_path, monkeypatch):
    """The verification has teeth: a graph with one changed weight is refused."""
    config = NetworkConfig(**SMALL)
    info, true_export = pose_info(config, "test"), export.to_onnx

    def spoiled(*args):
        model = true_export(*args)
        weight = next(t for t in model.graph.initializer if t.name.endswith("final_layer.weight"))
        array = onnx.numpy_helper.to_array(weight) * np.float32(1.02)
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        return model

    monkeypatch.setattr(export, "to_onnx", spoiled)
    with pytest.raises(ExportError, match="torch and onnxruntime differ in probmap"):
        export_pose(random_model(config), codec_of(info), info, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_mismatched_info_is_refused(tmp_path):
    config = NetworkConfig(**SMALL)
    info = pose_info(config, "test")
    with pytest.raises(ValueError, match="info states"):
        export_pose(ProbPose(config), codec_of(info), replace(info, temperature=1.0), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="precision must be one of fp32, fp16, fp16-typed, got 'int4'"):
        export_pose(ProbPose(config), codec_of(info), info, tmp_path / "m.onnx", precision="int4")
    with pytest.raises(ValueError, match="the network needs Codec"):
        PoseGraph(ProbPose(config), Codec((96, 128), (24, 32)))


def test_command(tmp_path, capsys):
    config = NetworkConfig(**SMALL)
    save_checkpoint(tmp_path / "c.pt", random_model(config), pose_info(config, "small"))
    out = tmp_path / "models/small.onnx"
    assert main(["export", str(tmp_path / "c.pt"), "--out", str(out), "--with-probmap"]) == 0
    assert "verified" in capsys.readouterr().out
    probmap = run(out, example_crops(config.input_size, 2), ["probmap"])[0]
    np.testing.assert_allclose(probmap.sum((-2, -1)), 1, rtol=0, atol=1e-5)
    assert main(["export", str(tmp_path / "absent.pt"), "--out", str(out)]) == 2
