"""Inputs that nobody thought of: whatever comes, the answer is a result or an error in words, in bounded time.

A few hundred inputs in the suite; ``PROBPOSE_FUZZ=12000 python -m pytest test/test_fuzz.py`` gives each of its nine
targets that many. Hypothesis draws seeds, and of each seed BATCH inputs are made: drawing every part of every input by
hypothesis would take a hundred times as long as the code under test.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
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
from probpose_ros.skeleton import JOINT_TYPES
from probpose_ros.types import KeypointState

FOLDER = Path(tempfile.mkdtemp(prefix="probpose_fuzz_"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

BATCH = 50
SLOW = 20.0  # seconds for one input: a hang, not a busy machine


def fuzz(check: Callable[[Random], None]) -> Callable[..., None]:
    """The test that calls ``check`` with random numbers again and again; the seed of a failure is in its report."""

    @given(seed=st.integers(0, 2**32))
    @settings(
        max_examples=max(1, int(os.environ.get("PROBPOSE_FUZZ", "200")) // BATCH), deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def test(seed: int) -> None:
        for number in range(BATCH):
            started = time.perf_counter()
            check(Random(f"{seed} {number}"))
            assert time.perf_counter() - started < SLOW

    test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
    return test


def value(rng: Random, depth: int = 3) -> Any:
    """Any JSON value, most often one that is nearly right."""
    kind = rng.randrange(12 if depth else 9)
    if kind < 9:
        return [
            None, True, rng.randint(-3, 20), rng.randint(-(2**70), 2**70), rng.gauss(0, 1), rng.uniform(-1e39, 1e39),
            rng.choice([0, 1e308, -0.0, 1e-320, 1e999, float("nan")]), "".join(rng.choices("ab/.\n\0\ud800", k=3)),
            rng.choice(["pose", "../x", "", "person", "x" * 500]),
        ][kind]  # fmt: skip
    several = [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return several if kind < 11 else {str(value(rng, 0)): one for one in several}


def places(document: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON document."""
    found, waiting = [], [document]
    while waiting:
        container = waiting.pop()
        for key in list(container) if isinstance(container, dict) else range(len(container)):
            found.append((container, key))
            if isinstance(container[key], (dict, list)):
                waiting.append(container[key])
    return found


def mutated(text: str, rng: Random) -> Any:
    """The JSON document with one to three of its parts replaced, deleted, exchanged, repeated, added to or nested."""
    changed = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        if not (found := places(changed)):
            break
        # Any depth is as likely as another, or the long lists at the bottom would get it all.
        container, key = rng.choice(found if rng.random() < 0.5 else found[: 2 + len(changed)])
        what = rng.randrange(7)
        if what < 2:
            container[key] = value(rng)
        elif what == 2:
            del container[key]
        elif what == 3:
            other, there = rng.choice(found)
            if there in other if isinstance(other, dict) else there < len(other):
                container[key] = json.loads(json.dumps(other[there]))
        elif what == 4 and isinstance(container, list):
            container.extend([container[key]] * rng.choice([1, 2, 50]))
        elif what == 5 and isinstance(container, dict):
            container[str(value(rng, 0))] = value(rng)
        elif key in container if isinstance(container, dict) else key < len(container):
            inner: Any = container[key]
            for _ in range(rng.choice([1, 20, 100])):
                inner = [inner]
            container[key] = inner
    return changed


def damaged(content: bytes, rng: Random) -> bytes:
    """The bytes with some of them changed, cut away or repeated."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at, length, what = rng.randrange(len(data) + 1), rng.randint(1, 40), rng.randrange(12)
        if what < 6:
            data[at : at + 1] = bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at : at + 1])
        elif what < 9:
            data[at : at + length] = rng.randbytes(rng.randrange(length + 1))
        elif what == 9:
            del data[at : at + length]
        elif what == 10:
            data[at:at] = data[at : at + length]
        else:
            del data[at:]
    return bytes(data)


@fuzz
def test_images(rng: Random) -> None:
    """Fields that fit each other, and now and then one of them changed, so that every check is reached."""
    encoding = rng.choice([*ENCODINGS, "", "rgb", "32FC1"])
    layout = ENCODINGS.get(encoding, ENCODINGS["bgr8"])
    width, height = rng.randrange(10), rng.randrange(10)
    step = width * layout.channels * layout.itemsize + rng.choice([0, 0, 1, 7])
    fields = {"width": width, "height": height, "step": step, "is_bigendian": rng.randrange(2)}
    content = rng.randbytes(int(step * height * layout.planes) if rng.random() < 0.8 else rng.randrange(300))
    if rng.random() < 0.4:
        fields[rng.choice(list(fields))] = rng.choice([0, 1, 2, 255, 2**16, 2**31, 2**32 - 1])
    try:
        image = image_to_bgr(SimpleNamespace(encoding=encoding, data=content, **fields))
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.shape == (fields["height"], fields["width"], 3) and image.dtype == np.uint8


PICTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8), (0, 0), 2)
PICTURES = [cv2.imencode(suffix, PICTURE)[1].tobytes() for suffix in (".jpg", ".png")]


@fuzz
def test_compressed_images(rng: Random) -> None:
    try:
        image = image_to_bgr(SimpleNamespace(format="jpeg", data=damaged(rng.choice(PICTURES), rng)))
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8


@pytest.mark.ros
@fuzz
def test_camera_info_and_depth(rng: Random) -> None:
    messages = pytest.importorskip("sensor_msgs.msg", reason="needs ROS 2 (sensor_msgs)")
    from probpose_ros.ros.geometry_input import camera_of, depth_values

    def real() -> float:
        return rng.choice([0.0, 500.0, 320.0, 1e38, -1.0, float("nan"), float("inf"), rng.gauss(0, 1e3)])

    info = messages.CameraInfo(
        width=rng.choice([0, 640, 2**32 - 1]), height=rng.randrange(500), k=[real() for _ in range(9)],
        p=[real() for _ in range(12)], d=[real() for _ in range(rng.randrange(15))],
        binning_x=rng.choice([0, 1, 2**31]), distortion_model=rng.choice(["", "plumb_bob", "equidistant", "odd"]),
    )  # fmt: skip
    try:
        camera_of(info, rng.random() < 0.5)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    depth = SimpleNamespace(
        encoding=rng.choice(["16UC1", "32FC1", "mono16", "bgr8"]), width=rng.randrange(6), height=rng.randrange(6),
        step=rng.choice([rng.randrange(24), 8, 16]), is_bigendian=rng.randrange(2),
        data=rng.randbytes(rng.randrange(97)),
    )  # fmt: skip
    if rng.random() < 0.5:
        depth.data = rng.randbytes(depth.step * depth.height)
    try:
        assert depth_values(depth).shape == (depth.height, depth.width)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)


_SHORT = json.loads(example().to_json())
for _name in ("in_scores", "out_scores"):  # few are as good as many
    _SHORT["presence"][_name] = _SHORT["presence"][_name][::99]
CALIBRATION = json.dumps(_SHORT)


def usable(calibration: Calibration) -> None:
    presence, joint = np.linspace(0, 1, 17, dtype=np.float32), np.arange(17) % len(JOINT_TYPES)
    states = calibration.presence.states(presence)
    assert np.isin(states, [int(state) for state in KeypointState]).all()
    for curve in (calibration.quality, calibration.presence.reliability):
        assert np.isfinite(curve(presence)).all()
    thresholds = calibration.thresholds(joint, calibration.bins(joint, presence), presence)
    assert thresholds.shape == (17, len(calibration.levels)) and not np.isnan(thresholds).any()


@fuzz
def test_calibrations(rng: Random) -> None:
    try:
        usable(parse(mutated(CALIBRATION, rng)))
    except CalibrationError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


@fuzz
def test_calibration_files(rng: Random) -> None:
    path = FOLDER / "fuzz.calibration.json"
    path.write_bytes(damaged(CALIBRATION.encode(), rng))
    try:
        usable(load_calibration(path))
    except CalibrationError as error:
        assert "\n" not in str(error)


@fuzz
def test_onnx_metadata(rng: Random) -> None:
    info = rng.choice([POSE_INFO, DETECTOR_INFO])
    if rng.random() < 0.7:
        text = json.dumps(mutated(info.to_json(), rng))
    else:
        text = damaged(info.to_json().encode(), rng).decode("utf-8", "surrogateescape")
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


def _onnx(elsewhere: bool) -> bytes:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], raw_data=bytes(8))
    if elsewhere:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../elsewhere")
    node = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    return onnx.helper.make_model(onnx.helper.make_graph([node] * 2, "g", [], [], [tensor])).SerializeToString()


MODELS = [_onnx(False), _onnx(True)]


@fuzz
def test_onnx_files(rng: Random) -> None:
    """A file that is let through holds all its tensors, by the onnx package's own reading."""
    content, path = damaged(rng.choice(MODELS), rng), FOLDER / "fuzz.onnx"
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


COCO_TEXT = json.dumps(COCO)


@fuzz
def test_coco_annotations(rng: Random) -> None:
    coco = pytest.importorskip("probpose_training.coco", reason="needs training/ installed")
    values = mutated(COCO_TEXT, rng)
    try:
        found = coco.parse_coco(values)
    except coco.CocoError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        assert len(found) + len(found.left_out) == len(values["annotations"])
        json.dumps(found.for_evaluation(set(found.images)))
        assert np.isfinite(found.bboxes).all() and np.isfinite(found.keypoints).all() and (found.areas >= 0).all()


@fuzz
def test_coco_files(rng: Random) -> None:
    coco = pytest.importorskip("probpose_training.coco", reason="needs training/ installed")
    path = FOLDER / "fuzz.json"
    path.write_bytes(damaged(COCO_TEXT.encode(), rng))
    try:
        coco.read_coco(path)
    except coco.CocoError as error:
        assert "\n" not in str(error)
