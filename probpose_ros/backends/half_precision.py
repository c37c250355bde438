"""An fp32 graph -> one that computes in half precision by its types, as strongly typed TensorRT networks need.

Half are the convolutions, matrix products and what lies between them. In fp32 stay the islands where half overflows or
rounds too much: normalisation of the image, a convolutional backbone's first layers, LayerNormalization, means, the
maps' logits, and all that follows a ``.float()`` of the torch code: sparsemax, probabilities, decode, boxes.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from probpose_ros.backends.engine import FIRST, LOGITS

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
LARGEST = float(np.finfo(np.float16).max)
# The operators that half precision is for; what lies between two of them follows.
_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# From opset 19 on these take half, and TensorRT finds its int8 kernels only where no Cast stands between.
_QUANTISED = ("QuantizeLinear", "DequantizeLinear")
_ISLANDS = ("LayerNormalization", "ReduceMean", "ReduceSum")


def half_arithmetic(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph of half and float32 tensors, with a Cast where the two meet; inputs and outputs keep their type.

    Raises:
        ValueError: a weight is too large for half precision.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    floats = {value.name for value in values if value.type.tensor_type.elem_type == FLOAT}
    constants = {t.name: t for t in model.graph.initializer if t.data_type == FLOAT}
    constants |= {
        node.output[0]: attribute.t
        for node in model.graph.node if node.op_type == "Constant"
        for attribute in node.attribute if attribute.name == "value" and attribute.t.data_type == FLOAT
    }  # fmt: skip
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    heavy = (*_HEAVY, *_QUANTISED) if opset >= 19 else _HEAVY
    outputs = {value.name for value in model.graph.output}
    half: set[str] = set()  # Tensors that are half now.
    final: set[str] = set()  # Tensors after a .float(): fp32 for good.
    logits: set[str] = set()  # Tensors made of the maps' logits alone: fp32 up to the .float() that they lead to.
    nodes: list[onnx.NodeProto] = []
    casts: dict[tuple[str, int], str] = {}  # (tensor, type) -> the tensor in that type.
    new_constants: list[TensorProto] = []

    def typed(name: str, to: int) -> str:
        if (name in half) == (to == HALF):
            return name
        if (name, to) not in casts:
            casts[name, to] = f"{name}_{'half' if to == HALF else 'float'}"
            if name in constants:
                new_constants.append(_half_constant(constants[name], casts[name, to]))
            else:
                nodes.append(helper.make_node("Cast", [name], [casts[name, to]], to=to, name=f"{casts[name, to]}/Cast"))
        return casts[name, to]

    for node in result.graph.node:
        inputs = [name for name in node.input if name in floats or name in constants]
        if node.op_type == "Cast" and node.input[0] in half | final | logits:
            final.update(node.output)  # The trace of a .float() in the torch code.
            nodes.append(node)
            continue
        if node.op_type == "Constant" or not inputs:
            nodes.append(node)
            continue
        ended = any(name in final for name in inputs)
        exact = LOGITS in node.name or (
            any(name in logits for name in inputs) and all(name in logits or name in constants for name in inputs)
        )
        if exact:
            logits.update(node.output)
        wants_half = not (ended or exact or node.op_type in _ISLANDS or any(part in node.name for part in FIRST))
        wants_half &= node.op_type in heavy or any(name in half for name in inputs)
        if ended:
            final.update(node.output)
        formal = onnx.defs.get_schema(node.op_type, opset).inputs
        for i, name in enumerate(node.input):
            # An input whose type the operator fixes (the scales of Resize) stays as it is.
            if name in inputs and not formal[min(i, len(formal) - 1)].type_str.startswith("tensor("):
                node.input[i] = typed(name, HALF if wants_half else FLOAT)
        nodes.append(node)
        for i, name in enumerate(node.output):
            if not wants_half or name not in floats:
                continue
            if name in outputs:
                node.output[i] = f"{name}_half"
                nodes.append(helper.make_node("Cast", [node.output[i]], [name], to=FLOAT, name=f"{name}/Cast"))
            half.add(node.output[i])
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(new_constants)
    _drop_unused(result.graph)
    onnx.checker.check_model(result, full_check=True)
    return result


def _half_constant(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    # Infinities are bounds that nothing meets (of a Clip, of a masked maximum), and stay so.
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0))
    if largest > LARGEST:
        raise ValueError(f"weight {tensor.name!r} reaches {largest:.3g}; half precision ends at {LARGEST:.0f}")
    return numpy_helper.from_array(values.astype(np.float16), name)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Constants that only half copies are used of."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in used:
            del graph.initializer[i]
    for i in reversed(range(len(graph.node))):
        if graph.node[i].op_type == "Constant" and graph.node[i].output[0] not in used:
            del graph.node[i]
