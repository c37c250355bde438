"""Image -> person boxes: letterbox, one ONNX graph, threshold, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from probpose_ros.backends import load
from probpose_ros.config import PipelineConfig
from probpose_ros.detector_formats import read_format
from probpose_ros.models import find_model
from probpose_ros.types import Detections

PADDING_VALUE = 114


def letterbox(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """The image scaled into a canvas of the detector's size: aspect kept, at the top left, grey elsewhere.

    Args:
        image: (H, W, 3) uint8.
        size: (width, height) of the canvas in px.

    Returns:
        canvas (height, width, 3) uint8, and the scale: canvas px = image px * scale (to the rounding of half a px).

    >>> canvas, scale = letterbox(np.zeros((100, 200, 3), np.uint8), (320, 320))
    >>> canvas.shape, scale, int(canvas[159, 0, 0]), int(canvas[160, 0, 0])
    ((320, 320, 3), 1.6, 0, 114)
    """
    height, width = image.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = np.full((size[1], size[0], 3), PADDING_VALUE, np.uint8)
    if image.shape[:2] == (1, 1):
        image = np.repeat(image, 2, axis=0)  # OpenCV 4.5 takes no array of a single pixel
    # Linear interpolation alone would skip pixels of large images: means of 2 x 2 first, which OpenCV makes faster than
    # one averaging over all (1080p: 0.7 instead of 1.8 to 5 ms), and as well.
    while image.shape[0] >= 2 * h and image.shape[1] >= 2 * w:
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    cv2.resize(image, (w, h), dst=canvas[:h, :w], interpolation=cv2.INTER_LINEAR)
    return canvas, scale


def suppress(boxes: np.ndarray, scores: np.ndarray, iou: float, limit: int) -> np.ndarray:
    """Greedy non-maximum suppression: indices of at most ``limit`` kept boxes, best first.

    Args:
        boxes: (N, 4) xyxy. scores: (N,). iou: a box that overlaps a better one by more than this is dropped.
    """
    order = np.argsort(-scores, kind="stable")
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        best, order = order[0], order[1:]
        kept.append(best)
        overlap = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        shared = overlap.clip(min=0).prod(axis=1)
        order = order[shared <= iou * (area[best] + area[order] - shared)]
    return np.array(kept, dtype=np.intp)


class Detector:
    """Persons in images.

    Args:
        model: name of a bundled or fetched detector or path of an ONNX file: ours, YOLOX as released, or RTMDet as
            exported by MMDeploy (see :mod:`probpose_ros.detector_formats`).
        threshold: lowest score. iou: see :func:`suppress`. max_people: per image, best first.
        backend, threads, allow_fallback: see :func:`probpose_ros.backends.load`.

    ``threshold``, ``iou`` and ``max_people`` may be set at any time.
    """

    def __init__(
        self,
        model: str | Path,
        threshold: float = PipelineConfig.detector_threshold,
        iou: float = PipelineConfig.detector_iou,
        max_people: int = PipelineConfig.max_people,
        backend: str = "auto",
        threads: int = 0,
        allow_fallback: bool = False,
    ) -> None:
        self.path = find_model(model)
        self.session = load(self.path, backend, threads, allow_fallback)
        self._format = read_format(self.path, self.session)
        self.info = self._format.info
        self.threshold, self.iou, self.max_people = threshold, iou, max_people

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detections of every image (H, W, 3) uint8 BGR; the images may differ in size."""
        if not images:
            return []
        canvases, scales = zip(*(letterbox(image, self.info.input_size) for image in images), strict=True)
        found = self._format(np.stack(canvases))
        return [
            self._select(boxes, scores, scale, image.shape)
            for (boxes, scores), scale, image in zip(found, scales, images, strict=True)
        ]

    def _select(self, boxes: np.ndarray, scores: np.ndarray, scale: float, shape: tuple[int, ...]) -> Detections:
        likely = scores >= self.threshold
        if np.isnan(scores).any() or np.isnan(boxes[likely]).any():
            raise ValueError("the detector's output is not a number: nothing can be said of this image")
        height, width = shape[:2]
        limits = np.array([width - 1, height - 1, width - 1, height - 1], np.float32)
        boxes, scores = boxes[likely].astype(np.float32), scores[likely].astype(np.float32)
        boxes = np.clip(boxes / scale, 0, limits)
        # Less than a pixel wide or high after clipping: nothing of it is in the image.
        good = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
        boxes, scores = boxes[good], scores[good]
        kept = suppress(boxes, scores, self.iou, self.max_people)
        return Detections(boxes[kept], scores[kept])
