"""Image -> people: the whole way of a frame. Read this first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from probpose_ros.backends import Session
from probpose_ros.calibration import (
    AUTO,
    GIVEN_BOXES,
    Calibration,
    CalibrationError,
    Subject,
    beside,
    find_calibration,
    load_calibration,
)
from probpose_ros.config import ConfigError, PipelineConfig
from probpose_ros.detector import Detector
from probpose_ros.geometry import CropTransform, cut_crops
from probpose_ros.models import file_sha256
from probpose_ros.pose import PoseModel
from probpose_ros.regions import is_distribution, regions_from_maps
from probpose_ros.types import Detections, FrameResult, FrameState, KeypointState, Person, PoseOutput, Regions


class Pipeline:
    """Detector, pose network and regions, loaded once.

    detector: finds the people instead of the configured one, for boxes that are known already; from images to
    Detections of each.

    calibration: None without one. calibration_error: why the configured one cannot be used, empty if it can; then
    nothing is valid, every state is UNKNOWN, and the pipeline runs on.

    >>> pipeline = Pipeline()                    # doctest: +SKIP
    >>> people = pipeline(image).people          # doctest: +SKIP
    """

    def __init__(
        self,
        config: PipelineConfig | None = None,
        detector: Callable[[Sequence[np.ndarray]], list[Detections]] | None = None,
    ) -> None:
        self.config = config = config or PipelineConfig()
        _check_together(config)
        self.detector: Any = detector or Detector(
            config.detector, config.detector_threshold, config.detector_iou, config.max_people,
            config.backend, config.threads, config.allow_fallback,
        )  # fmt: skip
        self.pose = PoseModel(config.model, config.backend, config.threads, config.allow_fallback)
        self.calibration: Calibration | None = None
        self.calibration_error = ""
        if config.calibration:
            try:
                self.calibration = self._load_calibration(config)
            except (CalibrationError, OSError) as error:
                self.calibration_error = str(error)
                logging.getLogger(__name__).error("not calibrated, every state is UNKNOWN: %s", error)

    def __call__(self, image: np.ndarray) -> FrameResult:
        """The people of one image (H, W, 3) uint8 BGR."""
        return self.process([image])[0]

    def process(
        self, images: Sequence[np.ndarray], boxes: Sequence[Detections | None] | None = None
    ) -> list[FrameResult]:
        """The people of several images, which may differ in size: all persons go through the network in one batch.

        boxes: of each image, where people are believed to be, or None to run the detector on it. A calibration is one
        of detected boxes, so nothing is valid where they are given.

        ``stage_ms`` of every result is the time of the whole batch.
        """
        clock = StageClock()
        boxes = boxes or [None] * len(images)
        detections, transforms, poses = self.poses(images, clock, boxes)
        states, regions = self._regions(poses, [transform for its in transforms for transform in its])
        if self.calibration:
            presence = self.calibration.presence.reliability(poses.presence)
            poses = replace(poses, presence=presence, quality=self.calibration.quality(poses.quality))
        frames, row = [], 0
        for image, given, found, its_transforms in zip(images, boxes, detections, transforms, strict=True):
            people = []
            for box, score, transform in zip(found.boxes, found.scores, its_transforms, strict=True):
                people.append(self._person(box, score, transform, poses, row, states[row], regions[row]))
                row += 1
            if given is not None:
                people = [_without_promises(person) for person in people]
            people.sort(key=lambda person: -person.score)
            state = FrameState.OK if people else FrameState.NO_PERSON_DETECTED
            doubt = self.calibration_error
            if any(np.isnan(person.presence).any() for person in people):
                doubt = doubt or "the pose network's output is nonsense (NaN, or no probabilities)"
            if doubt:
                state = FrameState.UNKNOWN
            size = image.shape[1], image.shape[0]
            frames.append(FrameResult(tuple(people), *size, state, clock.stage_ms, doubt, given is None))
        clock.lap("regions")
        return frames

    def poses(
        self, images: Sequence[np.ndarray], clock: StageClock, boxes: Sequence[Detections | None] | None = None
    ) -> tuple[list[Detections], list[list[CropTransform]], PoseOutput]:
        """What the networks say: boxes and crops of each image, and the poses of all persons in that order."""
        for image in images:
            check_image(image)
        given = boxes or [None] * len(images)
        found = iter(self.detector([image for image, its in zip(images, given, strict=True) if its is None]))
        detections = [next(found) if its is None else its for its in given]
        clock.lap("detect")

        transforms = [
            [CropTransform.from_bbox(box, self.pose.info.input_size, self.pose.info.padding) for box in found.boxes]
            for found in detections
        ]
        if self.pose.cuts_crops:
            clock.lap("crop")  # A part of the next lap.
            poses = self.pose.in_images(images, transforms)
        else:
            crops = cut_crops(images, transforms, self.pose.info.input_size)
            clock.lap("crop")
            poses = self.pose(crops)
        clock.lap("pose")
        return detections, transforms, erase_unknown(poses)

    @property
    def backend(self) -> str:
        """What runs the networks, in words."""
        detector, pose = (getattr(session, "backend", "given") for session in self._sessions)
        return pose if detector == pose else f"pose: {pose}; detector: {detector}"

    @property
    def backend_problem(self) -> str:
        """Why that is not what should run them; empty if it is."""
        problems = dict.fromkeys(getattr(session, "problem", "") for session in self._sessions)
        return "; ".join(filter(None, problems))

    def suspend(self) -> None:
        """Frees GPU memory; the pipeline cannot run until :meth:`resume`."""
        for session in filter(None, self._sessions):
            session.suspend()

    def resume(self) -> None:
        """Takes what :meth:`suspend` freed; nothing if it was not suspended. BackendError if that fails."""
        try:
            for session in filter(None, self._sessions):
                session.resume()
        except BaseException:
            self.suspend()
            raise

    @property
    def _sessions(self) -> tuple[Session | None, Session]:
        """Of the detector, None where the boxes are given, and of the pose network."""
        return getattr(self.detector, "session", None), self.pose.session

    @property
    def calibration_id(self) -> str:
        """Empty without a calibration."""
        return self.calibration.id if self.calibration else ""

    @property
    def subject(self) -> Subject:
        """What a calibration of this pipeline belongs to."""
        info = self.pose.info
        detector = file_sha256(self.detector.path) if isinstance(self.detector, Detector) else GIVEN_BOXES
        return Subject(info.name, file_sha256(self.pose.path), info.precision, info.input_size, detector)

    def close(self) -> None:
        """Frees the networks, on a GPU their memory; the pipeline cannot run afterwards."""
        for session in filter(None, self._sessions):
            session.close()

    def reconfigure(self, config: PipelineConfig) -> None:
        """New values for the options that may change while running; another change is refused with ConfigError."""
        _check_together(config)
        for spec in fields(config):
            old, new = getattr(self.config, spec.name), getattr(config, spec.name)
            if old != new and not spec.metadata["runtime"]:
                raise ConfigError(f"{spec.name} = {new!r}: cannot change while running (it is {old!r})")
        self.detector.threshold = config.detector_threshold
        self.detector.iou = config.detector_iou
        self.detector.max_people = config.max_people
        self.config = config

    def _load_calibration(self, config: PipelineConfig) -> Calibration | None:
        auto = config.calibration == AUTO
        path = beside(self.pose.path) if auto else find_calibration(config.calibration)
        if auto and not path.is_file():
            return None
        calibration = load_calibration(path)
        running = self.subject
        try:
            # Who chose another detector or other levels did not ask for this file.
            if auto and (calibration.subject.detector != running.detector or not calibration.has(config.levels)):
                logging.getLogger(__name__).warning("%s is not for this detector and these levels: not used", path)
                return None
            calibration.subject.check(running)
            calibration.columns(config.levels)
            if not self.pose.has_probmap:
                raise CalibrationError("the model gives no maps; make it with 'probpose export --with-probmap'")
        except CalibrationError as error:
            raise CalibrationError(f"{path}: {error}") from None
        return calibration

    def _regions(
        self, poses: PoseOutput, transforms: Sequence[CropTransform]
    ) -> tuple[np.ndarray, Sequence[Regions | None]]:
        """States (P, K) of all persons' keypoints, and the regions of each person."""
        calibration, codec, levels = self.calibration, self.pose.codec, self.config.levels
        states = (
            calibration.presence.states(poses.presence) if calibration else keypoint_states(poses.presence, self.config)
        )
        if self.calibration_error:
            states = np.full_like(states, KeypointState.UNKNOWN)
        if poses.probmap is None or not levels:
            return states, [None] * len(transforms)
        known = np.isfinite(poses.quality)  # erase_unknown has looked at the maps
        if not calibration:
            return states, regions_from_maps(poses.probmap, transforms, codec, levels, known)
        kind = self.config.region_kind
        return states, calibration.regions(
            poses.probmap, poses.quality, poses.presence, states, transforms, codec, levels, kind, known
        )

    def _person(
        self, box: np.ndarray, score: float, transform: CropTransform,
        poses: PoseOutput, row: int, states: np.ndarray, regions: Regions | None,
    ) -> Person:  # fmt: skip
        return Person(
            score=float(score) * mean_quality(poses.quality[row], states),
            bbox=box,
            window=transform.window,
            keypoints=transform.to_image(poses.keypoints[row]).astype(np.float32),
            presence=poses.presence[row],
            visibility=poses.visibility[row],
            quality=poses.quality[row],
            peak=poses.peak[row],
            states=states,
            regions=regions,
        )


def mean_quality(quality: np.ndarray, states: np.ndarray) -> float:
    """Mean expected OKS (K,) of a person's keypoints that may be in the image; 0 where none is."""
    counted = quality[(states == KeypointState.IN) | (states == KeypointState.IN_OR_OUT)]
    return float(counted.mean()) if len(counted) else 0.0


def _without_promises(person: Person) -> Person:
    regions = person.regions
    return replace(person, regions=regions and replace(regions, valid=np.zeros_like(regions.valid)))


def check_image(image: np.ndarray) -> None:
    """Refuses what is not a uint8 (H, W, 3) image with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image must be a NumPy array, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image must be uint8 (height, width, 3) and not empty, got {image.dtype} {image.shape}")


def erase_unknown(poses: PoseOutput) -> PoseOutput:
    """All numbers of a keypoint become NaN if one of them is nonsense: what is not known is not guessed.

    Nonsense: a number that is not finite, a probability outside [0, 1], a map that is no distribution.
    """
    known = np.isfinite(poses.keypoints).all(axis=-1) & np.isfinite(poses.peak)
    for probability in (poses.presence, poses.visibility, poses.quality):
        known &= (probability >= 0) & (probability <= 1)
    if poses.probmap is not None:
        known &= is_distribution(poses.probmap)
    if known.all():
        return poses

    def erase(values: np.ndarray) -> np.ndarray:
        return np.where(known.reshape(*known.shape, *[1] * (values.ndim - 2)), values, np.float32(np.nan))

    return replace(poses, **{name: erase(values) for name, values in vars(poses).items() if values is not None})


def keypoint_states(presence: np.ndarray, config: PipelineConfig) -> np.ndarray:
    """KeypointState (uint8) of presence probabilities, any shape.

    IN from ``presence_in`` on, OUT below ``presence_out``, IN_OR_OUT between, UNKNOWN where presence is NaN.
    """
    states = np.full(presence.shape, KeypointState.IN_OR_OUT, np.uint8)
    states[presence >= config.presence_in] = KeypointState.IN
    states[presence < config.presence_out] = KeypointState.OUT
    states[np.isnan(presence)] = KeypointState.UNKNOWN
    return states


def _check_together(config: PipelineConfig) -> None:
    """What holds between options; each by itself was checked when the config was made."""
    if config.presence_out > config.presence_in:
        raise ConfigError(f"presence_out = {config.presence_out}: must not be above presence_in = {config.presence_in}")
    if sorted(set(config.levels)) != config.levels:
        raise ConfigError(f"levels = {config.levels}: must ascend")


class StageClock:
    """stage_ms: milliseconds of each lap, by name."""

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.stage_ms[name] = (now - self._last) * 1e3
        self._last = now
