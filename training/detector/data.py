"""Training examples: one image or a mosaic on a canvas, cut and zoomed so that people leave the frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from probpose_ros.detector import PADDING_VALUE

from .boxes import box_area
from .labels import LabelledImage

MAX_BOXES = 160
PERSON, IGNORE = 1, 2


@dataclass(frozen=True)
class DetectorAugmentation:
    """Chances and ranges.

    mosaic: chances of 1, 2 x 2, 3 x 3, ... images on one canvas; they add up to 1. zoom: chance that a person, not the
    image, sets the scale.
    person_size: range of that person's larger side relative to its part of the canvas. image_size: range of the scale
    relative to the image just fitting there; its lower end holds for zooms, too.
    keep_share: a cut person stays a person from this share of its box on, or when it still covers ``keep_cover`` of
    the canvas; below that it is ignored. min_side: smaller boxes are ignored, canvas px. The rest: chances.
    """

    mosaic: tuple[float, ...] = (0.35, 0.35, 0.2, 0.1)
    zoom: float = 0.5
    person_size: tuple[float, float] = (0.15, 2.0)
    image_size: tuple[float, float] = (0.75, 1.8)
    keep_share: float = 0.2
    keep_cover: float = 0.15
    min_side: float = 6.0
    gray: float = 0.15
    blur: float = 0.12
    noise: float = 0.12


class DetectorDataset(Dataset):
    """Examples ``image`` (S, S, 3) BGR, ``boxes`` (MAX_BOXES, 4) xyxy px, ``kinds`` (MAX_BOXES,): PERSON, IGNORE or 0.

    An example depends on (seed, epoch, index) alone. ``sizes``: pairs (first epoch, canvas side S in px); learning
    starts on a small canvas, where a step is cheaper. Images are kept decoded in memory.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        augmentation: DetectorAugmentation,
        sizes: Sequence[tuple[int, int]] = ((0, 320),),
        seed: int = 0,
    ) -> None:
        self.labels = list(images)
        self.augmentation, self.sizes, self.seed, self.epoch = augmentation, sizes, seed, 0
        self.pixels = [read_image(label.path) for label in tqdm(self.labels, desc="decoding", unit="image")]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        return [size for first, size in self.sizes if self.epoch >= first][-1]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        config, size = self.augmentation, self.size
        canvas = np.full((size, size, 3), PADDING_VALUE if rng.random() < 0.7 else rng.integers(0, 256, 3), np.uint8)
        grid = 1 + rng.choice(len(config.mosaic), p=config.mosaic)
        inner = (np.arange(1, grid) + rng.uniform(-0.25, 0.25, (2, grid - 1))) * size / grid
        xs, ys = (np.array([0, *lines, size], int) for lines in inner)
        regions = [(xs[i], ys[j], xs[i + 1], ys[j + 1]) for i in range(grid) for j in range(grid)]
        indices = [index, *rng.integers(0, len(self), len(regions) - 1)]
        parts = [self._paste(canvas, i, region, rng) for i, region in zip(indices, regions, strict=True)]
        boxes, kinds = zip(*parts, strict=True)
        return {
            "image": torch.from_numpy(photometric(canvas, config, rng)),
            **pad(np.concatenate(boxes), np.concatenate(kinds)),
        }

    def _paste(
        self, canvas: np.ndarray, index: int, region: tuple[int, int, int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws one image into a region x0, y0, x1, y1 of the canvas; its boxes (N, 4) and kinds (N,) on the canvas."""
        config, pixels, label = self.augmentation, self.pixels[index], self.labels[index]
        x0, y0, x1, y1 = region
        corner, extent = np.array([x0, y0]), np.array([x1 - x0, y1 - y0])
        shape = np.array([pixels.shape[1], pixels.shape[0]])
        fit = (extent / shape).min()
        smallest = config.image_size[0] * fit
        if len(label.persons) and rng.random() < config.zoom:
            box = label.persons[rng.integers(len(label.persons))]
            side = max(box[2:] - box[:2])
            scale = max(np.exp(rng.uniform(*np.log(config.person_size))) * extent.max() / max(side, 1), smallest)
            focus = box[:2] + rng.uniform(0.1, 0.9, 2) * (box[2:] - box[:2])
            place = rng.uniform(0.15, 0.85, 2) * extent
        else:
            scale = np.exp(rng.uniform(*np.log(config.image_size))) * fit
            focus = rng.uniform(0, 1, 2) * shape
            place = rng.uniform(0, 1, 2) * extent
        scale = np.clip(scale, 0.1, 3.0) * np.exp(rng.uniform(-0.15, 0.15, 2))  # also a little out of shape
        slack = extent - shape * scale  # the image lies inside (> 0) or covers (< 0), so that little canvas is wasted
        start = np.clip(place - scale * focus, np.minimum(slack, 0), np.maximum(slack, 0))
        linear, offset = scale.copy(), start.copy()
        if rng.random() < 0.5:
            linear[0], offset[0] = -linear[0], extent[0] - offset[0]
        matrix = np.array([[linear[0], 0, offset[0]], [0, linear[1], offset[1]]])
        view = np.ascontiguousarray(canvas[y0:y1, x0:x1])
        area = scale.mean() < 0.6  # shrink first: sampling alone would skip pixels
        if area:
            pixels = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            matrix[:, :2] *= 2
        cv2.warpAffine(pixels, matrix, (x1 - x0, y1 - y0), dst=view, borderMode=cv2.BORDER_TRANSPARENT)
        canvas[y0:y1, x0:x1] = view

        boxes = np.concatenate([label.persons, label.ignore])
        kinds = np.repeat([PERSON, IGNORE], [len(label.persons), len(label.ignore)])
        whole = boxes.reshape(-1, 2, 2) * linear + offset
        whole = np.concatenate([whole.min(axis=1), whole.max(axis=1)], axis=1)
        seen = np.concatenate([whole[:, :2].clip(0, extent), whole[:, 2:].clip(0, extent)], axis=1)
        share = box_area(seen) / np.maximum(box_area(whole), 1e-6)
        enough = (share > config.keep_share) | (box_area(seen) > config.keep_cover * extent.prod())
        big = (seen[:, 2:] - seen[:, :2]).min(axis=1, initial=np.inf) >= config.min_side
        kinds = np.where((kinds == PERSON) & enough & big, PERSON, IGNORE)
        there = box_area(seen) > 1
        return (seen + np.tile(corner, 2))[there].astype(np.float32), kinds[there]


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR."""
    pixels = cv2.imread(str(path))
    if pixels is None:
        raise ValueError(f"{path}: not a readable image")
    return pixels


def photometric(image: np.ndarray, config: DetectorAugmentation, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, gamma, colour cast, saturation, grey, blur, noise; uint8 in and out."""
    ramp = np.linspace(0, 1, 256)
    gamma = np.exp(rng.uniform(-0.4, 0.4))
    contrast, brightness = rng.uniform(0.6, 1.4), rng.uniform(-0.2, 0.2)
    cast = rng.uniform(0.85, 1.15, 3)
    table = ((ramp[:, None] ** gamma - 0.5) * contrast + 0.5 + brightness) * cast
    image = cv2.LUT(image, (table.clip(0, 1) * 255).astype(np.uint8).reshape(1, 256, 3))
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    keep = 0.0 if rng.random() < config.gray else rng.uniform(0.4, 1.4)
    image = cv2.addWeighted(image, keep, gray, 1 - keep, 0)
    if rng.random() < config.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.8))
    if rng.random() < config.noise:
        noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(3, 20)
        image = (image + noise).clip(0, 255).astype(np.uint8)
    return image


def pad(boxes: np.ndarray, kinds: np.ndarray) -> dict[str, Tensor]:
    """The MAX_BOXES largest boxes, as tensors of fixed length."""
    order = np.argsort(-box_area(boxes))[:MAX_BOXES]
    all_boxes, all_kinds = np.zeros((MAX_BOXES, 4), np.float32), np.zeros(MAX_BOXES, np.int64)
    all_boxes[: len(order)], all_kinds[: len(order)] = boxes[order], kinds[order]
    return {"boxes": torch.from_numpy(all_boxes), "kinds": torch.from_numpy(all_kinds)}


def unpad(batch: dict[str, Tensor], kind: int) -> list[Tensor]:
    """Per image the boxes (N, 4) of one kind."""
    return [boxes[kinds == kind] for boxes, kinds in zip(batch["boxes"], batch["kinds"], strict=True)]
