"""A model file -> the ONNX that TensorRT is given for a precision. Needs no torch, so a board can do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from probpose_ros.backends.engine import EngineError

_OPSET_OF_HALF_SCALES = 19  # QuantizeLinear of a half tensor; TensorRT 10.3 and later parse it.


def network_file(
    model: Path, model_precision: str, precision: str, strong: bool, calibration: np.ndarray | None = None
) -> bytes:
    """The ONNX file's content.

    Args:
        model_precision: what the file says of itself (ModelInfo.precision).
        precision: of the engine. strong: the network's own types decide, so half must be written into them.
        calibration: for int8, inputs (N, H, W, 3) uint8 on which the ranges are measured.

    Raises:
        EngineError: onnx is missing. ValueError: a weight that half precision cannot hold.
    """
    make_half = strong and precision != "fp32" and model_precision != "fp16-typed"
    if model_precision != "fp16" and precision != "int8" and not make_half:
        return model.read_bytes()
    try:
        import onnx
        from onnx import version_converter
    except ImportError as error:
        raise EngineError(
            f"onnx cannot be imported ({error}), to prepare {model} for {precision}; run: pip install onnx"
        ) from None
    from probpose_ros.backends.half_precision import half_arithmetic
    from probpose_ros.backends.quantize import quantized

    content = onnx.load(str(model))
    unpack(content)
    if precision == "int8":
        if calibration is None or not len(calibration):
            raise EngineError("int8 needs photographs to measure on: --calibration-images DIR")
        content = quantized(content, calibration)
        if make_half:
            content = version_converter.convert_version(content, _OPSET_OF_HALF_SCALES)
    if make_half:
        content = half_arithmetic(content)
    return content.SerializeToString()


def unpack(model) -> None:  # noqa: ANN001 - an onnx.ModelProto
    """Plain float32 weights where they are stored in half behind a Cast, in place.

    onnxruntime folds those Casts away; TensorRT wants the weights of a convolution as constants.
    """
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type == "Cast" and node.input[0] in stored:
            weights = numpy_helper.to_array(stored[node.input[0]]).astype("float32")
            stored[node.input[0]].CopyFrom(numpy_helper.from_array(weights, node.output[0]))
        else:
            model.graph.node.append(node)
