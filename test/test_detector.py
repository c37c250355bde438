"""Letterbox, suppression and the detector around a model whose boxes are known."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import DETECTOR_INFO, person_image, write_tiny_detector, write_tiny_pose

from probpose_ros.backends import BackendError
from probpose_ros.detector import PADDING_VALUE, Detector, letterbox, suppress
from probpose_ros.model_info import ModelInfoError


@given(width=st.integers(1, 900), height=st.integers(1, 900), target=st.sampled_from([(320, 320), (416, 256)]))
def test_letterbox_keeps_aspect_and_fills_the_rest(width, height, target):
    image = np.full((height, width, 3), 200, np.uint8)
    canvas, scale = letterbox(image, target)
    assert canvas.shape == (target[1], target[0], 3) and canvas.dtype == np.uint8
    filled = (canvas == 200).all(-1)
    columns, rows = filled.any(0).sum(), filled.any(1).sum()
    assert abs(columns - width * scale) <= 0.5 or columns == 1
    assert abs(rows - height * scale) <= 0.5 or rows == 1
    assert filled[:rows, :columns].all() and (canvas[~filled] == PADDING_VALUE).all()
    assert columns == target[0] or rows == target[1]


def test_suppress_agrees_with_opencv():
    if not hasattr(cv2, "dnn"):
        pytest.skip("this OpenCV has no dnn module")
    rng = np.random.default_rng(0)
    for _ in range(50):
        corner, size = rng.uniform(0, 100, (40, 2)), rng.uniform(5, 60, (40, 2))
        scores = rng.permutation(np.linspace(0.1, 0.9, 40)).astype(np.float32)
        boxes = np.hstack([corner, corner + size]).astype(np.float32)
        expected = cv2.dnn.NMSBoxes(np.hstack([corner, size]).tolist(), scores.tolist(), 0.0, 0.5)
        assert suppress(boxes, scores, 0.5, 100).tolist() == np.ravel(expected).tolist()
        assert suppress(boxes, scores, 0.5, 3).tolist() == np.ravel(expected).tolist()[:3]


def test_suppress_of_nothing():
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.5, 5).tolist() == []


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_boxes_come_back_in_image_px(tiny_detector_model, scale):
    detector = Detector(tiny_detector_model)
    people = np.array([[40, 40, 100, 200], [200, 30, 260, 220]]) * scale
    (found,) = detector([person_image(*people.tolist(), size=(320 * scale, 240 * scale))])
    assert found.scores.tolist() == [np.float32(0.9), np.float32(0.8)]
    assert found.boxes.dtype == found.scores.dtype == np.float32
    # The canvas halves the 320 px image: an edge is found to one canvas px.
    assert np.abs(found.boxes - people).max() <= 2 * scale


def test_images_of_several_sizes_in_one_batch(tiny_detector_model):
    detector = Detector(tiny_detector_model)
    nobody, small = person_image(size=(64, 200)), person_image((10, 10, 30, 60), size=(80, 80))
    images = [person_image((40, 40, 100, 200)), nobody, small]
    together = detector(images)
    assert [len(found) for found in together] == [1, 0, 1]
    for image, found in zip(images, together, strict=True):
        (alone,) = detector([image])
        np.testing.assert_array_equal(alone.boxes, found.boxes)
    assert detector([]) == []


def test_boxes_stay_in_the_image(tiny_detector_model):
    # A wide image leaves grey rows below; white to its very edge, the box ends at the last px.
    (found,) = Detector(tiny_detector_model)([np.full((90, 160, 3), 255, np.uint8)])
    assert found.boxes[:, 2].max() == 159 and found.boxes[:, 3].max() <= 89


def test_options(tiny_detector_model):
    image = person_image((40, 40, 100, 200), (200, 30, 260, 220))
    detector = Detector(tiny_detector_model, threshold=0.85)
    assert len(detector([image])[0]) == 1
    detector.threshold = 0.5
    assert len(detector([image])[0]) == 2
    detector.iou = 1.0  # nothing overlaps by more: the duplicates stay
    assert len(detector([image])[0]) == 4
    detector.max_people = 3
    assert detector([image])[0].scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_nan_is_not_nobody(tiny_detector_model):
    detector = Detector(tiny_detector_model)
    boxes = np.array([[0, 0, 50, 50], [np.nan, 0, 50, 50], [10, 10, 10.5, 60]], np.float32)
    for scores in ([np.nan, 0.1, 0.1], [0.9, 0.9, 0.1]):
        with pytest.raises(ValueError, match="not a number"):
            detector._select(boxes, np.array(scores, np.float32), 1.0, (100, 100, 3))
    found = detector._select(boxes, np.array([0.1, 0.1, 0.9], np.float32), 1.0, (100, 100, 3))
    assert len(found) == 0  # NaN in a box that scores nothing does not matter; less than a pixel is nobody


def test_models_that_do_not_fit(tmp_path, tiny_pose_model):
    with pytest.raises(ModelInfoError, match="this is a 'pose' model; a 'detector' model is needed here"):
        Detector(tiny_pose_model)
    import onnx

    path = write_tiny_detector(tmp_path / "wrong.onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"probpose": replace(DETECTOR_INFO, input_size=(320, 320)).to_json()})
    onnx.save(model, path)
    words = r"input 'image' is uint8 \(B, 160, 160, 3\); expected uint8 \(B, 320, 320, 3\)"
    with pytest.raises(BackendError, match=words):
        Detector(path)
    bare = write_tiny_pose(tmp_path / "bare.onnx")
    model = onnx.load(bare)
    del model.metadata_props[:]
    onnx.save(model, bare)
    with pytest.raises(ModelInfoError, match="no 'probpose' metadata"):
        Detector(bare)
