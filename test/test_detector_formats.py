"""Detector files that are not ours: small ones whose answer is known, and real ones against a decoding of their own."""

from __future__ import annotations

import tarfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from probpose_ros.backends import load
from probpose_ros.config import PipelineConfig
from probpose_ros.detector import Detector, letterbox
from probpose_ros.detector_formats import RtmDet, Yolox
from probpose_ros.model_info import ModelInfoError

SHARED = Path(__file__).parents[1] / "../shared/data"
YOLOX, RTMDET = SHARED / "detector/yolox_nano_416.onnx", SHARED / "detector/rtmdet_nano_person.onnx"
needs_models = pytest.mark.skipif(not RTMDET.is_file(), reason="the reference folder ../shared is not there")
SIZE = (64, 96)  # width, height of the small files


def write(path: Path, graph: str, **constants: np.ndarray) -> Path:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]>\n{graph}')
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def yolox_rows(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, decoded: bool) -> np.ndarray:
    """(1, cells, 8) of a head with three classes: box i in the cell of stride 8, 16 or 32 that holds its centre."""
    width, height = SIZE
    rows, first = [], 0
    found = {i: box for i, box in enumerate(boxes)}
    for stride in (8, 16, 32):
        for y in range(height // stride):
            for x in range(width // stride):
                row = np.zeros(8)
                row[:4] = [(x + 0.5) * stride, (y + 0.5) * stride, stride, stride]
                row[4] = 0.01
                for i, box in list(found.items()):
                    centre = (box[:2] + box[2:]) / 2
                    if i % 3 == {8: 0, 16: 1, 32: 2}[stride] and ((centre // stride) == (x, y)).all():
                        row[:4] = [*centre, *(box[2:] - box[:2])]
                        row[4], row[5 + classes[i]] = 0.95, scores[i] / 0.95
                        del found[i]
                if not decoded:
                    row[:2] = row[:2] / stride - (x, y)
                    row[2:4] = np.log(row[2:4] / stride)
                rows.append(row)
                first += 1
    assert not found
    return np.array(rows, np.float32)[None]


BOXES = np.array([[4, 6, 30, 60], [34, 10, 60, 90], [8, 40, 40, 94], [20, 20, 44, 50]], np.float32)
SCORES = np.array([0.9, 0.8, 0.7, 0.85], np.float32)


@pytest.mark.parametrize("decoded", [False, True])
def test_yolox_gives_the_persons_it_was_made_of(tmp_path: Path, decoded: bool) -> None:
    rows = yolox_rows(BOXES, SCORES, np.array([0, 0, 0, 2]), decoded)  # the last is no person
    cells = rows.shape[1]
    # A little of the image goes into the answer, so that its order of channels and its scale show.
    path = write(
        tmp_path / "yolox.onnx",
        f"""yolox (float[1, 3, {SIZE[1]}, {SIZE[0]}] images) => (float[1, {cells}, 8] output) {{
            mean = ReduceMean <axes = [2, 3], keepdims = 0> (images)
            blue = Gather <axis = 1> (mean, zero)
            effect = Mul (blue, share)
            output = Add (rows, effect)
        }}""",
        rows=rows, zero=np.int64(0), share=np.float32([0, 0, 0, 0, 0, 0.001, 0, 0]),
    )  # fmt: skip
    detector = Detector(path, threshold=0.3)
    assert detector.info.input_size == SIZE and detector.info.name == "yolox"
    (found,) = detector([np.zeros((SIZE[1], SIZE[0], 3), np.uint8)])
    np.testing.assert_allclose(found.boxes, np.minimum(BOXES[:3], np.array([*SIZE, *SIZE]) - 1), atol=1e-3)
    np.testing.assert_allclose(found.scores, SCORES[:3], rtol=1e-5)
    blue = np.zeros((SIZE[1] * 2, SIZE[0] * 2, 3), np.uint8)
    blue[..., 0] = 100
    (found,) = detector([blue])  # twice as large: boxes come back in its px
    np.testing.assert_allclose(found.boxes, np.minimum(2 * BOXES[:3], 2 * np.array([*SIZE, *SIZE]) - 1), atol=1e-3)
    np.testing.assert_allclose(found.scores, (SCORES[:3] / 0.95 + 100 * 0.001) * 0.95, rtol=1e-4)


def test_rtmdet_gives_persons_normalises_and_may_find_nothing(tmp_path: Path) -> None:
    """The score of the only box is the mean of the first normalised channel, blue; its size is open."""
    path = write(
        tmp_path / "rtmdet.onnx",
        """rtmdet (float[batch, 3, height, width] input) => (float[batch, n, 5] dets, int64[batch, n] labels) {
            mean = ReduceMean <axes = [2, 3], keepdims = 0> (input)
            blue = Gather <axis = 1> (mean, zero)
            scored = Mul (blue, unit)
            dets = Add (box, scored)
            labels = Identity (classes)
        }""",
        zero=np.int64(0), unit=np.float32([0, 0, 0, 0, 1]), classes=np.array([[0, 7]]),
        box=np.float32([[[10, 20, 110, 220, 0], [30, 30, 90, 90, 0.5]]]),
    )  # fmt: skip
    detector = Detector(path, threshold=0.3)
    assert detector.info.input_size == (320, 320)
    image = np.full((640, 640, 3), (132, 7, 200), np.uint8)
    found, nobody = detector([image, np.zeros((32, 64, 3), np.uint8)])
    np.testing.assert_allclose(found.boxes, [[20, 40, 220, 440]], atol=1e-3)
    np.testing.assert_allclose(found.scores, [(132 - 103.53) / 57.375], rtol=1e-3)
    assert len(nobody) == 0


def test_other_files_are_refused_with_their_tensors(tmp_path: Path) -> None:
    other = "odd (float[1, 3, 64, 64] images) => (float[1, 3, 64, 64] output) { output = Identity (images) }"
    with pytest.raises(ModelInfoError, match="no 'probpose' metadata.*images float32.*neither a YOLOX"):
        Detector(write(tmp_path / "odd.onnx", other))
    cells = "odd (float[1, 3, 64, 64] images) => (float[1, 100, 85] output) { output = Identity (rows) }"
    with pytest.raises(ModelInfoError, match=r"output float32 \(1, 100, 85\)"):
        Detector(write(tmp_path / "cells.onnx", cells, rows=np.zeros((1, 100, 85), np.float32)))


def loop_decoded(rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """YOLOX's head, cell after cell: written from its paper, without a line of the adapter."""
    boxes, scores, i = [], [], 0
    for stride in (8, 16, 32):
        for y in range(size // stride):
            for x in range(size // stride):
                dx, dy, log_w, log_h, objectness, person = rows[i, :6].astype(float)
                cx, cy, w, h = (x + dx) * stride, (y + dy) * stride, stride * np.exp(log_w), stride * np.exp(log_h)
                boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                scores.append(objectness * person)
                i += 1
    assert i == len(rows)
    return np.array(boxes), np.array(scores)


def photographs(tmp_path: Path) -> Path:
    with tarfile.open(SHARED / "coco_val.tar") as tar:
        tar.extractall(tmp_path, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall(tmp_path)
    (found,) = tmp_path.rglob("person_keypoints_val.json")
    return found.parent


@needs_models
def test_yolox_nano_is_decoded_as_by_hand(tmp_path: Path) -> None:
    if not hasattr(cv2, "dnn"):
        pytest.skip("this OpenCV has no dnn module")
    import onnxruntime

    files = sorted((photographs(tmp_path) / "images").glob("*.jpg"))[:6]
    images = [np.asarray(cv2.imread(str(file))) for file in files]
    session = onnxruntime.InferenceSession(str(YOLOX), providers=["CPUExecutionProvider"])
    detector = Detector(YOLOX, threshold=0.3, iou=0.5, max_people=100, backend="onnxruntime", threads=1)
    people = 0
    for image, found in zip(images, detector(images)):
        canvas, scale = letterbox(image, (416, 416))
        (rows,) = session.run(None, {"images": canvas.transpose(2, 0, 1)[None].astype(np.float32)})
        boxes, scores = loop_decoded(rows[0], 416)
        limits = np.array([image.shape[1], image.shape[0]] * 2) - 1
        boxes = np.clip(boxes / scale, 0, limits)
        xywh = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
        kept = np.ravel(cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), 0.3, 0.5)).astype(int)
        np.testing.assert_allclose(found.scores, scores[kept], rtol=1e-4)
        np.testing.assert_allclose(found.boxes, boxes[kept], atol=0.05)
        people += len(kept)
    assert people >= 6


@needs_models
def test_formats_are_told_apart() -> None:
    assert Yolox.fits(load(YOLOX, "onnxruntime")) and not RtmDet.fits(load(YOLOX, "onnxruntime"))
    assert RtmDet.fits(load(RTMDET, "onnxruntime")) and not Yolox.fits(load(RTMDET, "onnxruntime"))


@needs_models
@pytest.mark.slow
@pytest.mark.parametrize(
    "model, least_ap, least_recall",
    # Measured with this test: RTMDet-nano AP 0.577, recall 0.698 with 28 false; YOLOX-nano 0.504, 0.722 with 53.
    [(RTMDET, 0.57, 0.69), (YOLOX, 0.50, 0.71)],
)
def test_known_average_precision_and_recall(tmp_path: Path, model: Path, least_ap: float, least_recall: float) -> None:
    evaluation = pytest.importorskip("probpose_training.detector.evaluation", reason="needs training/ installed")
    compare = pytest.importorskip("probpose_training.detector.compare", reason="needs training/ installed")
    folder = photographs(tmp_path)
    data = evaluation.CocoBoxes(str(folder / "person_keypoints_val.json"), str(folder / "images"))
    measured = data.measure(compare.of_model(str(model), PipelineConfig.detector_iou))
    assert measured["ap"] >= least_ap and measured["recall_04"] >= least_recall, measured
    assert measured["ap"] <= least_ap + 0.02, "a figure far above the known one is a mistake of the test"
