"""A graph as the exporter traces it, with one batch size -> a lean one for any batch size.

The exporter computes every shape at run time, node by node. With a fixed batch the shapes are numbers, only few of
which hold the batch size.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

BATCH = 7  # To trace with: a leading size that it divides is the batch's.


def clean(model: onnx.ModelProto) -> None:
    """In place. What it does not foresee shows when the graph runs with another batch size, which the exporters do."""
    constants = fold_constants(model)
    merge_pads(model.graph, constants)
    enlarge_by_index(model, constants)
    free_batch(model, constants)
    drop_unused(model.graph)
    for node in model.graph.node:
        node.doc_string = ""


def fold_constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """What follows from shapes and constants alone becomes an initializer; returns those by name."""
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    folded: list[onnx.NodeProto] = []
    rest: list[onnx.NodeProto] = []
    for node in graph.node:
        alone = node.op_type in ("Constant", "Shape") or all(name in known for name in node.input if name)
        (folded if alone else rest).append(node)
        if alone:
            known.update(node.output)
    made = {name for node in folded for name in node.output}
    wanted = sorted(made & {name for node in rest for name in node.input})
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    values = session.run(wanted, {image.name: np.zeros(image.shape, np.uint8)}) if wanted else []
    del graph.node[:]
    graph.node.extend(rest)
    graph.initializer.extend(map(numpy_helper.from_array, values, wanted))
    return dict(zip(wanted, values, strict=True))


def merge_pads(graph: onnx.GraphProto, constants: dict[str, np.ndarray]) -> None:
    """Padding with zeros moves into the convolution that follows."""
    pads = {}
    for node in graph.node:
        if node.op_type == "Pad" and not any(node.input[2:]):
            amounts = constants[node.input[1]].reshape(2, -1)  # before and after, for each axis
            if not amounts[:, :2].any():
                pads[node.output[0]] = node.input[0], amounts[:, 2:].ravel()
    for node in graph.node:
        if node.op_type == "Conv" and node.input[0] in pads:
            node.input[0], more = pads[node.input[0]]
            old = next(a for a in node.attribute if a.name == "pads")
            old.CopyFrom(helper.make_attribute("pads", (np.array(old.ints) + more).tolist()))


def free_batch(model: onnx.ModelProto, constants: dict[str, np.ndarray]) -> None:
    """The batch may be any from now on."""
    graph = model.graph
    for node in graph.node:
        if node.op_type in ("Reshape", "Expand"):
            shape = constants[node.input[1]]
            if len(shape) and shape[0] > 0 and shape[0] % BATCH == 0:
                # Reshape: what is left over, or the input's own; Expand: what the input has.
                first = 1 if node.op_type == "Expand" else 0 if -1 in shape[1:] else -1
                node.input[1] = _constant(graph, f"{node.output[0]}/shape", np.array([first, *shape[1:]]))
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]


def enlarge_by_index(model: onnx.ModelProto, constants: dict[str, np.ndarray]) -> None:
    """Enlarging to given sizes, which hold the batch, becomes a scale; or where that is no whole number, indexing."""
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    sizes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in inferred}
    for node in list(graph.node):
        if node.op_type != "Resize" or len(node.input) != 4:
            continue
        source, have, wanted = node.input[0], np.array(sizes[node.input[0]]), constants[node.input[3]]
        if not (wanted % have).any():
            scales = _constant(graph, f"{node.output[0]}/scales", (wanted // have).astype(np.float32))
            node.input[:] = [source, "", scales]
            continue
        position = list(graph.node).index(node)
        graph.node.remove(node)
        for axis, out in ((2, f"{node.output[0]}/rows"), (3, node.output[0])):
            index = np.arange(wanted[axis]) * have[axis] // wanted[axis]
            inputs = [source, _constant(graph, f"{node.output[0]}/index_{axis}", index)]
            graph.node.insert(position, helper.make_node("Gather", inputs, [out], name=f"{out}/Gather", axis=axis))
            source, position = out, position + 1


def _constant(graph: onnx.GraphProto, name: str, values: np.ndarray) -> str:
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def drop_unused(graph: onnx.GraphProto) -> None:
    """Nodes and initializers whose outputs nobody reads."""
    used = {value.name for value in graph.output}
    for i in reversed(range(len(graph.node))):
        if used.isdisjoint(graph.node[i].output):
            del graph.node[i]
        else:
            used.update(graph.node[i].input)
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in used:
            del graph.initializer[i]
