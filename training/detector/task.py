"""Training of the person detector: what `probpose train` does with a recipe of ``task: detector``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probpose_ros.detector import letterbox, suppress
from probpose_ros.model_info import DetectorInfo
from probpose_training.configuration import build, take
from probpose_training.pretrained import load_pretrained

from .checkpoint import DetectorConfig, save_detector
from .data import IGNORE, PERSON, DetectorAugmentation, DetectorDataset, unpad
from .evaluation import CocoBoxes
from .labels import LabelledImage, SourceConfig, read_source
from .loss import detection_loss
from .network import INPUT_SCALE, PersonDetector, all_centers, prepare

SECTIONS = ("task", "network", "augmentation", "data", "train", "card", "pretrained")
# scikit-image's photographs without people; `astronaut` and `camera` are the demo's and never trained on.
BACKGROUNDS = (
    "brick.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip


class DetectorTask:
    """See :mod:`probpose_training.trainer` for what a task is."""

    def __init__(self, config: dict[str, Any], where: str = "config") -> None:
        take(config, SECTIONS, where)
        self.network = build(DetectorConfig, config.get("network"), "network")
        self.model = self.network.make()
        if config.get("pretrained"):
            print(f"pretrained: {load_pretrained(self.model, config['pretrained'], INPUT_SCALE)}")
        self.card = {
            "name": "person_detector",
            **take(config.get("card") or {}, ("name", "trained_on", "licence"), "card"),
        }
        keys = ("root", "train", "val", "person_score", "ignore_score", "sizes", "background_repeats")
        data = take(config.get("data") or {}, keys, "data", needed=("train", "val"))
        root = Path(data.get("root", "."))
        images: list[LabelledImage] = []
        for entry in data["train"]:
            source = build(SourceConfig, entry, "data.train")
            images += read_source(root, source, data.get("person_score", 0.4), data.get("ignore_score", 0.2))
        images += [LabelledImage(path) for path in background_images()] * data.get("background_repeats", 0)
        augmentation = build(DetectorAugmentation, config.get("augmentation"), "augmentation")
        sizes = [tuple(pair) for pair in data.get("sizes", [[0, self.network.input_size[0]]])]
        seed = (config.get("train") or {}).get("seed", 0)
        self.train_dataset = DetectorDataset(images, augmentation, sizes, seed)
        self.val = CocoBoxes(str(root / data["val"]["annotations"]), str(root / data["val"]["images"]))

    def loss(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits, boxes = model(prepare(batch["image"]))
        centers = all_centers(*batch["image"].shape[1:3])
        return detection_loss(
            logits.float(), boxes.float(), centers.to(logits.device), unpad(batch, PERSON), unpad(batch, IGNORE)
        )

    def validate(self, model: torch.nn.Module) -> dict[str, float]:
        return self.val.measure(Predictor(model, self.network.input_size))

    def save(self, model: PersonDetector, path: Path) -> None:
        info = DetectorInfo(kind="detector", input_size=self.network.input_size, **self.card)
        save_detector(path, model, self.network, info)


def background_images() -> list[Path]:
    """Photographs without people that come with scikit-image, a requirement of the demo."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    return [folder / name for name in BACKGROUNDS if (folder / name).is_file()]


class Predictor:
    """The torch model with letterbox and NMS of the run time: image (H, W, 3) BGR -> (N, 5) xyxy image px, score."""

    def __init__(
        self, model: torch.nn.Module, input_size: tuple[int, int], threshold: float = 0.02, iou: float = 0.6
    ) -> None:
        self.model, self.input_size, self.threshold, self.iou = model.eval(), input_size, threshold, iou

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        canvas, scale = letterbox(image, self.input_size)
        device = next(self.model.parameters()).device
        logits, boxes = self.model(prepare(torch.from_numpy(canvas)[None].to(device)))
        scores, boxes = logits[0].sigmoid().cpu().numpy(), boxes[0].cpu().numpy() / scale
        kept = scores >= self.threshold
        scores, boxes = scores[kept], boxes[kept].clip(0, [image.shape[1], image.shape[0]] * 2)
        kept = suppress(boxes, scores, self.iou, 100)
        return np.concatenate([boxes[kept], scores[kept, None]], axis=1).astype(np.float32)
