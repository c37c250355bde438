"""Augmentation of one person: pure NumPy/OpenCV functions on a Sample, each drawing from the generator it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from probpose_ros.geometry import PADDING, CropTransform
from probpose_ros.skeleton import FLIP_INDEX, LOWER_BODY, UPPER_BODY
from probpose_training.crop_augmentation import OCCLUDED, VISIBLE, apply_crop, crop_augment
from probpose_training.paste import paste


@dataclass(frozen=True)
class Sample:
    """image (H, W, 3) uint8 BGR; bbox (4,) x_min, y_min, x_max, y_max and keypoints (17, 2), image px.

    visibility (17,): COCO v (0 unlabelled, 1 occluded, 2 visible, 3 out of the image).
    weight (17,) in [0, 1]: trust in the keypoint; 0 = unlabelled.
    """

    image: np.ndarray
    bbox: np.ndarray
    keypoints: np.ndarray
    visibility: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class AugmentationConfig:
    """Probabilities and ranges; the defaults are the paper's recipe (rotation in degrees)."""

    flip: float = 0.5
    half_body: float = 0.3
    shift: float = 0.3
    shift_range: float = 0.16
    scale_range: tuple[float, float] = (0.5, 1.5)
    rotate: float = 0.6
    rotate_range: float = 80.0
    crop: float = 0.8
    crop_kept: tuple[float, float] = (0.7, 0.9)
    photometric: float = 0.0
    gray: float = 0.0
    blur: float = 0.0
    low_resolution: float = 0.0
    cutout: float = 0.0
    paste: float = 0.0


NO_AUGMENTATION = AugmentationConfig(flip=0, half_body=0, shift=0, scale_range=(1, 1), rotate=0, crop=0)


def augment(
    sample: Sample,
    config: AugmentationConfig,
    rng: np.random.Generator,
    crop_size: tuple[int, int],
    anyone: Callable[[], Sample] | None = None,
):
    """One training example: (crop uint8 (height, width, 3), CropTransform, Sample as augmented).

    ``anyone()``: some other person, to be pasted; only asked where ``paste`` is above 0.
    """
    if rng.random() < config.flip:
        sample = flip(sample)
    if rng.random() < config.half_body:
        sample = half_body(sample, rng)
    if rng.random() < config.crop:
        sample = crop(sample, rng, config.crop_kept)
    bbox, rotation = transform_bbox(sample.bbox, config, rng)
    transform = CropTransform.from_bbox(bbox, crop_size, PADDING, rotation)
    image = transform.warp(sample.image)
    if config.paste and anyone and rng.random() < config.paste:
        image, covered = paste(image, transform.to_crop(sample.keypoints), sample.weight > 0, anyone(), rng)
        visibility = np.where(covered & (sample.visibility == VISIBLE), OCCLUDED, sample.visibility)
        sample = replace(sample, visibility=visibility)
    return photometric(image, config, rng), transform, sample


def flip(sample: Sample) -> Sample:
    """The mirror image: left and right keypoints change places."""
    last = sample.image.shape[1] - 1
    x0, y0, x1, y1 = sample.bbox
    keypoints = sample.keypoints[FLIP_INDEX].copy()
    keypoints[:, 0] = last - keypoints[:, 0]
    return Sample(
        cv2.flip(sample.image, 1), np.array([last - x1, y0, last - x0, y1]), keypoints,
        sample.visibility[FLIP_INDEX], sample.weight[FLIP_INDEX],
    )  # fmt: skip


def half_body(sample: Sample, rng: np.random.Generator, upper: float = 0.7, least: int = 9) -> Sample:
    """The bbox of the upper or the lower body alone, if at least ``least`` keypoints are labelled."""
    labelled = sample.weight > 0
    if labelled.sum() < least:
        return sample
    parts = {True: [k for k in UPPER_BODY if labelled[k]], False: [k for k in LOWER_BODY if labelled[k]]}
    chosen = parts[rng.random() < upper]
    if len(chosen) < 3:
        return sample
    points = sample.keypoints[chosen]
    center = (points.min(0) + points.max(0)) / 2
    half = np.maximum((points.max(0) - points.min(0)) / 2 * 1.5, 4.0)
    box = np.concatenate([np.maximum(center - half, sample.bbox[:2]), np.minimum(center + half, sample.bbox[2:])])
    return replace(sample, bbox=box) if (box[2:] - box[:2] > 4).all() else sample


def crop(sample: Sample, rng: np.random.Generator, kept: tuple[float, float]) -> Sample:
    """The paper's crop augmentation; left out where the rectangle would leave less than 8 px of the person."""
    low, high = np.clip(sample.bbox[:2], 0, None), np.minimum(sample.bbox[2:], sample.image.shape[1::-1])
    if not (high - low > 1).all():
        return sample
    rectangle = crop_augment(sample.image.shape, sample.bbox, rng, kept)
    image, bbox, visibility = apply_crop(sample.image, sample.bbox, sample.keypoints, sample.visibility, rectangle)
    if (bbox[2:] - bbox[:2] < 8).any():
        return sample
    return replace(sample, image=image, bbox=bbox, visibility=visibility)


def transform_bbox(bbox: np.ndarray, config: AugmentationConfig, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A shifted and scaled bbox and a rotation in radians."""
    center, size = (bbox[:2] + bbox[2:]) / 2, bbox[2:] - bbox[:2]
    if rng.random() < config.shift:
        center = center + _truncated_normal(rng, 2) * config.shift_range * size
    low, high = config.scale_range
    size = size * ((low + high) / 2 + _truncated_normal(rng) * (high - low) / 2)
    rotation = np.deg2rad(_truncated_normal(rng) * config.rotate_range) if rng.random() < config.rotate else 0.0
    return np.concatenate([center - size / 2, center + size / 2]), float(rotation)


def _truncated_normal(rng: np.random.Generator, size: int | None = None):
    """Standard normal limited to [-1, 1] by drawing again."""
    values = rng.standard_normal(size)
    while (np.abs(values) > 1).any():
        values = np.where(np.abs(values) > 1, rng.standard_normal(size), values)
    return values


def photometric(crop: np.ndarray, config: AugmentationConfig, rng: np.random.Generator) -> np.ndarray:
    """Colour, sharpness and cutout. Black stays black: that is how the outside of the image looks to the network."""
    if rng.random() < config.photometric:
        gain = np.exp(rng.uniform(-0.5, 0.4) + rng.uniform(-0.15, 0.15, 3))
        gamma = np.exp(rng.uniform(-0.4, 0.4))
        ramp = (np.arange(256)[:, None] / 255.0) ** gamma * gain * 255
        crop = cv2.LUT(crop, np.clip(ramp, 0, 255).astype(np.uint8)[None])
    if rng.random() < config.gray:
        crop = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    height, width = crop.shape[:2]
    if rng.random() < config.low_resolution:
        factor = rng.uniform(0.2, 0.7)
        small = cv2.resize(
            crop, (max(2, int(width * factor)), max(2, int(height * factor))), interpolation=cv2.INTER_AREA
        )
        crop = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < config.blur:
        crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.5, 2.0))
    if rng.random() < config.cutout:
        crop = crop.copy()
        for _ in range(rng.integers(1, 4)):
            w, h = (rng.uniform(0.08, 0.3, 2) * (width, height)).astype(int)
            x, y = rng.integers(0, width - w), rng.integers(0, height - h)
            crop[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return crop
