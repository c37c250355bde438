"""An fp32 graph -> one with 8-bit integers where TensorRT is fast with them, as QuantizeLinear and DequantizeLinear.

What TensorRT needs: symmetric scales (zero point 0), one scale a tensor for activations and one a channel for weights,
pairs only at the inputs of a convolution or matrix product. Quantised are those of the body of the network, but for the
few in which eight bits lose most: that is measured. Its first layers and its heads stay as they are, and so do
depthwise convolutions and everything after the network (sparsemax, decode, boxes).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tqdm import tqdm

from probpose_ros.backends import BackendError
from probpose_ros.backends.engine import FIRST, NETWORK

# The axis of the output channels in the weights of each operator (a Gemm's are transposed, as torch exports them).
_CHANNEL_AXIS = {"Conv": 0, "Gemm": 0, "MatMul": 1}
PERCENTILE = 99.999  # Of the magnitudes of an activation: the one that becomes 127; the few above it are cut off.
_BINS = 4096
NOISE_LEFT = 0.1  # Of the noise of eight bits in all layers; the layers that bring the rest stay in half.
NOISE_INPUTS = 24  # On so many inputs it is measured.


def quantized(model: onnx.ModelProto, inputs: np.ndarray, batch: int = 4) -> onnx.ModelProto:
    """The same graph with pairs of QuantizeLinear and DequantizeLinear; names, inputs and outputs stay.

    Args:
        model: fp32, its weights plain initializers.
        inputs: (N, H, W, 3) uint8, what the network will see: the ranges of the activations are measured on them.

    Raises:
        BackendError: nothing in the graph can be quantised.
    """
    layers = body_layers(model)
    if not layers:
        raise BackendError("int8: the graph has no convolution or matrix product that could be quantised")
    scales = {name: value / 127 for name, value in ranges(model, [n.input[0] for n in layers], inputs, batch).items()}
    result = _with_pairs(model, quiet_layers(model, layers, scales, inputs, batch), scales)
    onnx.checker.check_model(result, full_check=True)
    return result


def quiet_layers(
    model: onnx.ModelProto, layers: list[onnx.NodeProto], scales: dict[str, float], inputs: np.ndarray, batch: int
) -> list[onnx.NodeProto]:
    """The layers without those that bring most of the noise for the least work.

    Each layer is quantised alone, and what that changes where the network ends (variance of the change over variance)
    is its noise; the noise of all together is about the sum. The layers with the most noise per multiplication go until
    :data:`NOISE_LEFT` of it is left: those of the first, narrow stages, mostly.
    """
    ends = _ends(model)
    some = inputs[:: max(1, len(inputs) // NOISE_INPUTS)]
    true = _run(model, ends, some, batch)

    def noise(layer: onnx.NodeProto) -> float:
        found = _run(_with_pairs(model, [layer], scales), ends, some, batch)
        return sum(float(np.var(a - b) / max(np.var(b), 1e-12)) for a, b in zip(found, true))

    noises = [noise(layer) for layer in tqdm(layers, "int8: noise of each layer", leave=False, disable=None)]
    work = _multiplications(model)
    left, quiet = sum(noises), list(layers)
    for i in sorted(range(len(layers)), key=lambda i: -noises[i] / work[layers[i].name]):
        if left <= NOISE_LEFT * sum(noises) or len(quiet) == 1:
            break
        left -= noises[i]
        quiet.remove(layers[i])
    return quiet


def _with_pairs(model: onnx.ModelProto, layers: list[onnx.NodeProto], scales: dict[str, float]) -> onnx.ModelProto:
    """The same graph with a pair at the activation and one at the weights of each of the layers."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in result.graph.initializer}
    chosen = {layer.name for layer in layers}
    new = result.graph.initializer
    new.append(numpy_helper.from_array(np.zeros((), np.int8), "int8_zero"))
    pairs: dict[str, str] = {}  # activation -> its quantised self
    nodes = list(result.graph.node)
    del result.graph.node[:]
    for node in nodes:
        if node.name in chosen:
            activation, weight = node.input[:2]
            if activation not in pairs:
                pairs[activation] = f"{activation}_int8"
                new.append(numpy_helper.from_array(np.float32(scales[activation]), f"{activation}_scale"))
                names = (activation, pairs[activation], f"{activation}_scale", "int8_zero")
                result.graph.node.extend(_pair(f"{node.name}/input", *names))
            axis = _CHANNEL_AXIS[node.op_type]
            values = numpy_helper.to_array(weights[weight])
            largest = np.abs(values).max(tuple(i for i in range(values.ndim) if i != axis))
            scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(127)
            names = (weight, f"{node.name}/weight_int8", f"{node.name}/weight_scale", f"{node.name}/weight_zero")
            new.append(numpy_helper.from_array(scale, names[2]))
            new.append(numpy_helper.from_array(np.zeros(len(scale), np.int8), names[3]))
            result.graph.node.extend(_pair(f"{node.name}/weight", *names, axis=axis))
            node.input[0], node.input[1] = pairs[activation], names[1]
        result.graph.node.append(node)
    return result


def body_layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The layers to quantise, in the graph's order."""
    weights = {tensor.name for tensor in model.graph.initializer}

    def fits(node: onnx.NodeProto) -> bool:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        ordinary = attributes.get("group", 1) == 1 and (node.op_type != "Gemm" or attributes.get("transB", 0) == 1)
        in_body = node.name.startswith(NETWORK) and not node.name.startswith(f"{NETWORK}head")
        first = any(part in node.name for part in FIRST)
        return node.op_type in _CHANNEL_AXIS and node.input[1] in weights and ordinary and in_body and not first

    found = [node for node in model.graph.node if fits(node)]
    has_first = any(part in node.name for node in model.graph.node for part in FIRST)
    return found if has_first else found[1:]


def _ends(model: onnx.ModelProto) -> list[str]:
    """Tensors of the network proper that something after it, or nothing at all, takes."""
    outside = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if not node.name.startswith(NETWORK):
            outside.update(node.input)
    return [
        name for node in model.graph.node if node.name.startswith(NETWORK) for name in node.output if name in outside
    ]


def _multiplications(model: onnx.ModelProto) -> dict[str, int]:
    """Of each layer that could be quantised, for one input."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = [*graph.value_info, *graph.output]
    shapes = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in values}
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type in _CHANNEL_AXIS and node.input[1] in weights:
            shape = weights[node.input[1]]
            results = np.prod(shapes.get(node.output[0], [1])[1:])
            found[node.name] = int(results * np.prod(shape) / shape[_CHANNEL_AXIS[node.op_type]])
    return found


def _session(model: onnx.ModelProto, names: list[str]) -> onnxruntime.InferenceSession:
    """With the named tensors as its outputs; computes the pairs as they stand instead of merging them into layers."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(model: onnx.ModelProto, names: list[str], inputs: np.ndarray, batch: int) -> list[np.ndarray]:
    session = _session(model, names)
    (image,) = session.get_inputs()
    results = [session.run(None, {image.name: inputs[i : i + batch]}) for i in range(0, len(inputs), batch)]
    return [np.concatenate(values) for values in zip(*results)]


def ranges(model: onnx.ModelProto, names: list[str], inputs: np.ndarray, batch: int) -> dict[str, float]:
    """The :data:`PERCENTILE` of the magnitudes of each named tensor over the inputs, > 0."""
    names = list(dict.fromkeys(names))
    session = _session(model, names)
    (image,) = session.get_inputs()
    batches = [{image.name: inputs[start : start + batch]} for start in range(0, len(inputs), batch)]
    # Two passes, and only one batch at a time in memory: a board has little.
    largest = np.full(len(names), 1e-6)
    for feed in batches:
        largest = np.maximum(largest, [np.abs(value).max() for value in session.run(None, feed)])
    counts = np.zeros((len(names), _BINS), np.int64)
    for feed in batches:
        for i, value in enumerate(session.run(None, feed)):
            counts[i] += np.histogram(np.abs(value), _BINS, (0, largest[i]))[0]
    share = counts.cumsum(1) / counts.sum(1, keepdims=True)
    bins = (share < PERCENTILE / 100).sum(1) + 1
    return {name: float(top * bin / _BINS) for name, top, bin in zip(names, largest, bins)}


def _pair(
    name: str, source: str, target: str, scale: str, zero: str, axis: int | None = None
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    options: dict[str, Any] = {} if axis is None else {"axis": axis}
    steps, middle = ("QuantizeLinear", "DequantizeLinear"), f"{target}_steps"
    return (
        helper.make_node(steps[0], [source, scale, zero], [middle], f"{name}/{steps[0]}", **options),
        helper.make_node(steps[1], [middle, scale, zero], [target], f"{name}/{steps[1]}", **options),
    )
