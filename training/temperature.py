"""Temperature scaling, the paper's calibration: one number that divides the logits before sparsemax.

A model file holds that division, so its logits can be read, and another temperature written, without the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from probpose_ros.model_info import METADATA_KEY

TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0)  # relative to the model's own
SAME = 1e-3  # largest difference between the model's map and sparsemax of what is taken for its logits


class TemperatureError(ValueError):
    """The graph has no single temperature: a double heatmap, or a flip test."""


class Logits:
    """Crops (N, H, W, 3) uint8 -> logits (N, K, h, w) at the model's own temperature, checked against its maps."""

    def __init__(self, path: str | Path) -> None:
        model = onnx.load(str(path))
        self.name = _division(model, path).output[0]
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(self.name))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        self.path = path

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        flat, maps = self.session.run([self.name, "probmap"], {"image": crops})
        logits = np.asarray(flat, np.float32).reshape(maps.shape)
        if np.abs(sparsemax(logits[0, 0]) - maps[0, 0]).max() > SAME:
            raise TemperatureError(f"{self.path}: its maps are not sparsemax of one division by a temperature")
        return logits


def sparsemax(logits: np.ndarray) -> np.ndarray:
    """Projection of a map (h, w) onto the distributions: max(z - tau, 0).

    >>> sparsemax(np.array([[0.0, 0.5], [1.0, -3.0]])).tolist()
    [[0.0, 0.25], [0.75, 0.0]]
    """
    z = -np.sort(-logits, axis=None).astype(np.float64)
    tau = (z.cumsum() - 1) / np.arange(1, z.size + 1)
    return np.maximum(logits - tau[np.count_nonzero(z > tau) - 1], 0)


class MapMass:
    """The fewest densest cells that reach the mass ``level``: what maps say of themselves.

    held: (N, L) bool, whether they hold the truth. cells: (N, L), how many they are.
    """

    def __init__(self, maps: Sequence[np.ndarray], truth: np.ndarray, levels: Sequence[float]) -> None:
        held, cells = [], []
        wanted = np.asarray(levels)
        for probmap, (x, y) in zip(maps, truth, strict=True):
            values = -np.sort(-probmap, axis=None)
            last = np.searchsorted(values.cumsum(dtype=np.float64), wanted * values.sum(dtype=np.float64))
            threshold = values[np.minimum(last, np.count_nonzero(values) - 1)]
            held.append(probmap[y, x] >= threshold)
            cells.append(np.searchsorted(-values, -threshold, side="right"))
        self.held, self.cells = np.array(held), np.array(cells)


class Temperatures:
    """MapMass at each of TEMPERATURES.

    Args:
        logits: (N, h, w). truth: (N, 2) x, y of the true cells.
    """

    def __init__(self, logits: np.ndarray, truth: np.ndarray, levels: Sequence[float]) -> None:
        self.levels = np.asarray(levels)
        self.masses = [MapMass([sparsemax(z / t) for z in logits], truth, levels) for t in TEMPERATURES]

    def best(self, rows: np.ndarray) -> int:
        """Index of the temperature whose coverage of these rows is nearest to the levels, on average over them."""
        errors = [np.abs(mass.held[rows].mean(axis=0) - self.levels).mean() for mass in self.masses]
        return int(np.argmin(errors))


def write_scaled(source: str | Path, factor: float, path: str | Path) -> float:
    """Write the model with ``factor`` times its temperature, in graph and metadata; returns the new temperature."""
    model = onnx.load(str(source))
    node = _division(model, source)
    constants = {c.output[0]: c.attribute[0].t for c in model.graph.node if c.op_type == "Constant"}
    constants.update({tensor.name: tensor for tensor in model.graph.initializer})
    old = numpy_helper.to_array(constants[node.input[1]])
    scaled = numpy_helper.from_array((old * factor).astype(old.dtype), f"{node.output[0]}_temperature")
    node.input[1] = scaled.name
    model.graph.initializer.append(scaled)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    info = json.loads(entry.value)
    info["temperature"] = info["temperature"] * factor
    entry.value = json.dumps(info, sort_keys=True)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return info["temperature"]


def _division(model: onnx.ModelProto, path: str | Path) -> onnx.NodeProto:
    """The node that divides the logits by the temperature: the first division on the way back from the maps."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    constants |= {tensor.name for tensor in model.graph.initializer}
    name = "probmap"
    while (node := makers.get(name)) is not None:
        if node.op_type == "Div" and node.input[1] in constants:
            return node
        if node.op_type not in ("Reshape", "Clip", "Relu", "Max", "Sub", "Cast"):
            break
        name = node.input[0]
    raise TemperatureError(f"{path}: no division of logits by a temperature before the output 'probmap'")
