"""Inputs that nobody thought of: whatever comes, the answer is a result or an error in words, in bounded time.

A few hundred inputs in the suite; ``PROBPOSE_FUZZ=25000 python -m pytest test/test_fuzz.py`` gives each of its targets
that many, 225,000 in all (about a quarter of an hour).
"""

from __future__ import annotations

import copy
import json
import os
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_calibration import example
from tiny_models import DETECTOR_INFO, POSE_INFO

from probpose_ros.backends import BackendError
from probpose_ros.backends.onnx_file import check_onnx
from probpose_ros.calibration import Calibration, CalibrationError, load_calibration, parse
from probpose_ros.codec import Codec
from probpose_ros.image_message import ENCODINGS, ImageError, image_to_bgr
from probpose_ros.model_info import ModelInfoError, PoseInfo, from_json
from probpose_ros.types import KeypointState

fuzz = settings(
    max_examples=int(os.environ.get("PROBPOSE_FUZZ", "100")),
    deadline=timedelta(seconds=20),  # of one input: a hang, not a busy machine
    suppress_health_check=list(HealthCheck),
    database=None,
)

numbers = st.one_of(
    st.integers(-3, 20), st.integers(-(2**70), 2**70), st.floats(width=32), st.sampled_from([0, 1e308, -0.0, 1e-320])
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8), st.sampled_from(["\ud800", "../x", "pose"]))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def places(document: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON document."""
    found, waiting = [], [document]
    while waiting:
        container = waiting.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], (dict, list)):
                waiting.append(container[key])
    return found


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """The document with one to three of its parts replaced, deleted, exchanged or added to."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        if not (found := places(changed)):
            return changed
        container, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(["replace", "replace", "delete", "exchange", "add", "nest"])):
            case "replace":
                container[key] = draw(values)
            case "delete":
                del container[key]
            case "exchange":
                other, there = found[draw(st.integers(0, len(found) - 1))]
                container[key] = copy.deepcopy(other[there])
            case "add" if isinstance(container, dict):
                container[draw(st.text(max_size=6))] = draw(values)
            case "add":
                container.extend([container[key]] * draw(st.sampled_from([1, 2, 50])))
            case "nest":
                inner: Any = container[key]
                for _ in range(draw(st.sampled_from([1, 40, 600]))):
                    inner = [inner]
                container[key] = inner
    return changed


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with some of them changed, cut away or repeated."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(1, 40))
        match draw(st.sampled_from(["flip", "flip", "write", "cut", "end", "repeat"])):
            case "flip":
                data[at : at + 1] = bytes(b ^ (1 << draw(st.integers(0, 7))) for b in data[at : at + 1])
            case "write":
                data[at : at + length] = draw(st.binary(max_size=length))
            case "cut":
                del data[at : at + length]
            case "end":
                del data[at:]
            case "repeat":
                data[at:at] = data[at : at + length]
    return bytes(data)


@given(data=st.data())
@fuzz
def test_images(data: st.DataObject) -> None:
    """Fields that fit each other, and one or two of them changed, so that the checks behind the first are reached."""
    encoding = data.draw(st.sampled_from([*ENCODINGS, "", "rgb", "32FC1"]))
    layout = ENCODINGS.get(encoding, ENCODINGS["bgr8"])
    width, height = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
    step = width * layout.channels * layout.itemsize + data.draw(st.sampled_from([0, 0, 1, 7]))
    fields = {"width": width, "height": height, "step": step, "is_bigendian": data.draw(st.integers(0, 1))}
    size = int(step * height * layout.planes)
    for name in data.draw(st.lists(st.sampled_from(list(fields)), max_size=1)):
        fields[name] = data.draw(st.sampled_from([0, 1, 2, 255, 2**16, 2**31, 2**32 - 1]))
    content = data.draw(st.binary(min_size=size, max_size=size) | st.binary(max_size=300))
    try:
        image = image_to_bgr(SimpleNamespace(encoding=encoding, data=content, **fields))
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.shape == (fields["height"], fields["width"], 3) and image.dtype == np.uint8


PICTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8), (0, 0), 2)
PICTURES = [cv2.imencode(suffix, PICTURE)[1].tobytes() for suffix in (".jpg", ".png")]


@given(content=st.one_of(*map(damaged, PICTURES), st.binary(max_size=100)))
@fuzz
def test_compressed_images(content: bytes) -> None:
    try:
        image = image_to_bgr(SimpleNamespace(format="jpeg", data=content))
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8


@given(data=st.data())
@fuzz
@pytest.mark.ros
def test_camera_info_and_depth(data: st.DataObject) -> None:
    messages = pytest.importorskip("sensor_msgs.msg", reason="needs ROS 2 (sensor_msgs)")
    from probpose_ros.ros.geometry_input import camera_of, depth_values

    real = st.floats(width=32) | st.sampled_from([0.0, 500.0, 320.0])
    info = messages.CameraInfo(
        width=data.draw(st.sampled_from([0, 640, 2**32 - 1])), height=data.draw(st.integers(0, 500)),
        k=data.draw(st.lists(real, min_size=9, max_size=9)), p=data.draw(st.lists(real, min_size=12, max_size=12)),
        d=data.draw(st.lists(real, max_size=15)), binning_x=data.draw(st.sampled_from([0, 1, 2**31])),
        distortion_model=data.draw(st.sampled_from(["", "plumb_bob", "equidistant", "odd"])),
    )  # fmt: skip
    try:
        camera_of(info, data.draw(st.booleans()))
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    depth = SimpleNamespace(
        encoding=data.draw(st.sampled_from(["16UC1", "32FC1", "mono16", "bgr8"])), width=data.draw(st.integers(0, 5)),
        height=data.draw(st.integers(0, 5)), step=data.draw(st.integers(0, 24)),
        is_bigendian=data.draw(st.integers(0, 1)), data=data.draw(st.binary(max_size=120)),
    )  # fmt: skip
    try:
        assert depth_values(depth).shape == (depth.height, depth.width)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)


CALIBRATION = json.loads(example().to_json())
for _name in ("in_scores", "out_scores"):  # few are as good as many
    CALIBRATION["presence"][_name] = CALIBRATION["presence"][_name][::99]


def usable(calibration: Calibration) -> None:
    presence = np.linspace(0, 1, 17, dtype=np.float32)
    states = calibration.presence.states(presence)
    assert np.isin(states, [int(state) for state in KeypointState]).all()
    assert (
        np.isfinite(calibration.quality(presence)).all()
        and np.isfinite(calibration.presence.reliability(presence)).all()
    )
    assert (calibration.group_of(np.zeros(17, int), presence) >= 0).all()


@given(values=mutated(CALIBRATION))
@fuzz
def test_calibrations(values: Any) -> None:
    try:
        usable(parse(values))
    except CalibrationError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


@given(content=damaged(json.dumps(CALIBRATION).encode()) | st.binary(max_size=60))
@fuzz
def test_calibration_files(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.calibration.json"
    path.write_bytes(content)
    try:
        usable(load_calibration(path))
    except CalibrationError as error:
        assert "\n" not in str(error)


@given(data=st.data())
@fuzz
def test_onnx_metadata(data: st.DataObject) -> None:
    info = data.draw(st.sampled_from([POSE_INFO, DETECTOR_INFO]))
    text = data.draw(
        mutated(json.loads(info.to_json())).map(json.dumps)
        | damaged(info.to_json().encode()).map(lambda content: content.decode("utf-8", "surrogateescape"))
        | st.text(max_size=30)
    )
    try:
        found = from_json(text, info.kind, "model.onnx")
        if isinstance(found, PoseInfo):
            Codec(found.input_size, found.map_size, found.decode_profile, found.padding, found.map_window)
    except ModelInfoError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    except ValueError as error:  # the codec's
        assert str(error).startswith(("profile", "map_size", "map_window"))
    else:
        assert found.name.encode() is not None and max(found.input_size) <= 4096


@given(data=st.data())
@fuzz
def test_onnx_files(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file that is let through holds all its tensors, by the onnx package's own reading."""
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], raw_data=bytes(8))
    if data.draw(st.booleans()):
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../elsewhere")
    node = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    graph = onnx.helper.make_graph([node] * data.draw(st.integers(1, 3)), "g", [], [], [tensor])
    content = data.draw(damaged(onnx.helper.make_model(graph).SerializeToString()))
    path = tmp_path_factory.getbasetemp() / "fuzz.onnx"
    path.write_bytes(content)
    try:
        check_onnx(path)
    except BackendError as error:
        assert "\n" not in str(error)
        return
    try:
        model = onnx.load_from_string(content)
    except Exception:  # noqa: BLE001 - protobuf's own; a backend refuses it too
        return
    tensors = [*model.graph.initializer]
    tensors += [attribute.t for node in model.graph.node for attribute in node.attribute]
    assert not any(tensor.data_location or tensor.external_data for tensor in tensors)


COCO = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in (1, 2)],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 700.5, "iscrowd": 0,
         "keypoints": [5, 6, 2] * 17, "keypoint_weights": [0.5] * 17, "pad_to_contain": [1.0] * 17},
        {"id": 8, "image_id": 2, "category_id": 2, "bbox": [0, 0, 1, 1]},
        {"id": 9, "image_id": 2, "category_id": 1, "bbox": [0, 0, 9, 9], "keypoints": [], "iscrowd": 1},
    ],
}  # fmt: skip


@given(values=mutated(COCO))
@fuzz
def test_coco_annotations(values: Any) -> None:
    coco = pytest.importorskip("probpose_training.coco", reason="needs training/ installed")
    try:
        found = coco.parse_coco(values)
    except coco.CocoError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        assert len(found) + len(found.left_out) == len(values["annotations"])
        kept = found.for_evaluation(set(found.images))
        json.dumps(kept)
        assert np.isfinite(found.bboxes).all() and np.isfinite(found.keypoints).all() and (found.areas >= 0).all()


@given(content=damaged(json.dumps(COCO).encode()))
@fuzz
def test_coco_files(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    coco = pytest.importorskip("probpose_training.coco", reason="needs training/ installed")
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(content)
    try:
        coco.read_coco(path)
    except coco.CocoError as error:
        assert "\n" not in str(error)
