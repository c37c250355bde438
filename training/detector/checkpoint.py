"""A detector's checkpoint: config, weights and what the model file will say, in the format of the pose checkpoints."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from probpose_ros.model_info import DetectorInfo, from_json
from probpose_training.backbones import ConvNet, EfficientNetLite
from probpose_training.checkpoint import FORMAT, load_strictly
from probpose_training.configuration import build

from .network import PersonDetector


@dataclass(frozen=True)
class DetectorConfig:
    """input_size: (width, height) of the input at run time, px. neck: see PersonDetector.

    backbone: ``conv`` (four stages) or ``efficientnet_lite`` (six), of these widths and depths.
    """

    input_size: tuple[int, int] = (320, 320)
    backbone: str = "conv"
    widths: tuple[int, ...] = (32, 48, 96, 192)
    depths: tuple[int, ...] = (0, 1, 3, 1)
    frozen_stages: int = 0
    neck: int = 48

    def __post_init__(self) -> None:
        if self.backbone not in ("conv", "efficientnet_lite"):
            raise ValueError(f"backbone must be conv or efficientnet_lite, got {self.backbone!r}")
        if self.backbone == "conv" and self.frozen_stages:
            raise ValueError(f"frozen_stages must be 0 for conv, got {self.frozen_stages}")

    def make(self) -> PersonDetector:
        if self.backbone == "conv":
            return PersonDetector(ConvNet(self.widths, self.depths), self.neck)
        return PersonDetector(EfficientNetLite(self.widths, self.depths, self.frozen_stages), self.neck)


def save_detector(path: Path | str, model: PersonDetector, config: DetectorConfig, info: DetectorInfo) -> None:
    content = {"format": FORMAT, "config": asdict(config), "info": asdict(info), "state_dict": model.state_dict()}
    temporary = Path(f"{path}.part")
    torch.save(content, temporary)
    os.replace(temporary, path)


def is_detector(content: dict[str, Any]) -> bool:
    """Whether a checkpoint's content is a detector's."""
    return content.get("format") == FORMAT and content.get("info", {}).get("kind") == "detector"


def load_detector(content: dict[str, Any], path: Path | str) -> tuple[PersonDetector, DetectorInfo]:
    """The network of a checkpoint's content in evaluation mode, and its info; ``path``: named in errors."""
    config = build(DetectorConfig, content["config"], str(path))
    model = config.make()
    load_strictly(model, content["state_dict"], path)
    return model.eval(), from_json(json.dumps(content["info"]), "detector", str(path))
