"""Whole frames of the pipeline: its stages, and how the cost grows with people, image size and cameras."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from probpose_ros.config import PipelineConfig
from probpose_ros.pipeline import Pipeline
from probpose_ros.types import Detections

SIZES = {"VGA": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
PEOPLE = range(1, 9)
CAMERAS = range(1, 5)


def picture(people: int, size: tuple[int, int] = SIZES["720p"]) -> tuple[np.ndarray, Detections]:
    """A picture of that many equal people, and their boxes: scikit-image's astronaut, pasted."""
    import skimage.data

    width, height = size
    w, h = width * 30 // 128, height * 34 // 72
    person = cv2.resize(skimage.data.astronaut()[:, :, ::-1], (w, h))
    canvas = np.full((height, width, 3), 90, np.uint8)
    boxes = []
    for n in range(people):
        x, y = n % 4 * width // 4, n // 4 * height // 2
        canvas[y : y + h, x : x + w] = person
        boxes.append([x, y, x + w - 1, y + h - 1])
    return canvas, Detections(np.array(boxes, np.float32).reshape(-1, 4), np.ones(people, np.float32))


class KnownBoxes:
    """Runs the detector for its time and then says what is known, so that the number of people is the wanted one."""

    def __init__(self, detector: Any) -> None:
        self.detector, self.boxes = detector, Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        self.detector(images)
        return [self.boxes] * len(images)


def measure(model: str, detector: str, seconds: float, threads: int = 0) -> dict[str, Any]:
    """people, size, cameras -> median milliseconds by stage. Two people where their number is not the question."""
    pipeline = Pipeline(PipelineConfig(model=model, detector=detector, threads=threads))
    known = pipeline.detector = KnownBoxes(pipeline.detector)
    cases: dict[tuple[str, Any], tuple[list[np.ndarray], Detections]] = {}
    for people in PEOPLE:
        image, boxes = picture(people)
        cases["people", people] = [image], boxes
    for name, size in SIZES.items():
        image, boxes = picture(2, size)
        cases["size", name] = [image], boxes
    for cameras in CAMERAS:
        image, boxes = picture(2)
        cases["cameras", cameras] = [image] * cameras, boxes
    stages: dict[tuple[str, Any], list[dict[str, float]]] = {key: [] for key in cases}
    end = time.monotonic() + seconds
    while time.monotonic() < end or min(map(len, stages.values())) < 6:
        for key, (images, known.boxes) in cases.items():
            stages[key].append(pipeline.process(images)[0].stage_ms)
    found: dict[str, Any] = {"people": {}, "size": {}, "cameras": {}, "threads": threads or "all"}
    for (kind, value), rounds in stages.items():
        rounds = rounds[1:]
        row = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        found[kind][str(value)] = {**row, "frame": statistics.median(sum(one.values()) for one in rounds)}
    return found
