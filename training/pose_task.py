"""Training of a ProbPose network on COCO-format sets: what `probpose train` does with a recipe of ``task: pose``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from probpose_ros.codec import Codec
from probpose_ros.geometry import PADDING, CropTransform
from probpose_training.augmentation import AugmentationConfig
from probpose_training.checkpoint import pose_info, save_checkpoint
from probpose_training.coco import CocoKeypoints, read_coco, read_image
from probpose_training.configuration import build, take
from probpose_training.data import PoseDataset, Source
from probpose_training.decode import decode_codec
from probpose_training.graph import MEAN, STD, PoseGraph, normalise
from probpose_training.losses import LossConfig, PoseLoss
from probpose_training.metrics import exmap
from probpose_training.metrics.coco_ap import coco_ap
from probpose_training.network import NetworkConfig, ProbPose
from probpose_training.pretrained import InputScale, load_pretrained

SECTIONS = ("task", "network", "codec", "loss", "augmentation", "data", "train", "card", "pretrained")


class PoseTask:
    """See :mod:`probpose_training.trainer` for what a task is."""

    def __init__(self, config: dict[str, Any], where: str = "config") -> None:
        take(config, SECTIONS, where)
        self.network = build(NetworkConfig, config.get("network"), "network")
        self.codec = Codec(
            self.network.input_size, self.network.map_size, **take(config.get("codec") or {}, ("profile",), "codec")
        )
        self.model = ProbPose(self.network)
        if config.get("pretrained"):
            print(f"pretrained: {load_pretrained(self.model, config['pretrained'], InputScale(MEAN, STD))}")
        self._loss = PoseLoss(self.codec, build(LossConfig, config.get("loss"), "loss"), self.network)
        self.card = {"name": "probpose", **take(config.get("card") or {}, ("name", "trained_on", "licence"), "card")}
        data = take(config.get("data") or {}, ("root", "train", "val", "share"), "data", needed=("train", "val"))
        root = Path(data.get("root", "."))
        seed = (config.get("train") or {}).get("seed", 0)
        augmentation = build(AugmentationConfig, config.get("augmentation"), "augmentation")
        self.train_dataset = PoseDataset(
            _sources(root, data["train"]), self.network.input_size, augmentation, seed, data.get("share", 1.0)
        )
        val = build(Source, data["val"], "data.val")
        self.val, self.val_images = read_coco(root / val.annotations), root / val.images

    def loss(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self._loss.to(batch["image"].device)(model(normalise(batch["image"])), batch)

    def validate(self, model: torch.nn.Module) -> dict[str, float]:
        """AP and Ex-AP (presence threshold 0.5) with annotated boxes; mean presence of the labelled keypoints."""
        truth = self.val.for_evaluation(set(self.val.images))
        codec = decode_codec(self.network, self.codec.profile, self.codec.padding)  # of a double heatmap another one
        results = predict(PoseGraph(model, codec), self.val, self.val_images)
        presence = np.array([result["keypoints"][2::3] for result in results])
        return {
            "ap": coco_ap(truth, results)["AP"],
            "ex_ap": exmap.evaluate(truth, results).stats["AP"],
            "presence": float(presence[self.val.visibility > 0].mean()),
        }

    def save(self, model: torch.nn.Module, path: Path) -> None:
        info = pose_info(self.network, decode_profile=self.codec.profile, padding=self.codec.padding, **self.card)
        save_checkpoint(path, model, info)


@torch.no_grad()
def predict(graph: PoseGraph, dataset: CocoKeypoints, images: Path, batch_size: int = 64) -> list[dict[str, Any]]:
    """COCO keypoint results of every annotated person, third value of a keypoint = presence; annotated boxes."""
    graph = graph.eval().to(next(graph.model.parameters()).device)
    results: list[dict[str, Any]] = []
    for start in range(0, len(dataset), batch_size):
        persons = range(start, min(start + batch_size, len(dataset)))
        transforms, crops = [], []
        for p in persons:
            transforms.append(CropTransform.from_bbox(dataset.bboxes[p], graph.model.config.input_size, PADDING))
            crops.append(transforms[-1].warp(read_image(images, dataset.images[int(dataset.image_ids[p])])))
        output = graph(torch.from_numpy(np.stack(crops)).to(graph.flip_index.device))
        keypoints, presence, quality = (
            value.cpu().numpy() for value in (output.keypoints, output.presence, output.quality)
        )
        for i, p in enumerate(persons):
            counted = presence[i] >= 0.5
            values = np.column_stack([transforms[i].to_image(keypoints[i]), presence[i]])
            results.append(
                {
                    "image_id": int(dataset.image_ids[p]),
                    "category_id": 1,
                    "keypoints": values.ravel().tolist(),
                    "score": float(quality[i][counted].mean()) if counted.any() else 0.0,
                }
            )
    return results


def _sources(root: Path, entries: list[dict[str, Any]]) -> list[Source]:
    sources = [build(Source, entry, "data") for entry in entries]
    return [Source(str(root / s.annotations), str(root / s.images), s.repeat) for s in sources]
