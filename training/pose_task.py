"""Training of a ProbPose network on COCO-format sets: what `probpose train` does with a recipe of ``task: pose``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from probpose_ros.codec import Codec
from probpose_ros.geometry import bbox_to_window
from probpose_ros.oks import oks, oks_variance
from probpose_training.augmentation import NO_AUGMENTATION, AugmentationConfig
from probpose_training.checkpoint import pose_info, save_checkpoint
from probpose_training.configuration import build, take
from probpose_training.data import PoseDataset, Source
from probpose_training.graph import PoseGraph, normalise
from probpose_training.losses import LossConfig, PoseLoss
from probpose_training.network import NetworkConfig, ProbPose

SECTIONS = ("task", "network", "codec", "loss", "augmentation", "data", "train", "card")


class PoseTask:
    """See :mod:`probpose_training.trainer` for what a task is."""

    def __init__(self, config: dict[str, Any], where: str = "config") -> None:
        take(config, SECTIONS, where)
        self.network = build(NetworkConfig, config.get("network"), "network")
        self.codec = Codec(self.network.input_size, self.network.map_size, **config.get("codec") or {})
        self.model = ProbPose(self.network)
        self._loss = PoseLoss(self.codec, build(LossConfig, config.get("loss"), "loss"), self.network)
        self.card = {"name": "probpose", **take(config.get("card") or {}, ("name", "trained_on", "licence"), "card")}
        data = take(config.get("data") or {}, ("root", "train", "val"), "data")
        root = Path(data.get("root", "."))
        seed = (config.get("train") or {}).get("seed", 0)
        augmentation = build(AugmentationConfig, config.get("augmentation"), "augmentation")
        self.train_dataset = PoseDataset(_sources(root, data["train"]), self.network.input_size, augmentation, seed)
        self.val_dataset = PoseDataset(_sources(root, data["val"]), self.network.input_size, NO_AUGMENTATION)

    def loss(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self._loss(model(normalise(batch["image"])), batch)

    @torch.no_grad()
    def validate(self, model: torch.nn.Module) -> dict[str, float]:
        """Of the labelled keypoints: mean OKS and presence recall; share of persons above OKS 0.5 and 0.75."""
        device = next(model.parameters()).device
        graph = PoseGraph(model, self.codec).eval().to(device)
        similarities, presence = [], []
        for start in range(0, len(self.val_dataset), 32):
            examples = [self.val_dataset[i] for i in range(start, min(start + 32, len(self.val_dataset)))]
            result = graph(torch.stack([e["image"] for e in examples]).to(device))
            presence.append(result.presence.cpu().numpy())
            for i, (keypoints, example) in enumerate(zip(result.keypoints.cpu().numpy(), examples, strict=True), start):
                person = self.val_dataset.persons[i]
                # Distances are in crop px: the person's area goes there by the window's scale.
                scale = (self.network.input_size[0] - 1) / _window_width(person.bbox, self.network.input_size)
                distance = ((keypoints - example["keypoints"].numpy()) ** 2).sum(-1)
                labelled = example["annotated"].numpy() > 0
                similarities.append(oks(distance, oks_variance(person.area * scale**2))[labelled])
        persons = np.array([values.mean() for values in similarities])
        labelled = np.concatenate([[e["annotated"].numpy() > 0] for e in self.val_dataset])
        return {
            "mean_oks": float(np.concatenate(similarities).mean()),
            "persons_over_50": float((persons > 0.5).mean()),
            "persons_over_75": float((persons > 0.75).mean()),
            "presence_recall": float((np.concatenate(presence)[labelled] > 0.5).mean()),
        }

    def save(self, model: torch.nn.Module, path: Path) -> None:
        info = pose_info(self.network, decode_profile=self.codec.profile, padding=self.codec.padding, **self.card)
        save_checkpoint(path, model, info)


def _sources(root: Path, entries: list[dict[str, Any]]) -> list[Source]:
    sources = [build(Source, entry, "data") for entry in entries]
    return [Source(str(root / s.annotations), str(root / s.images), s.repeat) for s in sources]


def _window_width(bbox: np.ndarray, crop_size: tuple[int, int]) -> float:
    return float(bbox_to_window(bbox, crop_size[0] / crop_size[1])[1][0])
