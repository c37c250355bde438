"""The operator check: what we export passes for every TensorRT version, and each kind of obstacle is found."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import parser
from test_export import calm_model
from test_network import SMALL, TINY, TINY_LIGHT

from probpose_ros.cli import main
from probpose_ros.model_info import DetectorInfo
from probpose_training.checkpoint import codec_of, pose_info
from probpose_training.detector.checkpoint import DetectorConfig
from probpose_training.detector.export import export_detector
from probpose_training.export import export_pose
from probpose_training.network import NetworkConfig
from probpose_training.tensorrt_check import VERSIONS, check_tensorrt

MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.onnx"))
NETWORKS = {
    "conv": NetworkConfig(**SMALL),
    "light": NetworkConfig(**TINY_LIGHT),
    "vit": TINY,  # ProbPose-s in small: the same operators.
    "double heatmap": NetworkConfig(**SMALL, double_heatmap=True),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "fp16-typed"])
def test_exported_pose_networks_pass(tmp_path, name, precision):
    config = NETWORKS[name]
    info = pose_info(config, "test")
    path = tmp_path / "m.onnx"
    export_pose(calm_model(config), codec_of(info), info, path, with_probmap=True, precision=precision)
    assert not check_tensorrt(path)


@pytest.mark.parametrize("precision", ["fp32", "fp16-typed"])
def test_exported_detector_passes(tmp_path, precision):
    info = DetectorInfo(kind="detector", name="test", input_size=(64, 64))
    export_detector(DetectorConfig(widths=(8, 8, 8, 8), neck=8).make().eval(), info, tmp_path / "d.onnx", precision)
    assert not check_tensorrt(tmp_path / "d.onnx")


@pytest.mark.skipif(not MODELS, reason="no bundled models in models/")
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_bundled_models_pass(path):
    assert not check_tensorrt(path)


ALL = VERSIONS
OBSTACLES = {
    # name: (inputs, outputs, body, the versions that refuse it, a word of the reason)
    "uint8 inside": ("uint8[1,2] x", "float[2,1] y", "t = Transpose (x)\ny = Cast <to = 1> (t)", ALL, "UINT8"),
    "clip of integers": ("int64[2] x, int64 lo", "int64[2] y", "y = Clip (x, lo)", ALL, "Clip of"),
    "double": ("double[2] x", "double[2] y", "y = Exp (x)", ALL, "Exp of DOUBLE"),
    "no such operator": ("float[2] x", "int64[n] y", "y, i, j, k = Unique (x)", ALL, "Unique is not supported"),
    "foreign operator": ("float[2] x", "float[2] y", "y = other.Fast (x)", ALL, "Fast is not supported"),
    "sum along unknown axes": ("float[2,2] x, int64[1] a", "float[n,m] y", "y = ReduceSum (x, a)", ALL, "constant"),
    "layer norm with statistics": (
        "float[2,4] x, float[4] s", "float[2,4] y", "y, mean = LayerNormalization (x, s)", ALL, "first output"
    ),
    "cubic": (
        "float[1,1,4,4] x", "float[1,1,8,8] y", 's = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()\n'
        'y = Resize <mode = "cubic"> (x, , s)', ALL, "cubic"
    ),
    "large K": (
        "float[5000] x", "float[4000] y", "k = Constant <value = int64[1] {4000}> ()\ny, i = TopK (x, k)", ALL, "3840"
    ),
    "zero point": (
        "float[4] x, float s", "float[4] y", "z = Constant <value = int8 {3}> ()\nq = QuantizeLinear (x, s, z)\n"
        "y = DequantizeLinear (q, s, z)", ALL, "zero point"
    ),
    "dynamic quantisation": (
        "float[4] x", "float s", "q, s, z = DynamicQuantizeLinear (x)", ALL, "DynamicQuantizeLinear is not supported"
    ),
    "maximum of integers": ("int64[2] x", "int64[1] y", "y = ReduceMax (x)", ("8.6",), "ReduceMax of INT32"),
    "slice along unknown axes": (
        "float[4] x, int64[1] b, int64[1] e, int64[1] a", "float[n] y", "y = Slice (x, b, e, a)", ("8.6",), "constant"
    ),
    "sum along the axis of a tensor": (
        "float[4] x, int64 a", "float[4] y", "y = CumSum (x, a)", ALL, "constant"
    ),
    "power of integers": ("int64[2] x", "int64[2] y", "y = Pow (x, x)", ("8.6", "10.3"), "Pow of"),
    "fine": ("uint8[2] x", "float[2] y", "f = Cast <to = 1> (x)\ny = Sqrt (f)", (), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", OBSTACLES)
def test_each_obstacle_is_found(name):
    inputs, outputs, body, versions, reason = OBSTACLES[name]
    text = f'<ir_version: 8, opset_import: ["" : 17, "other" : 1]>\ngraph ({inputs}) => ({outputs}) {{\n{body}\n}}'
    problems = check_tensorrt(parser.parse_model(text))
    assert {problem.version for problem in problems} == set(versions)
    assert all(any(reason in p.reason for p in problems if p.version == version) for version in versions)


def test_newer_operators_need_newer_versions():
    text = '<ir_version: 9, opset_import: ["" : {}]> graph (float[2] x) => (float[2] y) {{ y = Gelu (x) }}'
    assert {problem.version for problem in check_tensorrt(parser.parse_model(text.format(20)))} == {"8.6"}
    text = text.replace("Gelu", "Relu")
    assert {p.version for p in check_tensorrt(parser.parse_model(text.format(23)))} == {"8.6", "10.3", "10.13"}
    with pytest.raises(ValueError, match="TensorRT version '7': the table has 8.6"):
        check_tensorrt(parser.parse_model(text.format(17)), ("7",))


def test_command(tmp_path, capsys):
    def write(body):
        model = parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : 17]> graph (int64[2] x) => (int64[2] y) {{ {body} }}'
        )
        onnx.save(model, tmp_path / "m.onnx")
        return main(["export", str(tmp_path / "m.onnx"), "--check", "tensorrt"])

    assert write("y = Neg (x)") == 0
    assert capsys.readouterr().out.count("every node is supported") == len(VERSIONS)
    assert write("t = Clip (x)\ny = Clip (t)") == 1
    assert "Clip of INT64" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "m.onnx")]) == 2
    assert "--check tensorrt" in capsys.readouterr().err
