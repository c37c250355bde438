"""A network -> one ONNX file that is a model: weights, preprocessing, decode and what the runtime must know.

The file is written only after onnxruntime has reproduced the torch graph with it, and the torch graph the NumPy codec.
"""

from __future__ import annotations

import copy
import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from probpose_ros.backends.half_precision import half_arithmetic
from probpose_ros.codec import Codec
from probpose_ros.model_info import METADATA_KEY, ModelInfo, PoseInfo
from probpose_training.checkpoint import codec_of
from probpose_training.graph import PoseGraph, PoseResult
from probpose_training.network import ProbPose
from probpose_training.onnx_cleanup import BATCH, clean
from probpose_training.rewrite import rewrite

OPSET = 17  # The first with LayerNormalization, which stays safe in FP16; TensorRT 8.6 and later know it.
PRECISIONS = ("fp32", "fp16", "fp16-typed")

# Largest differences allowed, see compare(): of another runtime, of weights rounded to fp16, of all arithmetic in it.
EXACT = {"scalars": 1e-3, "probmap": 1e-3, "keypoints": 0.05, "regret": 1e-4}
ROUNDED = {"fp16": {"scalars": 0.05, "regret": 0.02}, "fp16-typed": {"scalars": 0.05, "regret": 0.15}}


class ExportError(ValueError):
    """The exported graph does not compute what the network computes; nothing was written."""


def export_pose(
    model: ProbPose,
    codec: Codec,
    info: PoseInfo,
    path: Path | str,
    with_probmap: bool = False,
    precision: str = "fp32",
) -> dict[str, float]:
    """Writes the model file.

    Args:
        info: goes into the file's metadata; its sizes and codec fields must be those of ``model`` and ``codec``.
        with_probmap: keep the output ``probmap``.
        precision: ``fp16`` stores the weights in half, half the file; they are cast to float32 when it is loaded.
            ``fp16-typed`` computes in half, see :mod:`probpose_ros.backends.half_precision`.

    Returns:
        The largest differences found while verifying: between torch and the file, and of the rounding to fp16.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    config = model.config
    expected, stated = (codec, config.temperature), (codec_of(info), info.temperature)
    if expected != stated:
        raise ValueError(f"info states {stated}, but codec and temperature are {expected}")

    graph = PoseGraph(copy.deepcopy(model).cpu().float(), codec).eval()
    crops = example_crops(config.input_size)
    with torch.no_grad():
        truth = PoseResult(*(value.numpy() for value in graph(torch.from_numpy(crops))))
    rewrite(graph)
    exported = to_onnx(graph, config.input_size, PoseResult._fields)
    found = run(exported, crops)
    report = compare(truth, found, codec)
    check("torch and onnxruntime", report, **EXACT)
    single = compare(PoseResult(*(value[:1] for value in truth)), run(exported, crops[:1]), codec)
    check("batches of different size", single, **EXACT)
    if precision != "fp32":
        exported = to_half(exported, precision)
        rounding = compare(found, run(exported, crops), codec)
        check(f"fp32 and {precision}", rounding, **ROUNDED[precision])
        report.update({f"fp16_{name}": value for name, value in rounding.items()})

    if not with_probmap:
        exported.graph.output.remove(next(o for o in exported.graph.output if o.name == "probmap"))
    write_model(exported, replace(info, precision=precision), path)
    return report


def write_model(exported: onnx.ModelProto, info: ModelInfo, path: Path | str) -> None:
    """Checks the graph and writes it with what it says about itself; whoever reads meanwhile finds a whole file."""
    helper.set_model_props(exported, {METADATA_KEY: info.to_json()})
    onnx.checker.check_model(exported, full_check=True)
    temporary = f"{path}.part"
    onnx.save(exported, temporary)
    os.replace(temporary, path)


def to_onnx(graph: nn.Module, input_size: tuple[int, int], names: Sequence[str]) -> onnx.ModelProto:
    """A graph from uint8 ``image`` (B, height, width, 3), B dynamic, to the outputs ``names``."""
    width, height = input_size
    example = torch.zeros(BATCH, height, width, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # The tracing exporter is deprecated, but needs no further package.
        torch.onnx.export(
            graph,
            (example,),
            buffer,  # type: ignore[arg-type]
            input_names=["image"],
            output_names=list(names),
            opset_version=OPSET,
            dynamo=False,
        )
    exported = onnx.load_from_string(buffer.getvalue())
    clean(exported)
    return exported


def to_half(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The graph in one of the half precisions."""
    if precision == "fp16-typed":
        return half_arithmetic(model)
    halve_weights(model)
    return model


def halve_weights(model: onnx.ModelProto) -> None:
    """Stores the large float32 weights as float16, each with a cast to float32 that runtimes fold away on loading."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < 256:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}_fp16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)


def example_crops(size: tuple[int, int], count: int = 6) -> np.ndarray:
    """(count, height, width, 3) uint8: coloured clouds from coarse to fine, one black; for verification."""
    random = np.random.default_rng(0)
    crops = [
        cv2.resize(random.integers(0, 256, (2**i + 1, 2**i + 1, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC)
        for i in range(1, count)
    ]
    return np.stack([*crops, np.zeros_like(crops[0])])


def run(model: onnx.ModelProto, crops: np.ndarray) -> PoseResult:
    return PoseResult(*run_onnx(model, crops, PoseResult._fields))


def run_onnx(model: onnx.ModelProto, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
    """The outputs that onnxruntime computes, on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(list(names), {"image": images})


def compare(truth: PoseResult, found: PoseResult, codec: Codec) -> dict[str, float]:
    """Largest differences: of the probabilities, of the maps, of the keypoints (crop px), and the regret.

    Regret is the share of the expected OKS that the found answers lose; where it is 0 an answer in another cell is a
    tie, so keypoints are compared where the cells agree, and where the peak is not so flat that the refinement inside
    the cell is rounding noise. The found keypoints are also held against the NumPy codec's decode of the found maps.
    """
    if not all(np.isfinite(value).all() for value in found):
        raise ExportError("the exported graph gives NaN or infinity; nothing was written")
    score = codec.expected_oks(truth.probmap)
    best = score.max((-2, -1))
    cell, at_cell = _nearest(score, found.keypoints, codec)
    clear = _nearest(_curvature(score), found.keypoints, codec)[1] > 1e-3 * best
    keypoints = 0.0
    for answer in (truth.keypoints, codec.decode(found.probmap).keypoints):
        compared = clear & (cell == _nearest(score, answer, codec)[0])
        keypoints = max(keypoints, float(np.abs(found.keypoints - answer)[compared].max(initial=0.0)))
    names = ("presence", "visibility", "quality")
    return {
        "scalars": max(float(np.abs(getattr(truth, name) - getattr(found, name)).max()) for name in names),
        "probmap": float(np.abs(truth.probmap - found.probmap).max()),
        "keypoints": keypoints,
        "regret": float((1 - at_cell / best).max()),
    }


def _curvature(score: np.ndarray) -> np.ndarray:
    """How far each cell of (B, K, h, w) stands above its neighbours, on the flatter axis."""
    padded = np.pad(score, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    across = 2 * score - padded[..., 1:-1, :-2] - padded[..., 1:-1, 2:]
    down = 2 * score - padded[..., :-2, 1:-1] - padded[..., 2:, 1:-1]
    return np.minimum(across, down)


def _nearest(score: np.ndarray, keypoints: np.ndarray, codec: Codec) -> tuple[np.ndarray, np.ndarray]:
    """Flat index of the cell that a keypoint lies in, and the value there: both (B, K)."""
    x, y = np.moveaxis(np.rint(codec.to_map(keypoints)).astype(int), -1, 0)
    w, h = codec.map_size
    index = y.clip(0, h - 1) * w + x.clip(0, w - 1)
    return index, np.take_along_axis(score.reshape(*score.shape[:2], -1), index[..., None], -1)[..., 0]


def check(what: str, report: dict[str, float], **limits: float) -> None:
    for name, limit in limits.items():
        if not report[name] <= limit:
            raise ExportError(f"{what} differ in {name} by {report[name]:.3g} (at most {limit}); nothing was written")
