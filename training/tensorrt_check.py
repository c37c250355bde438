"""Will TensorRT take this ONNX file? Every node and tensor type, held against the parser's published tables.

No TensorRT is needed, so continuous integration can ask. The answer is the tables' and no more: a graph that passes
can still meet a limit that no table names, and ``probpose build-engine`` has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, numpy_helper

from probpose_ros.backends.onnx_file import check_onnx

VERSIONS = ("8.6", "10.3", "10.13", "10.16", "11")  # In the field: Jetsons of JetPack 5, 6, 7.0, 7.2, and the newest.

_TYPES = {
    TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16", TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64", TensorProto.BOOL: "BOOL", TensorProto.UINT8: "UINT8", TensorProto.INT8: "INT8",
}  # fmt: skip

# The schema's name of the type that the table speaks of, where it is not that of the first input.
_DATA_TYPE = {"Where": "T", "Constant": "T", "ConstantOfShape": "T2", "OneHot": "T3", "DequantizeLinear": "T"}

# Inputs that must be known when the engine is built: operator -> {index: first version without this limit}.
_CONSTANT_INPUTS: dict[str, dict[int, str | None]] = {
    "Slice": {3: "10.3"}, "Squeeze": {1: "10.7"}, "Unsqueeze": {1: "10.7"}, "CumSum": {1: None}, "OneHot": {1: None},
    "Pad": {3: "10.4"}, **{f"Reduce{name}": {1: None} for name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2")},
}  # fmt: skip

_ATTRIBUTES: dict[str, dict[str, tuple]] = {
    "TopK": {"sorted": (1,)},
    "Resize": {
        "mode": ("nearest", "linear"), "antialias": (0,), "keep_aspect_ratio_policy": ("stretch",),
        "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
        "coordinate_transformation_mode": (
            "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners",
        ),
    },
    "ScatterND": {"reduction": ("none",)},
}  # fmt: skip
_FIRST_OUTPUT_ONLY = ("LayerNormalization", "MaxPool")
_RANKS = {"GridSample": (4,), "MaxPool": (4, 5), "AveragePool": (4, 5)}
# Their further limits are not looked at here, nor are the graphs inside them.
_NOT_LOOKED_AT = ("If", "Loop", "Scan", "LSTM", "GRU", "RNN", "DeformConv", "Einsum", "Dropout")


@dataclass(frozen=True)
class Problem:
    """What a TensorRT version does not take. node: the node's name, or its operator if it has none."""

    version: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"TensorRT {self.version}: {self.node}: {self.reason}"


def check_tensorrt(model: onnx.ModelProto | Path | str, versions: tuple[str, ...] = VERSIONS) -> list[Problem]:
    """What stands in the way of an engine, per version; empty if nothing does.

    Raises:
        ValueError: a version that the table does not have.
        BackendError: no ONNX file.
    """
    for version in versions:
        if version not in VERSIONS:
            raise ValueError(f"TensorRT version {version!r}: the table has {', '.join(VERSIONS)}")
    if not isinstance(model, onnx.ModelProto):
        check_onnx(Path(model))
        model = onnx.load(model)
    graph = _Graph(model)
    problems = []
    for version in versions:
        for node in model.graph.node:
            name = node.name or node.op_type
            problems += [Problem(version, name, reason) for reason in graph.reasons(node, version)]
        low, high = _table()["opsets"][version]
        if not low <= graph.opset <= high:
            problems.append(Problem(version, "opset", f"the file has {graph.opset}, the parser takes {low} to {high}"))
    return problems


class _Graph:
    """A model with the type and rank of every tensor, and the value of every constant."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.types: dict[str, str] = {}
        self.ranks: dict[str, int] = {}
        for value in [*inferred.value_info, *inferred.input, *inferred.output]:
            tensor = value.type.tensor_type
            self.types[value.name] = _TYPES.get(tensor.elem_type, TensorProto.DataType.Name(tensor.elem_type))
            if tensor.HasField("shape"):
                self.ranks[value.name] = len(tensor.shape.dim)
        self.constants: dict[str, np.ndarray] = {}
        for initializer in model.graph.initializer:
            self.types[initializer.name] = _TYPES.get(initializer.data_type, "an unknown type")
            self.constants[initializer.name] = numpy_helper.to_array(initializer)
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.ends = {value.name for value in [*model.graph.input, *model.graph.output]}

    def reasons(self, node: onnx.NodeProto, version: str) -> list[str]:
        """Why a version's parser refuses the node."""
        if node.domain not in ("", "ai.onnx") or (types := _types(node.op_type, version)) is None:
            return [f"operator {node.op_type} is not supported"]
        if node.op_type in _NOT_LOOKED_AT:
            return [f"operator {node.op_type}: this check does not know all its limits"]
        found = []
        for name in self._data(node):
            kind = self.types.get(name, "an unknown type")
            if version == "8.6" and kind == "INT64":
                kind = "INT32"  # The parser makes it one.
            if kind not in types:
                found.append(f"{node.op_type} of {kind} ({name}); it takes {', '.join(types)}")
        for name in [*node.input, *node.output]:
            if self.types.get(name) == "UINT8" and name not in self.ends:
                found.append(f"{name} is UINT8, which only inputs and outputs of the network may be")
        return found + self._limits(node, version)

    def _data(self, node: onnx.NodeProto) -> list[str]:
        """The tensors that the table's types are about."""
        if node.op_type in ("Cast", "CastLike"):
            return [*node.input[:1], *node.output]
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        wanted = _DATA_TYPE.get(node.op_type) or schema.inputs[0].type_str
        names = []
        for actual, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
            for i, name in enumerate(actual):
                if name and formal[min(i, len(formal) - 1)].type_str == wanted:
                    names.append(name)
        return names

    def _limits(self, node: onnx.NodeProto, version: str) -> list[str]:
        found = []
        for index, lifted in _CONSTANT_INPUTS.get(node.op_type, {}).items():
            name = node.input[index] if index < len(node.input) else ""
            if name and name not in self.constants and (lifted is None or _number(version) < _number(lifted)):
                found.append(f"{node.op_type}: input {name} must be a constant")
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for name, allowed in _ATTRIBUTES.get(node.op_type, {}).items():
            value = attributes.get(name, allowed[0])
            value = value.decode() if isinstance(value, bytes) else value
            if value not in allowed:
                found.append(f"{node.op_type} with {name} = {value}; it takes {', '.join(map(str, allowed))}")
        if node.op_type in _FIRST_OUTPUT_ONLY and len(node.output) > 1:
            found.append(f"{node.op_type}: only the first output is supported")
        if node.op_type in _RANKS and (rank := self.ranks.get(node.input[0])) not in (None, *_RANKS[node.op_type]):
            found.append(f"{node.op_type} of a tensor with {rank} dimensions; it takes {_RANKS[node.op_type]}")
        if node.op_type == "TopK" and self.constants.get(node.input[1], np.zeros(1)).max() >= 3840:
            found.append("TopK: K must be below 3840")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
            if (zero := self.constants.get(node.input[2])) is None or zero.any():
                found.append(f"{node.op_type}: the zero point must be 0")
        if any(d != 1 for d in attributes.get("dilations", ())) and node.op_type in ("MaxPool", "AveragePool"):
            found.append(f"{node.op_type}: dilations must be 1")
        return found


def _types(operator: str, version: str) -> list[str] | None:
    """Types of the operator's data in a version; None if it does not have the operator."""
    table = _table()
    if _number(version) < _number(table["since"].get(operator, "0")):
        return None
    rows = [row for row in table["operators"] if operator in row["names"].split()]
    rows += [r for r in table["narrower"] if operator in r["names"].split() and _number(version) < _number(r["before"])]
    rows += [r for r in table["wider"] if operator in r["names"].split() and _number(version) >= _number(r["since"])]
    if not rows:
        return None
    types = rows[-1]["types"].split()
    return [t for t in types if t not in ("BF16", "INT64")] if _number(version) < (9,) else types


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@cache
def _table() -> dict:
    return yaml.safe_load((Path(__file__).parent / "tensorrt_operators.yaml").read_text(encoding="utf-8"))
