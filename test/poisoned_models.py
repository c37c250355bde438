"""The tiny models with real faults in the graph: a person painted in a certain grey makes the network itself fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

GREYS = {"nan": 201, "error": 202, "memory": 203}  # the detector takes them for a person too
DETECTOR_GREYS = {"nan": 211, "error": 212, "memory": 213}


def poisoned(source: Path, output: str, path: Path, greys: dict[str, int] = GREYS) -> Path:
    """A copy of ``source`` whose ``output`` is NaN, an operator's error or a failed allocation of 40 TB.

    It happens in images of which a part has that grey.
    """
    model = onnx.load(str(source))
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"clean_{name}" if name == output else name for name in names]
    steps = []
    for kind, grey in greys.items():
        steps.append(f"""
            {kind}_hit = Equal (poison_pixels, grey_{grey})
            {kind}_hits = Cast <to = 1> ({kind}_hit)
            {kind}_share = ReduceMean <keepdims = 0> ({kind}_hits)
            {kind}_on = Greater ({kind}_share, poison_limit)
            {kind}_float = Cast <to = 1> ({kind}_on)
            {kind}_whole = Cast <to = 7> ({kind}_on)
        """)
    graph = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    poison (uint8[N, H, W, 3] image, float[N, M] clean_{output}) => (float[N, M] {output}) {{
        poison_pixels = Cast <to = 1> (image)
        {"".join(steps)}
        nan_keep = Sub (float_one, nan_float)
        nan_zero = Mul (clean_{output}, nan_keep)
        nan_done = Div (nan_zero, nan_keep)
        error_one = Gather (only_one, error_whole)
        error_done = Mul (nan_done, error_one)
        memory_more = Mul (memory_whole, huge)
        memory_size = Add (memory_more, whole_one)
        memory_ones = Expand (float_one, memory_size)
        memory_mean = ReduceMean <keepdims = 0> (memory_ones)
        {output} = Mul (error_done, memory_mean)
    }}"""
    constants = {
        **{f"grey_{grey}": np.float32(grey) for grey in greys.values()},
        "poison_limit": np.float32(0.02), "float_one": np.float32(1), "only_one": np.ones(1, np.float32),
        "huge": np.array([10**13], np.int64), "whole_one": np.array([1], np.int64),
    }  # fmt: skip
    model.graph.node.extend(parser.parse_model(graph).graph.node)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
