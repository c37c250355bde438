"""The graph that computes in half: its types, its fp32 islands, its numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from test_export import calm_model, run
from test_network import SMALL, TINY

from probpose_ros.backends.engine import FIRST, LOGITS
from probpose_ros.backends.half_precision import half_arithmetic
from probpose_training.checkpoint import codec_of, pose_info
from probpose_training.export import example_crops, export_pose
from probpose_training.network import NetworkConfig

EXACT = (LOGITS, *FIRST)


def types_of(model: onnx.ModelProto, operator: str, exact: bool = False) -> set[int]:
    """Element types of the first inputs of an operator's nodes: of the exact layers, or of the rest."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.input, *graph.output]}
    types |= {t.name: t.data_type for t in graph.initializer}
    nodes = [
        node for node in graph.node if node.op_type == operator and exact == any(part in node.name for part in EXACT)
    ]
    return {types[node.input[0]] for node in nodes}


@pytest.mark.parametrize("config", [NetworkConfig(**SMALL), TINY], ids=["conv", "vit"])
def test_network_in_half_and_islands_in_float(tmp_path, config):
    info, model = pose_info(config, "test"), calm_model(config)
    export_pose(model, codec_of(info), info, tmp_path / "fp32.onnx", with_probmap=True)
    export_pose(model, codec_of(info), info, tmp_path / "half.onnx", with_probmap=True, precision="fp16-typed")
    half = onnx.load(tmp_path / "half.onnx")
    onnx.checker.check_model(half, full_check=True)
    assert types_of(half, "Conv") == {TensorProto.FLOAT16} and types_of(half, "ArgMax") == {TensorProto.FLOAT}
    assert types_of(half, "Conv", exact=True) == {TensorProto.FLOAT}
    for operator in ("ConvTranspose", "MaxPool", "Relu"):
        assert types_of(half, operator) <= {TensorProto.FLOAT16}, operator
    for operator in ("LayerNormalization", "ReduceSum", "ReduceMean", "Sigmoid"):
        assert types_of(half, operator) <= {TensorProto.FLOAT}, operator

    crops = example_crops(config.input_size, 3)
    found, expected = (run(tmp_path / f"{name}.onnx", crops) for name in ("half", "fp32"))
    assert all(value.dtype == np.float32 for value in found)
    for a, b in zip(found[1:4], expected[1:4], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0.01)


def test_rounding_is_that_of_half_arithmetic():
    """A convolution and its Relu, against torch in half: every step rounds as there, so storage is half everywhere."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3)
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        graph (float[1,4,8,8] x) => (float[1,4,4,4] y) {
            a = Conv (x, w)
            b = Relu (a)
            y = Conv (b, w)
        }""")
    model.graph.initializer.append(numpy_helper.from_array(weight.numpy(), "w"))
    (found,) = ReferenceEvaluator(half_arithmetic(model)).run(None, {"x": x.numpy()})
    with torch.no_grad():
        half = torch.nn.functional.conv2d(x.half(), weight.half()).relu()
        expected = torch.nn.functional.conv2d(half, weight.half()).float()
    # Half has 11 bits; sums may round in another order.
    np.testing.assert_allclose(found, expected, rtol=0, atol=expected.abs().max().item() * 2**-9)
    exact = ReferenceEvaluator(model).run(None, {"x": x.numpy()})[0]
    assert np.abs(found - exact).max() > 1e-4  # It did round.


def test_a_weight_beyond_half_is_refused():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> graph (float[1,2] x) => (float[1,2] y) { y = MatMul (x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.full((2, 2), 7e4, np.float32), "w"))
    with pytest.raises(ValueError, match="weight 'w' reaches 7e[+]04; half precision ends at 65504"):
        half_arithmetic(model)


def test_the_file_says_so(tmp_path):
    config = NetworkConfig(**SMALL)
    info = pose_info(config, "test")
    export_pose(calm_model(config), codec_of(info), info, tmp_path / "m.onnx", precision="fp16-typed")
    text = onnx.load(tmp_path / "m.onnx").metadata_props[0].value
    assert text == replace(info, precision="fp16-typed").to_json()
