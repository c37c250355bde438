"""Persons of COCO-format sets as training examples for the pose network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from probpose_ros.geometry import in_window
from probpose_training.augmentation import NO_AUGMENTATION, AugmentationConfig, Sample, augment


@dataclass(frozen=True)
class Source:
    """One COCO-format set; ``repeat``: how often each person comes in an epoch."""

    annotations: str
    images: str
    repeat: int = 1


class PoseDataset(Dataset):
    """Examples of all persons of the sources with at least one labelled keypoint.

    An example depends on (seed, epoch, index) alone, so that an interrupted run goes on with what it would have seen.
    ``skipped`` counts the persons left out, by reason.
    """

    def __init__(
        self,
        sources: list[Source],
        crop_size: tuple[int, int],
        augmentation: AugmentationConfig = NO_AUGMENTATION,
        seed: int = 0,
    ) -> None:
        self.crop_size, self.augmentation, self.seed, self.epoch = crop_size, augmentation, seed, 0
        self.persons: list[tuple[Path, dict]] = []
        self.skipped = {"no labelled keypoint": 0, "box under 2 px": 0, "crowd": 0}
        for source in sources:
            coco = json.loads(Path(source.annotations).read_text())
            files = {image["id"]: Path(source.images) / image["file_name"] for image in coco["images"]}
            for annotation in coco["annotations"]:
                if reason := _reason_to_skip(annotation):
                    self.skipped[reason] += 1
                else:
                    self.persons += [(files[annotation["image_id"]], annotation)] * source.repeat
        if not self.persons:
            raise ValueError(f"no person with a labelled keypoint in {', '.join(s.annotations for s in sources)}")

    def __len__(self) -> int:
        return len(self.persons)

    def sample(self, index: int) -> Sample:
        """The person as annotated."""
        path, annotation = self.persons[index]
        image = cv2.imread(str(path))
        if image is None:
            raise ValueError(f"{path}: not a readable image")
        x, y, w, h = annotation["bbox"]
        keypoints = np.array(annotation["keypoints"], dtype=np.float64).reshape(17, 3)
        weight = np.array(annotation.get("keypoint_weights", keypoints[:, 2] > 0), dtype=np.float64)
        weight = weight * (keypoints[:, 2] > 0)
        return Sample(image, np.array([x, y, x + w, y + h]), keypoints[:, :2], keypoints[:, 2], weight)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        crop, transform, sample = augment(self.sample(index), self.augmentation, rng, self.crop_size)
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


def _reason_to_skip(annotation: dict) -> str | None:
    if annotation.get("iscrowd"):
        return "crowd"
    if min(annotation["bbox"][2:]) < 2:
        return "box under 2 px"
    if not any(v > 0 for v in annotation.get("keypoints", [])[2::3]):
        return "no labelled keypoint"
    return None
