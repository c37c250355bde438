"""A model file -> one that computes its network in 8 bits, for CPUs: weights int8 per channel, activations uint8.

The first layer, sparsemax, decode and the last small layers stay in float. Real images say how large activations get.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from tqdm import tqdm

from probpose_ros.detector import letterbox
from probpose_ros.geometry import CropTransform
from probpose_ros.model_info import DetectorInfo, PoseInfo
from probpose_training.coco import CocoKeypoints, read_image
from probpose_training.export import write_model

PRODUCTS = ("Conv", "MatMul", "Gemm")
# Between two products in 8 bits the activation is in 8 bits as well: it costs nothing then, and what it cuts off takes
# no part of the 256 steps. Resize copies the nearest.
BETWEEN = ("Clip", "Relu", "Resize")
# Parts of the graph by the names of the torch modules: probabilities are made there, at a thousandth of the work.
KEPT = ("/maps/", "/decode/", "/final_layer/", "/scalars/", "/outer_layers/")
IMAGES = 200  # are enough: the largest activations are found early


def quantise(path: Path | str, info: PoseInfo | DetectorInfo, examples: np.ndarray, out: Path | str) -> None:
    """Writes the int8 variant of a model file (fp32, or fp16 weights); its name gets the suffix ``_int8``.

    Args:
        info: of the file. examples: (N, H, W, 3) uint8, what the network gets: crops or canvases.
    """
    model = onnx.load(path)
    expand_halves(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    # The first product stays in float: on an image of three channels 8 bits save nothing, and their layout (channels
    # last) makes what comes before it slow.
    first = next((node.name for node in model.graph.node if node.op_type in PRODUCTS), "")
    chosen = [
        node.name for node in model.graph.node
        if (node.op_type in BETWEEN or (node.op_type in PRODUCTS and node.input[1] in constants))
        and node.name != first and not any(part in node.name for part in KEPT)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # It advises steps that the exporter has done already.
        try:
            quantize_static(
                source, result, _Reader(examples), quant_format=QuantFormat.QDQ, nodes_to_quantize=chosen,
                op_types_to_quantize=[*PRODUCTS, *BETWEEN],
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
            )  # fmt: skip
        finally:
            root.setLevel(level)
        quantised = onnx.load(result)
    write_model(quantised, replace(info, name=f"{info.name}_int8", precision="int8", metrics={}), out)


def expand_halves(model: onnx.ModelProto) -> None:
    """Weights stored as fp16 with a cast become fp32 weights, in place."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Cast" and (tensor := tensors.get(node.input[0])) is not None:
            if tensor.data_type == TensorProto.FLOAT16:
                values = numpy_helper.to_array(tensor).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
                graph.node.remove(node)


def person_crops(dataset: CocoKeypoints, images: Path, info: PoseInfo) -> np.ndarray:
    """(N, H, W, 3) uint8 crops of annotated persons, spread over the set."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, IMAGES).astype(int))
    crops = []
    for person in tqdm(chosen, unit="person", desc="crops"):
        image = read_image(images, dataset.images[int(dataset.image_ids[person])])
        crops.append(CropTransform.from_bbox(dataset.bboxes[person], info.input_size, info.padding).warp(image))
    return np.stack(crops)


def canvases(images: Sequence[Path], info: DetectorInfo) -> np.ndarray:
    """(N, H, W, 3) uint8, images as the detector sees them."""
    chosen = [images[i] for i in np.unique(np.linspace(0, len(images) - 1, IMAGES).astype(int))]
    read = (cv2.imread(str(path)) for path in tqdm(chosen, unit="image", desc="images"))
    return np.stack([letterbox(image, info.input_size)[0] for image in read if image is not None])


class _Reader(CalibrationDataReader):
    def __init__(self, examples: np.ndarray) -> None:
        self.batches = iter(np.array_split(examples, -(-len(examples) // 8)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}
