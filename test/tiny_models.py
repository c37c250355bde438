"""Two ONNX models of a few kilobytes whose outputs follow from the image, so that tests can say what must come out.

They carry the metadata and the tensors of real models; nothing in them is trained.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from probpose_ros.model_info import METADATA_KEY, DetectorInfo, ModelInfo, PoseInfo

DETECTOR_INFO = DetectorInfo(kind="detector", name="tiny_detector", input_size=(160, 160), trained_on="nothing")
POSE_INFO = PoseInfo(kind="pose", name="tiny_pose", input_size=(48, 64), map_size=(12, 16), trained_on="nothing")

# Where each keypoint's prior lies in the crop, as a fraction of its width and height (an upright person, seen from the
# front): nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
BODY = np.array(
    [[.5, .1], [.54, .08], [.46, .08], [.58, .1], [.42, .1], [.64, .25], [.36, .25], [.7, .38], [.3, .38], [.72, .5],
     [.28, .5], [.6, .52], [.4, .52], [.6, .7], [.4, .7], [.6, .9], [.4, .9]]
)  # fmt: skip


def write_tiny_detector(path: str | Path, info: DetectorInfo = DETECTOR_INFO) -> Path:
    """A detector of bright pixels (mean of the channels above 180).

    Two persons at most: the bounding box of the bright pixels of the canvas's left half (score 0.9) and of its right
    half (0.8). Each comes a second time, one px smaller on every side and 0.2 weaker, for the suppression to drop.
    """
    width, height = info.input_size
    half = width // 2
    x, y = np.arange(width, dtype=np.float32).reshape(2, half), np.arange(height, dtype=np.float32)
    graph = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    detector (uint8[B, {height}, {width}, 3] image) => (float[B, 4, 4] boxes, float[B, 4] scores) {{
        pixels = Cast <to = 1> (image)
        brightness = ReduceMean <axes = [3], keepdims = 0> (pixels)
        bright = Greater (brightness, limit)
        mask_flat = Cast <to = 1> (bright)
        mask_split = Reshape (mask_flat, split_shape)
        mask = Transpose <perm = [0, 2, 1, 3]> (mask_split)
        columns = ReduceMax <axes = [2], keepdims = 0> (mask)
        rows = ReduceMax <axes = [3], keepdims = 0> (mask)
        x_low = Mul (columns, x_from_right)
        x_lows = ReduceMax <axes = [2]> (x_low)
        x_min = Sub (width, x_lows)
        y_low = Mul (rows, y_from_bottom)
        y_lows = ReduceMax <axes = [2]> (y_low)
        y_min = Sub (height, y_lows)
        x_high = Mul (columns, x)
        x_max = ReduceMax <axes = [2]> (x_high)
        y_high = Mul (rows, y)
        y_max = ReduceMax <axes = [2]> (y_high)
        found_boxes = Concat <axis = 2> (x_min, y_min, x_max, y_max)
        smaller_boxes = Add (found_boxes, shrink)
        boxes = Concat <axis = 1> (found_boxes, smaller_boxes)
        any_bright = ReduceMax <axes = [2], keepdims = 0> (columns)
        any_twice = Concat <axis = 1> (any_bright, any_bright)
        scores = Mul (any_twice, score_values)
    }}"""
    constants = {
        "limit": np.float32(180), "split_shape": np.array([-1, height, 2, half], np.int64), "x": x, "y": y,
        "x_from_right": width - x, "y_from_bottom": height - y,
        "width": np.float32(width), "height": np.float32(height),
        "shrink": np.array([1, 1, -1, -1], np.float32), "score_values": np.array([0.9, 0.8, 0.7, 0.6], np.float32),
    }  # fmt: skip
    return _write(path, graph, constants, info)


def write_tiny_pose(path: str | Path, info: PoseInfo = POSE_INFO, probmap: bool = True) -> Path:
    """A pose network: keypoint k is where the crop is bright near the k-th place of an upright body.

    The map is ``brightness * Gaussian around BODY[k]``, cut off at a fifth of its maximum (so it has exact zeros, as
    sparsemax gives) and normalised to 1. The keypoint is the map's mean, peak its maximum, presence the brightness
    under the Gaussian, visibility presence squared and quality the map's sum of squares.
    """
    (width, height), (w, h) = info.input_size, info.map_size
    cell = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).astype(np.float32)
    centre = BODY.astype(np.float32) * (np.array([w, h], np.float32) - 1)
    prior = np.exp(-((cell - centre[:, None, None]) ** 2).sum(-1) / 2).astype(np.float32)
    to_crop = cell.reshape(h * w, 2) * ((np.array([width, height]) - 1) / (np.array([w, h]) - 1)).astype(np.float32)
    cell_size = [height // h, width // w]
    extra_output = f", float[N, 17, {h}, {w}] probmap" if probmap else ""
    extra_node = "probmap = Reshape (map, map_shape)" if probmap else ""
    graph = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    pose (uint8[N, {height}, {width}, 3] image)
        => (float[N, 17, 2] keypoints, float[N, 17] presence, float[N, 17] visibility, float[N, 17] quality,
            float[N, 17] peak{extra_output}) {{
        pixels = Cast <to = 1> (image)
        brightness = ReduceMean <axes = [3], keepdims = 0> (pixels)
        planes = Unsqueeze (brightness, one)
        pooled = AveragePool <kernel_shape = {cell_size}, strides = {cell_size}> (planes)
        cells_shaped = Reshape (pooled, cells_shape)
        cells = Div (cells_shaped, white)
        lit = Add (cells, dark)
        weighted = Mul (lit, prior)
        top = ReduceMax <axes = [2]> (weighted)
        floor = Mul (top, fifth)
        above = Sub (weighted, floor)
        support = Relu (above)
        mass = ReduceSum (support, two)
        map = Div (support, mass)
        keypoints = MatMul (map, to_crop)
        peak = ReduceMax <axes = [2], keepdims = 0> (map)
        prior_light = Mul (cells, prior)
        light = ReduceSum <keepdims = 0> (prior_light, two)
        presence = Div (light, prior_mass)
        visibility = Mul (presence, presence)
        squares = Mul (map, map)
        quality = ReduceSum <keepdims = 0> (squares, two)
        {extra_node}
    }}"""
    constants = {
        "one": np.array([1], np.int64), "two": np.array([2], np.int64),
        "cells_shape": np.array([-1, 1, h * w], np.int64), "map_shape": np.array([-1, 17, h, w], np.int64),
        "white": np.float32(255), "dark": np.float32(0.05), "fifth": np.float32(0.2),
        "prior": prior.reshape(17, h * w), "prior_mass": prior.sum((1, 2)), "to_crop": to_crop,
    }  # fmt: skip
    return _write(path, graph, constants, info)


def person_image(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """A dark image (width, height) with a white "person" in every box: what the tiny detector finds."""
    image = np.full((size[1], size[0], 3), 20, np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = 255
    return image


def _write(path: str | Path, graph: str, constants: dict[str, np.ndarray], info: ModelInfo) -> Path:
    model = parser.parse_model(graph)
    used = {name for node in model.graph.node for name in node.input}
    for name, value in constants.items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(model)
    onnx.helper.set_model_props(model, {METADATA_KEY: info.to_json()})
    onnx.save(model, str(path))
    return Path(path)


def with_changes(info: PoseInfo, **changes: object) -> PoseInfo:
    """The info with some fields replaced, to make a model that contradicts its own metadata."""
    return replace(info, **changes)
