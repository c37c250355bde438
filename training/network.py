"""ProbPose: one crop of one person -> a probability map, presence, visibility and quality for each keypoint.

One configurable class. With ``PROBPOSE_S`` its state_dict has exactly the keys, shapes and order of the official
checkpoint; the default config is the small bundled network. :class:`ProbPose` returns logits; what turns them into
maps and probabilities is in :class:`NetworkOutput`, so that losses can use the stable forms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probpose_ros.skeleton import NUM_KEYPOINTS
from probpose_training.backbones import PATCH, ConvNet, EfficientNetLite, VisionTransformer, conv_bn_relu
from probpose_training.sparsemax import sparsemax

CHOICES = {
    "backbone": ("conv", "efficientnet_lite", "vit"),
    "scalar_heads": ("light", "separate"),
    "map_activation": ("sparsemax", "heatmap"),
}


@dataclass(frozen=True)
class NetworkConfig:
    """The architecture; sizes are (width, height) in px.

    backbone: ``conv`` (``widths`` and ``depths`` of its four stages), ``efficientnet_lite`` (of its six stages, the
    first ``frozen_stages`` of which are not trained), or ``vit`` (``embed_dim`` ... ``drop_path``).
    head_width: channels of the decoder that ends at stride 4, the resolution of the maps.
    scalar_heads: ``light``, one small MLP on pooled features (``scalar_width`` hidden units), or ``separate``, the
    official convolution branches; ``error_branch``: the official layout's fourth branch, never trained and never run.
    detach_scalars: presence, visibility and quality do not train the features they read (official: true).
    map_activation: ``sparsemax`` of logits / temperature, or ``heatmap`` for networks trained on MSE heatmaps.
    double_heatmap: a second set of maps over a window ``outer_scale`` times larger about the same centre (paper 3.5).
    """

    input_size: tuple[int, int] = (192, 256)
    backbone: str = "conv"
    widths: tuple[int, ...] = (32, 64, 128, 192)
    depths: tuple[int, ...] = (1, 2, 2, 1)
    frozen_stages: int = 0
    embed_dim: int = 384
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 1536
    drop_path: float = 0.1
    head_width: int = 64
    scalar_heads: str = "light"
    scalar_width: int = 192
    error_branch: bool = False
    detach_scalars: bool = True
    temperature: float = 0.5
    map_activation: str = "sparsemax"
    double_heatmap: bool = False
    outer_scale: float = 1.25

    def __post_init__(self) -> None:
        for name in ("input_size", "widths", "depths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        multiple = 64 if self.scalar_heads == "separate" else 16
        if len(self.input_size) != 2 or any(size <= 0 or size % multiple for size in self.input_size):
            raise ValueError(f"input_size must be two multiples of {multiple} px, got {self.input_size}")
        stages = {"conv": 4, "efficientnet_lite": 6}.get(self.backbone)
        if stages and not len(self.widths) == len(self.depths) == stages:
            raise ValueError(f"widths and depths must name {stages} stages, got {self.widths} and {self.depths}")
        frozen = range((stages or 0) + 1) if self.backbone == "efficientnet_lite" else (0,)
        if self.frozen_stages not in frozen:
            raise ValueError(f"frozen_stages must be in {list(frozen)} for {self.backbone}, got {self.frozen_stages}")
        if self.backbone != "vit" and self.scalar_heads == "separate":
            raise ValueError("scalar_heads 'separate' needs backbone 'vit'")
        if self.backbone == "vit" and self.embed_dim % self.heads:
            raise ValueError(f"embed_dim must be a multiple of heads, got {self.embed_dim} and {self.heads}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be > 0, got {self.temperature}")
        if not self.outer_scale > 1:
            raise ValueError(f"outer_scale must be > 1, got {self.outer_scale}")

    @property
    def map_size(self) -> tuple[int, int]:
        """(width, height) of the maps: a quarter of the input."""
        return self.input_size[0] // 4, self.input_size[1] // 4

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """Made from a mapping; an unknown name is refused with the names there are."""
        known = [spec.name for spec in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"unknown network option {name!r}; the options are: {', '.join(known)}")
        return cls(**values)


# The bundled small network.
PROBPOSE_SMALL = NetworkConfig()

# The network of the paper and of the official checkpoint: 40,255,445 parameters.
PROBPOSE_S = NetworkConfig(backbone="vit", head_width=256, scalar_heads="separate", error_branch=True)


class NetworkOutput(NamedTuple):
    """What the network says of B crops; K keypoints, maps of h x w cells.

    logits: (B, K, h, w), before the temperature. presence, visibility, quality: (B, K) logits of probabilities
    (quality: of the expected OKS). temperature, activation: of the config.
    outer_logits: (B, K, h, w) over the larger window, None without a double heatmap.
    """

    logits: Tensor
    presence: Tensor
    visibility: Tensor
    quality: Tensor
    temperature: float
    activation: str
    outer_logits: Tensor | None = None

    def probmap(self) -> Tensor:
        """(B, K, h, w) float32 probability maps over the activation window, each sums to 1."""
        return self._activate(self.logits)

    def outer_probmap(self) -> Tensor:
        """The same over the larger window of the double heatmap."""
        if self.outer_logits is None:
            raise ValueError("this network has no double heatmap")
        return self._activate(self.outer_logits)

    def _activate(self, logits: Tensor) -> Tensor:
        flat = logits.flatten(2).float()
        if self.activation == "sparsemax":
            flat = sparsemax(flat / self.temperature)
        else:  # A regressed heatmap is no distribution: what counts is its peak, not the low ground all around.
            peak = flat.amax(-1, keepdim=True)
            flat = (flat - peak / 2).clamp(min=0) + 1e-9
            flat = flat / flat.sum(-1, keepdim=True)
        return flat.view(logits.shape)


class ProbPose(nn.Module):
    """Normalised RGB crops (B, 3, H, W) -> :class:`NetworkOutput`."""

    def __init__(self, config: NetworkConfig = PROBPOSE_SMALL) -> None:
        super().__init__()
        self.config = config
        backbone: VisionTransformer | ConvNet | EfficientNetLite
        if config.backbone == "vit":
            backbone = VisionTransformer(
                config.input_size, config.embed_dim, config.depth, config.heads, config.mlp_dim, config.drop_path
            )
        elif config.backbone == "conv":
            backbone = ConvNet(config.widths, config.depths)
        else:
            backbone = EfficientNetLite(config.widths, config.depths, config.frozen_stages)
        self.backbone = backbone
        self.head = Head(config, backbone.channels)

    def forward(self, images: Tensor) -> NetworkOutput:
        return self.head(self.backbone(images))

    def layer_of(self, name: str) -> tuple[int, int]:
        """(layer of a parameter, number of the last one) for layer-wise learning rates: embeddings 0, the head last."""
        last = self.config.depth + 1 if self.config.backbone == "vit" else len(self.config.widths) + 1
        part = name.split(".")
        if name.startswith(("backbone.layers.", "backbone.stages.")):
            return int(part[2]) + 1, last
        return (0 if part[1] in ("pos_embed", "patch_embed", "stem") else last), last


class Head(nn.Module):
    """Feature maps -> logits of the maps and of the scalars."""

    def __init__(self, config: NetworkConfig, channels: list[int]) -> None:
        super().__init__()
        self.config = config
        if config.backbone == "vit":
            self.deconv_layers: nn.Module = deconvolutions(channels[-1], config.head_width)
        else:
            self.decoder = TopDown(config, channels)
        self.final_layer = nn.Conv2d(config.head_width, NUM_KEYPOINTS, 1)
        if config.scalar_heads == "separate":
            grid = config.input_size[1] // PATCH, config.input_size[0] // PATCH
            self.probability_layers = scalar_branch(channels[-1], grid)
            self.visibility_layers = scalar_branch(channels[-1], grid)
            self.oks_layers = scalar_branch(channels[-1], grid)
            if config.error_branch:
                self.error_layers = scalar_branch(channels[-1], grid).requires_grad_(False)
        else:
            self.scalars = LightScalars(config, channels[-1])
        if config.double_heatmap:
            first = (
                deconvolutions(channels[-1], config.head_width)
                if config.backbone == "vit"
                else conv_bn_relu(config.head_width, config.head_width)
            )
            self.outer_layers = nn.Sequential(first, nn.Conv2d(config.head_width, NUM_KEYPOINTS, 1))
        self._initialise()

    def _initialise(self) -> None:
        # As official: tiny weights, so that training starts from flat maps and undecided scalars.
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                if self.config.backbone == "vit" or module.out_channels == NUM_KEYPOINTS:
                    nn.init.normal_(module.weight, std=0.001)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> NetworkOutput:
        config, deep = self.config, features[-1]
        fine = self.deconv_layers(deep) if config.backbone == "vit" else self.decoder(features)
        logits = self.final_layer(fine)
        outer = None
        if config.double_heatmap:
            outer = self.outer_layers(deep if config.backbone == "vit" else fine)
        read = [tensor.detach() if config.detach_scalars else tensor for tensor in (deep, fine, logits)]
        if config.scalar_heads == "separate":
            layers = (self.probability_layers, self.visibility_layers, self.oks_layers)
            presence, visibility, quality = (branch(read[0]).flatten(1) for branch in layers)
        else:
            presence, visibility, quality = self.scalars(*read)
        return NetworkOutput(logits, presence, visibility, quality, config.temperature, config.map_activation, outer)


def deconvolutions(inputs: int, width: int) -> nn.Sequential:
    """Two transposed convolutions: stride 16 -> stride 4."""
    layers: list[nn.Module] = []
    for channels in (inputs, width):
        layers += [nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def scalar_branch(channels: int, grid: tuple[int, int]) -> nn.Sequential:
    """The official scalar branch: three convolutions that pool a (rows, columns) grid to one cell -> (B, K, 1, 1)."""
    layers: list[nn.Module] = []
    for pool in ((grid[0] // 4, grid[1] // 4), (2, 2), (2, 2)):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.MaxPool2d(pool), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels, NUM_KEYPOINTS, 1))


class TopDown(nn.Module):
    """Strides 4 ... 32 -> stride 4: the coarse map is enlarged and added to the finer one, then smoothed."""

    def __init__(self, config: NetworkConfig, channels: list[int]) -> None:
        super().__init__()
        width = config.head_width
        self.laterals = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.smooth = nn.ModuleList(conv_bn_relu(width, width) for _ in channels[:-1])
        # Sizes are fixed numbers (not read from tensors), so that the exported graph holds plain constants.
        w, h = config.map_size
        self.sizes = [(-(-h // 2**i), -(-w // 2**i)) for i in range(len(channels))]

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = self.laterals[-1](maps[-1])
        for i in reversed(range(len(maps) - 1)):
            x = F.interpolate(x, size=self.sizes[i], mode="nearest")
            x = self.smooth[i](x + self.laterals[i](maps[i]))
        return x


class LightScalars(nn.Module):
    """Presence, visibility and quality from pooled features and from how far each map's peak stands out.

    The coarsest map enters flattened, because presence depends on where things are relative to the window's border.
    """

    def __init__(self, config: NetworkConfig, channels: int, reduced: int = 16) -> None:
        super().__init__()
        stride = PATCH if config.backbone == "vit" else 32
        cells = math.prod(-(-size // stride) for size in config.input_size)
        self.reduce = nn.Sequential(nn.Conv2d(channels, reduced, 1), nn.ReLU())
        inputs = reduced * cells + 2 * config.head_width + NUM_KEYPOINTS
        self.mlp = nn.Sequential(
            nn.Linear(inputs, config.scalar_width), nn.ReLU(), nn.Linear(config.scalar_width, 3 * NUM_KEYPOINTS)
        )

    def forward(self, deep: Tensor, fine: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        fine, logits = fine.flatten(2), logits.flatten(2)
        peak = logits.amax(-1) - logits.mean(-1)
        pooled = torch.cat([self.reduce(deep).flatten(1), fine.mean(-1), fine.amax(-1), peak], dim=1)
        return self.mlp(pooled).chunk(3, dim=1)
