"""Persons of COCO-format sets as training examples for the pose network."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from probpose_ros.geometry import in_window
from probpose_training.augmentation import NO_AUGMENTATION, AugmentationConfig, Sample, augment
from probpose_training.coco import ImageEntry, read_coco, read_image, skip_report


@dataclass(frozen=True)
class Source:
    """One COCO-format set; ``repeat``: how often each person comes in an epoch."""

    annotations: str
    images: str
    repeat: int = 1


@dataclass(frozen=True)
class LabelledPerson:
    """One person of a set: the image in its folder, and a row of :class:`CocoKeypoints`, image px."""

    folder: str
    image: ImageEntry
    bbox: np.ndarray
    area: float
    keypoints: np.ndarray
    visibility: np.ndarray
    weight: np.ndarray


class PoseDataset(Dataset):
    """Examples of all usable persons of the sources.

    An example depends on (seed, epoch, index) alone, so that an interrupted run goes on with what it would have seen.
    ``skipped`` counts the persons left out, by reason. ``share``: of each source's images, always the same ones.
    """

    def __init__(
        self,
        sources: list[Source],
        crop_size: tuple[int, int],
        augmentation: AugmentationConfig = NO_AUGMENTATION,
        seed: int = 0,
        share: float = 1.0,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share of the images must be in (0, 1], got {share}")
        self.crop_size, self.augmentation, self.seed, self.epoch = crop_size, augmentation, seed, 0
        self.persons: list[LabelledPerson] = []
        self.skipped: Counter[str] = Counter()
        for source in sources:
            coco = read_coco(source.annotations)
            self.skipped += coco.skipped
            images = [coco.images[image_id] for image_id in coco.image_ids.tolist()]
            columns = (
                [source.images] * len(coco),
                images,
                coco.bboxes,
                coco.areas,
                coco.keypoints,
                coco.visibility,
                coco.weights,
            )
            order = np.random.default_rng(0).permutation(sorted(coco.images))
            taken = set(order[: max(1, round(share * len(order)))].tolist())
            persons = [LabelledPerson(*row) for row in zip(*columns, strict=True)]
            self.persons += [person for person in persons if person.image.id in taken] * source.repeat
        if not self.persons:
            names = ", ".join(source.annotations for source in sources)
            raise ValueError(f"no usable person in {names}; {skip_report(0, self.skipped)}")

    def __len__(self) -> int:
        return len(self.persons)

    def sample(self, index: int) -> Sample:
        """The person as annotated."""
        person = self.persons[index]
        image = read_image(person.folder, person.image)
        return Sample(image, person.bbox, person.keypoints, person.visibility, person.weight)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        crop, transform, sample = augment(
            self.sample(index),
            self.augmentation,
            rng,
            self.crop_size,
            lambda: self.sample(int(rng.integers(len(self)))),
        )
        return example(crop, transform.to_crop(sample.keypoints), sample, self.crop_size)


def example(
    crop: np.ndarray, keypoints: np.ndarray, sample: Sample, crop_size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """The tensors of one example, as PoseLoss takes them; keypoints (17, 2) crop px.

    A keypoint labelled by a teacher (weight below 1) says little about visibility unless the teacher was sure.
    """
    weight = sample.weight
    inside = in_window(keypoints, crop_size)
    hidden = sample.visibility == 3
    visible_weight = np.where(hidden | (weight >= 0.6), weight, 0.0)
    float32 = {
        "keypoints": np.where(weight[:, None] > 0, keypoints, 0.0),
        "annotated": weight,
        "visible": sample.visibility == 2,
        "visible_weight": visible_weight,
        "in_window": inside,
    }
    tensors = {name: torch.from_numpy(np.asarray(value, dtype=np.float32)) for name, value in float32.items()}
    return {"image": torch.from_numpy(crop), **tensors}
