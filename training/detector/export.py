"""A trained detector -> one ONNX file with the contract of probpose_ros.detector, checked against torch first."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from probpose_ros.model_info import DetectorInfo
from probpose_training.export import (
    PRECISIONS,
    ExportError,
    check,
    example_crops,
    run_onnx,
    to_half,
    to_onnx,
    write_model,
)
from probpose_training.rewrite import fold_batch_norm

from .network import PersonDetector, prepare

# Largest differences allowed, see compare(): of another runtime, and of rounding to half.
EXACT = {"scores": 1e-4, "boxes": 1e-3}
ROUNDED = {"scores": 0.02, "boxes": 0.05}  # In either half precision.
READ = 0.05  # Boxes of a lower score are not looked at by anything, and of score 0 they are far from stable.
OUTPUTS = ("boxes", "scores")


class DetectorGraph(nn.Module):
    """uint8 BGR canvas (B, H, W, 3) -> boxes (B, N, 4) xyxy input px, scores (B, N); what a model file holds."""

    def __init__(self, model: PersonDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits, boxes = self.model(prepare(image))
        return boxes, logits.sigmoid()


def export_detector(
    model: PersonDetector, info: DetectorInfo, path: Path | str, precision: str = "fp32"
) -> dict[str, float]:
    """Writes the model file and returns the largest differences found while verifying.

    Args:
        info: goes into the metadata. precision: see probpose_training.export.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    graph = DetectorGraph(copy.deepcopy(model).cpu().float()).eval()
    fold_batch_norm(graph)
    images = example_crops(info.input_size)
    exported = to_onnx(graph, info.input_size, OUTPUTS)
    with torch.no_grad():
        truth = [value.numpy() for value in DetectorGraph(model.cpu().float()).eval()(torch.from_numpy(images))]
    found = run_onnx(exported, images, OUTPUTS)
    report = compare(truth, found)
    check("torch and onnxruntime", report, **EXACT)
    single = run_onnx(exported, images[:1], OUTPUTS)
    check("batches of different size", compare([value[:1] for value in truth], single), **EXACT)
    if precision != "fp32":
        exported = to_half(exported, precision)
        rounding = compare(found, run_onnx(exported, images, OUTPUTS), READ)
        check(f"fp32 and {precision}", rounding, **ROUNDED)
        report.update({f"fp16_{name}": value for name, value in rounding.items()})
    write_model(exported, replace(info, precision=precision), path)
    return report


def compare(truth: list[np.ndarray], found: list[np.ndarray], lowest: float = 0.0) -> dict[str, float]:
    """Largest differences of the scores, and of the boxes' sides relative to the box's longer side.

    ``lowest``: boxes of a lower score on both sides are left out.
    """
    if not all(np.isfinite(value).all() for value in found):
        raise ExportError("the exported detector gives NaN or infinity; nothing was written")
    longer = (truth[0][..., 2:] - truth[0][..., :2]).max(axis=-1, keepdims=True)
    return {
        "scores": float(np.abs(truth[1] - found[1]).max()),
        "boxes": float(
            (np.abs(truth[0] - found[0]) / longer)[np.maximum(truth[1], found[1]) >= lowest].max(initial=0.0)
        ),
    }
