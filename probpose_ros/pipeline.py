"""Image -> people: the whole way of a frame. Read this first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from probpose_ros.config import ConfigError, PipelineConfig
from probpose_ros.detector import Detector
from probpose_ros.geometry import CropTransform
from probpose_ros.pose import PoseModel
from probpose_ros.regions import is_distribution, regions_from_map
from probpose_ros.types import Detections, FrameResult, FrameState, KeypointState, Person, PoseOutput


class Pipeline:
    """Detector, pose network and regions, loaded once.

    detector: finds the people instead of the configured one, for boxes that are known already; from images to
    Detections of each.

    >>> pipeline = Pipeline()                    # doctest: +SKIP
    >>> people = pipeline(image).people          # doctest: +SKIP
    """

    def __init__(
        self,
        config: PipelineConfig | None = None,
        detector: Callable[[Sequence[np.ndarray]], list[Detections]] | None = None,
    ) -> None:
        self.config = config = config or PipelineConfig()
        _check_thresholds(config)
        self.detector: Any = detector or Detector(
            config.detector, config.detector_threshold, config.detector_iou, config.max_people,
            config.backend, config.threads,
        )  # fmt: skip
        self.pose = PoseModel(config.model, config.backend, config.threads)

    def __call__(self, image: np.ndarray) -> FrameResult:
        """The people of one image (H, W, 3) uint8 BGR."""
        return self.process([image])[0]

    def process(self, images: Sequence[np.ndarray]) -> list[FrameResult]:
        """The people of several images, which may differ in size: all persons go through the network in one batch.

        ``stage_ms`` of every result is the time of the whole batch.
        """
        for image in images:
            check_image(image)
        config = self.config
        clock = _StageClock()

        detections = self.detector(images)
        clock.lap("detect")

        transforms = [
            [CropTransform.from_bbox(box, self.pose.info.input_size, self.pose.info.padding) for box in found.boxes]
            for found in detections
        ]
        crops = self._crops(images, transforms)
        clock.lap("crop")

        poses = self.pose(crops)
        clock.lap("pose")

        frames, first = [], 0
        for image, found, its_transforms in zip(images, detections, transforms, strict=True):
            people = self._people(found, its_transforms, _rows(poses, first, len(found)), config)
            first += len(found)
            state = FrameState.OK if people else FrameState.NO_PERSON_DETECTED
            frames.append(FrameResult(people, image.shape[1], image.shape[0], state, clock.stage_ms))
        clock.lap("regions")
        return frames

    def reconfigure(self, config: PipelineConfig) -> None:
        """New values for the options that may change while running; another change is refused with ConfigError."""
        _check_thresholds(config)
        for spec in fields(config):
            old, new = getattr(self.config, spec.name), getattr(config, spec.name)
            if old != new and not spec.metadata["runtime"]:
                raise ConfigError(f"{spec.name} = {new!r}: cannot change while running (it is {old!r})")
        self.detector.threshold = config.detector_threshold
        self.detector.iou = config.detector_iou
        self.detector.max_people = config.max_people
        self.config = config

    def _crops(self, images: Sequence[np.ndarray], transforms: list[list[CropTransform]]) -> np.ndarray:
        width, height = self.pose.info.input_size
        crops = np.empty((sum(map(len, transforms)), height, width, 3), np.uint8)
        pairs = [(image, transform) for image, its in zip(images, transforms, strict=True) for transform in its]
        for crop, (image, transform) in zip(crops, pairs, strict=True):
            transform.warp(image, out=crop)
        return crops

    def _people(
        self, found: Detections, transforms: list[CropTransform], poses: PoseOutput, config: PipelineConfig
    ) -> tuple[Person, ...]:
        """Persons of one image from its rows of the batch, best first."""
        known = is_known(poses)
        states = keypoint_states(poses.presence, known, config)
        people = []
        for i, transform in enumerate(transforms):

            def or_nan(values: np.ndarray, i: int = i) -> np.ndarray:
                return np.where(known[i], values[i], np.nan).astype(np.float32)

            quality = or_nan(poses.quality)
            counted = quality[known[i] & (states[i] != KeypointState.OUT)]
            keypoints = transform.to_image(np.where(known[i, :, None], poses.keypoints[i], np.nan))
            regions = None
            if poses.probmap is not None:
                probmap = poses.probmap[i]
                if not known[i].all():  # a keypoint that is UNKNOWN has no region either
                    probmap = np.where(known[i, :, None, None], probmap, np.float32(np.nan))
                regions = regions_from_map(probmap, transform, self.pose.codec, config.levels)
            person = Person(
                score=float(found.scores[i] * counted.mean()) if len(counted) else 0.0,
                bbox=found.boxes[i],
                window=transform.window,
                keypoints=keypoints.astype(np.float32),
                presence=or_nan(poses.presence),
                visibility=or_nan(poses.visibility),
                quality=quality,
                peak=or_nan(poses.peak),
                states=states[i],
                regions=regions,
            )
            people.append(person)
        return tuple(sorted(people, key=lambda person: -person.score))


def check_image(image: np.ndarray) -> None:
    """Refuses what is not a uint8 (H, W, 3) image with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image must be a NumPy array, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image must be uint8 (height, width, 3) and not empty, got {image.dtype} {image.shape}")


def is_known(poses: PoseOutput) -> np.ndarray:
    """(N, K) bool: all numbers of the keypoint are finite, its probabilities in [0, 1], its map (if any) sums to 1.

    What fails here is not reported at all: state UNKNOWN and NaN, never a guess.
    """
    known = np.isfinite(poses.keypoints).all(axis=-1) & np.isfinite(poses.peak)
    for probability in (poses.presence, poses.visibility, poses.quality):
        known &= (probability >= 0) & (probability <= 1)
    return known if poses.probmap is None else known & is_distribution(poses.probmap)


def keypoint_states(presence: np.ndarray, known: np.ndarray, config: PipelineConfig) -> np.ndarray:
    """KeypointState (uint8) by presence: IN from ``presence_in`` on, OUT below ``presence_out``, between: IN_OR_OUT."""
    states = np.full(presence.shape, KeypointState.IN_OR_OUT, np.uint8)
    states[presence >= config.presence_in] = KeypointState.IN
    states[presence < config.presence_out] = KeypointState.OUT
    states[~known] = KeypointState.UNKNOWN
    return states


def _check_thresholds(config: PipelineConfig) -> None:
    if config.presence_out > config.presence_in:
        raise ConfigError(f"presence_out = {config.presence_out}: must not be above presence_in = {config.presence_in}")


def _rows(poses: PoseOutput, first: int, count: int) -> PoseOutput:
    part = slice(first, first + count)
    arrays = (poses.keypoints, poses.presence, poses.visibility, poses.quality, poses.peak)
    return PoseOutput(*(array[part] for array in arrays), None if poses.probmap is None else poses.probmap[part])


class _StageClock:
    """stage_ms: milliseconds of each lap, by name."""

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.stage_ms[name] = (now - self._last) * 1e3
        self._last = now
