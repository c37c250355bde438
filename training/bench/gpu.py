"""The same on an NVIDIA GPU: our graph by TensorRT against the published path in eager torch. Guarded, for Jetsons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from probpose_ros.backends import BackendError
from probpose_training.bench.timing import interleave, ratio, summary

BATCHES = (1, 8)


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """Needs torch with CUDA, and the engine that ``probpose build-engine FOLDER/ours.onnx`` made; else says so."""
    import torch

    if not torch.cuda.is_available():
        return {"skipped": "no GPU that torch can use"}
    from probpose_ros.backends.tensorrt import TensorRTSession
    from probpose_training.bench import graphs
    from probpose_training.bench.networks import crops_for
    from probpose_training.bench.published import PublishedPath

    network = graphs.probpose_s()
    if not (path := folder / "ours.onnx").is_file():
        graphs.write_graphs(network, folder)
    try:
        session = TensorRTSession(path)
    except BackendError as error:
        return {"skipped": f"{error} ({path})"}
    published = PublishedPath(network.cuda(), graphs.CODEC)
    crop = crops_for(graphs.INFO.input_size, graphs.INFO.padding)
    crops = {n: np.repeat(crop, n, axis=0) for n in BATCHES}
    half = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)

    def gemm() -> None:
        torch.mm(half, half)
        torch.cuda.synchronize()

    cases = {
        "published path": lambda: published(crops[1]),
        "ours, batch 1": lambda: session.run(crops[1]),
        "ours, batch 8": lambda: session.run(crops[8]),
        "GEMM fp16": gemm,
    }
    times = interleave(cases, seconds)
    rate = 2 * 4096**3 / (1e6 * min(times["GEMM fp16"]))  # GFLOP/s; the floor of one person is far below a launch
    floor = graphs.GFLOP / rate * 1e3
    return {
        "ms": summary(times),
        "ours / published": ratio(times, "ours, batch 1", "published path"),
        "batch 8 / batch 1": {
            "median": float(np.median(times["ours, batch 8"]) / np.median(times["ours, batch 1"]) / 8)
        },
        "ours / floor": {"median": float(np.median(times["ours, batch 8"]) / 8 / floor)},
        "floor_ms": floor,
    }
