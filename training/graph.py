"""The deployable network: uint8 BGR crops in, keypoints and probabilities out; everything between is in the graph."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from probpose_ros.codec import Codec
from probpose_ros.skeleton import FLIP_INDEX
from probpose_training.decode import ExpectedOksDecode, MergedMaps, decode_codec
from probpose_training.network import ProbPose

# Of RGB channels in 0..255: ImageNet's statistics.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def normalise(crops: Tensor) -> Tensor:
    """uint8 BGR crops (B, H, W, 3) -> the network's input (B, 3, H, W) float32, RGB."""
    # Float first: TensorRT knows uint8 only as the type of a network's input.
    rgb = crops.float().permute(0, 3, 1, 2)[:, [2, 1, 0]]
    mean, std = (torch.tensor(v, device=crops.device).view(3, 1, 1) for v in (MEAN, STD))
    return (rgb - mean) / std


class PoseResult(NamedTuple):
    """keypoints (B, K, 2) crop px; presence, visibility, quality in [0, 1] and peak, the map's value there: (B, K).

    probmap: (B, K, h, w) float32, each map sums to 1. The field names are the names of the model file's outputs.
    """

    keypoints: Tensor
    presence: Tensor
    visibility: Tensor
    quality: Tensor
    peak: Tensor
    probmap: Tensor


class PoseGraph(nn.Module):
    """uint8 BGR crops (B, H, W, 3) -> :class:`PoseResult`; what a model file holds.

    flip: average over the crop and its mirror image ("flip test"): better by a little, at twice the cost.
    """

    flip_index: Tensor

    def __init__(self, model: ProbPose, codec: Codec, flip: bool = False) -> None:
        super().__init__()
        if codec != (needed := decode_codec(model.config, codec.profile, codec.padding)):
            raise ValueError(f"the network needs {needed}, got {codec}")
        self.model = model
        self.prepare = normalise  # The exporter folds most of it into the network.
        self.maps = MergedMaps(model.config)
        self.decode = ExpectedOksDecode(codec)
        self.flip = flip
        self.register_buffer("flip_index", torch.tensor(FLIP_INDEX), persistent=False)

    def forward(self, crops: Tensor) -> PoseResult:
        images = self.prepare(crops)
        probmap, scalars = self._predict(images)
        if self.flip:
            mirrored, others = self._predict(images.flip(-1))
            probmap = (probmap + mirrored[:, self.flip_index].flip(-1)) / 2
            scalars = (scalars + others[:, :, self.flip_index]) / 2
        keypoints, peak = self.decode(probmap)
        presence, visibility, quality = scalars.unbind(0)
        return PoseResult(keypoints, presence, visibility, quality, peak, probmap)

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, K, h, w), and presence, visibility, quality (3, B, K)."""
        output = self.model(images)
        # float: the probabilities stay exact where the network itself computes in half precision.
        return self.maps(output), torch.stack([output.presence, output.visibility, output.quality]).float().sigmoid()
