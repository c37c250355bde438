"""Our graph against the published path, the peers, 8 bits and the machine's arithmetic. Needs torch, SciPy and onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from probpose_ros.backends import BackendError, load
from probpose_ros.geometry import CropTransform
from probpose_ros.pose import PoseModel
from probpose_ros.regions import regions_from_maps
from probpose_training.bench import graphs
from probpose_training.bench.frames import picture
from probpose_training.bench.published import PublishedPath, plain_regions
from probpose_training.bench.timing import interleave, ratio, summary
from probpose_training.graph import PoseGraph
from probpose_training.quantise import quantise
from probpose_training.sparsemax import sparsemax_sort

LEVELS = [0.5, 0.95]
PEERS = ("torch eager, ours", "onnxruntime, plain export", "openvino")


def measure(model: str, folder: Path, seconds: float) -> dict[str, Any]:
    """threads -> times and ratios; tail: what follows the network; folder: for the files that are made."""
    network = graphs.probpose_s()
    paths = graphs.write_graphs(network, folder)
    bundled = PoseModel(model)
    small = crops_for(bundled.info.input_size, bundled.info.padding)
    paths["ours int8"], paths["bundled int8"] = folder / "ours_int8.onnx", folder / "bundled_int8.onnx"
    crop = crops_for(graphs.INFO.input_size, graphs.INFO.padding)
    quantise(paths["ours"], graphs.INFO, crop, paths["ours int8"])
    quantise(bundled.path, bundled.info, small, paths["bundled int8"])
    results: dict[str, Any] = {"skipped": {}}
    for threads in (1, 2):
        results[f"{threads} threads"] = _paths(network, paths, bundled.path, crop, small, threads, seconds, results)
    results["tail"] = _tail(paths["tail"], seconds / 3)
    return results


def crops_for(size: tuple[int, int], padding: float) -> np.ndarray:
    """(1, H, W, 3): the person of the picture."""
    image, boxes = picture(1)
    return CropTransform.from_bbox(boxes.boxes[0], size, padding).warp(image)[None]


def _paths(
    network: Any, paths: dict[str, Path], bundled: Path, crop: np.ndarray, small: np.ndarray, threads: int,
    seconds: float, results: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    torch.set_num_threads(threads)
    published = PublishedPath(network, graphs.CODEC)
    eager = PoseGraph(network, graphs.CODEC).eval()
    gemm, matrix = graphs.gemm()
    product = _raw_session(gemm, threads)
    other = torch.from_numpy(matrix)

    def in_torch() -> None:
        with torch.inference_mode():
            eager(torch.from_numpy(crop))

    cases: dict[str, Any] = {
        "published path": lambda: published(crop),
        "torch eager, ours": in_torch,
        "GEMM onnxruntime": lambda: product.run(None, {"a": matrix}),
        "GEMM torch": lambda: other @ other,
    }
    for name, path, image in (
        ("ours", paths["ours"], crop), ("onnxruntime, plain export", paths["plain"], crop),
        ("ours int8", paths["ours int8"], crop), ("bundled", bundled, small),
        ("bundled int8", paths["bundled int8"], small),
    ):  # fmt: skip
        cases[name] = _runner(path, "onnxruntime", threads, image)
        if name not in PEERS:
            try:
                case = _runner(path, "openvino", threads, image)
            except BackendError as error:
                results["skipped"]["openvino"] = str(error)
            else:
                cases[f"{name}, openvino"] = case
    times = interleave(cases, seconds, threads)
    rate = {name: 2 * len(matrix) ** 3 / (1e6 * min(times[name])) for name in times if name.startswith("GEMM")}
    floor = graphs.GFLOP / max(rate.values()) * 1e3
    best = min((name for name in times if name.startswith("ours int8")), key=lambda name: np.median(times[name]))
    best_small = min((n for n in times if n.startswith("bundled int8")), key=lambda name: np.median(times[name]))
    return {
        "ms": summary(times),
        "gemm_gflops": rate,
        "floor_ms": floor,
        "ours / published": ratio(times, "ours", "published path"),
        "ours / floor": {"median": float(np.median(times["ours"]) / floor), "best": min(times["ours"]) / floor},
        "int8 / fp32, ProbPose-s": {**ratio(times, best, "ours"), "case": best},
        "int8 / fp32, bundled": {**ratio(times, best_small, "bundled"), "case": best_small},
        "bundled / ProbPose-s": ratio(times, "bundled", "ours"),
    }


def _tail(path: Path, seconds: float) -> dict[str, Any]:
    """Sparsemax, decode and regions of one person, one thread."""
    torch.set_num_threads(1)
    logits = graphs.logits_like_a_trained_networks()
    tensor = torch.from_numpy(logits)
    session = _raw_session(str(path), 1)
    published = PublishedPath(graphs.probpose_s(), graphs.CODEC)
    maps = session.run(None, {"logits": logits})[2][0]
    transform = CropTransform.from_bbox(np.array([100, 100, 300, 400]), graphs.INFO.input_size)
    cases = {
        "sparsemax and decode": lambda: session.run(None, {"logits": logits}),
        "regions": lambda: regions_from_maps(maps[None], [transform], graphs.CODEC, LEVELS),
        "sort": lambda: sparsemax_sort(tensor.flatten(2) / 0.5),
        "scipy": lambda: published.decode(maps),
        "numpy regions": lambda: plain_regions(maps, LEVELS),
    }
    with torch.inference_mode():
        times = interleave(cases, seconds, threads=1)
    times["ours"] = [a + b for a, b in zip(times["sparsemax and decode"], times["regions"])]
    times["published"] = [sum(three) for three in zip(times["sort"], times["scipy"], times["numpy regions"])]
    times["no regions"] = [a + b for a, b in zip(times["sort"], times["scipy"])]
    return {
        "ms": summary(times),
        "cells_above_0": float((maps > 0).sum() / 17),
        "ours / published": ratio(times, "ours", "published"),
        "without regions": ratio(times, "sparsemax and decode", "no regions"),
    }


def _runner(path: Path, backend: str, threads: int, image: np.ndarray) -> Any:
    session = load(path, backend, threads)
    return lambda: session.run(image)


def _raw_session(model: str | bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
