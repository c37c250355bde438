"""The files that the bench times: ProbPose-s with random weights, as exported by us and plainly, and its last part."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from probpose_ros.codec import Codec
from probpose_ros.model_info import PoseInfo
from probpose_training.checkpoint import codec_of, pose_info
from probpose_training.decode import ExpectedOksDecode
from probpose_training.export import OPSET, to_onnx, write_model
from probpose_training.graph import PoseGraph, PoseResult
from probpose_training.network import PROBPOSE_S, ProbPose
from probpose_training.rewrite import rewrite
from probpose_training.sparsemax import sparsemax

# Of ProbPose-s, one person: twice the multiplications of the backbone, the deconvolutions and the four branches; what
# we leave away (the untrained branch) is counted too, as the floor is that of the published network.
GFLOP = 13.44
INFO: PoseInfo = pose_info(PROBPOSE_S, "probpose_s", decode_profile="reference")
CODEC: Codec = codec_of(INFO)


def probpose_s() -> ProbPose:
    """Random weights of a size that keeps activations alive: the cost is that of trained ones."""
    torch.manual_seed(0)
    model = ProbPose(PROBPOSE_S)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight)
    nn.init.normal_(model.head.final_layer.weight, std=0.3)
    return model.eval()


def write_graphs(model: ProbPose, folder: Path) -> dict[str, Path]:
    """ours: as ``probpose export`` makes it. plain: the same network without any rewrite. tail: logits to keypoints."""
    paths = {name: folder / f"{name}.onnx" for name in ("ours", "plain", "tail")}
    graph = PoseGraph(copy.deepcopy(model), CODEC).eval()
    write_model(to_onnx(graph, INFO.input_size, PoseResult._fields), INFO, paths["plain"])
    rewrite(graph)
    write_model(to_onnx(graph, INFO.input_size, PoseResult._fields), INFO, paths["ours"])
    paths["tail"].write_bytes(_traced(Tail(), torch.zeros(1, 17, 64, 48)))
    return paths


class Tail(nn.Module):
    """Logits (1, K, h, w) -> keypoints, peak, maps: what follows the network in our graph."""

    def __init__(self) -> None:
        super().__init__()
        self.decode = ExpectedOksDecode(CODEC)

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = sparsemax(logits.reshape(1, 17, 3072) / PROBPOSE_S.temperature).reshape(1, 17, 64, 48)
        return (*self.decode(maps), maps)


def _traced(module: nn.Module, example: Tensor) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (example,), buffer, input_names=["logits"], opset_version=OPSET, dynamo=False)  # type: ignore[arg-type]
    return buffer.getvalue()


def logits_like_a_trained_networks() -> np.ndarray:
    """(1, 17, 64, 48): a hill for every keypoint, some broad, some narrow, on noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:64, :48]
    hills = []
    for centre, width in zip(random.uniform([4, 4], [44, 60], (17, 2)), random.uniform(1, 4, 17), strict=True):
        hills.append(2 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2)))
    return (np.stack(hills)[None] + random.normal(0, 0.05, (1, 17, 64, 48))).astype(np.float32)


def gemm(size: int = 1024) -> tuple[bytes, np.ndarray]:
    """A product of two square matrices as a graph, and its input: the arithmetic that the machine can do."""
    from onnx import parser

    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> gemm (float[{size}, {size}] a) => (float[{size}, {size}] c)'
        " { c = MatMul (a, b) }"
    )
    matrix = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(matrix, "b"))
    return model.SerializeToString(), matrix
