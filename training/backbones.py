"""The feature extractors: the paper's plain vision transformer, a small residual network, and EfficientNet-Lite.

A backbone maps normalised images (B, 3, H, W) to a list of feature maps, finest first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probpose_training.depthwise import DepthwiseConv2d

# Padding of the patch convolution. With it the tokens of a 256 x 192 input start 2 px outside and the last two rows
# and columns are never seen; official weights were trained so.
PATCH, PATCH_PADDING = 16, 2


class DropPath(nn.Module):
    """Leaves out a residual branch for a random part of the batch while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device, dtype=x.dtype) >= self.rate
        return x * keep / (1 - self.rate)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim))


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU; the odd nesting is the official layout."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, hidden), nn.GELU()), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TransformerLayer(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ln2 = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = FeedForward(dim, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.ln1(x)))
        return x + self.drop_path(self.ffn(self.ln2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, dim, PATCH, PATCH, PATCH_PADDING)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(images).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """ViT without a class token: one feature map (B, dim, H/16, W/16)."""

    def __init__(
        self, input_size: tuple[int, int], dim: int, depth: int, heads: int, hidden: int, drop_path: float
    ) -> None:
        super().__init__()
        self.grid = input_size[1] // PATCH, input_size[0] // PATCH
        self.channels = [dim]
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], dim))
        self.patch_embed = PatchEmbed(dim)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.layers = nn.ModuleList(TransformerLayer(dim, heads, hidden, rate) for rate in rates)
        self.ln1 = nn.LayerNorm(dim, eps=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        return [self.ln1(x).transpose(1, 2).reshape(-1, self.channels[0], *self.grid)]


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class ResidualBlock(nn.Module):
    """Two dense 3 x 3 convolutions: on CPUs and in TensorRT they reach far more of the peak than depthwise ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(width, width)
        self.conv2 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(self.conv1(x)))


class ConvNet(nn.Module):
    """Residual stages at strides 4, 8, 16, 32: four feature maps, finest first."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = list(widths)
        self.stem = conv_bn_relu(3, max(16, widths[0] // 2), stride=2)
        inputs = max(16, widths[0] // 2)
        self.stages = nn.ModuleList()
        for width, depth in zip(widths, depths, strict=True):
            blocks = [ResidualBlock(width) for _ in range(depth)]
            self.stages.append(nn.Sequential(conv_bn_relu(inputs, width, stride=2), *blocks))
            inputs = width

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class InvertedResidual(nn.Module):
    """1 x 1 expansion, depthwise convolution, 1 x 1 projection (Sandler et al., CVPR 2018)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, side: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = _conv_bn(nn.Conv2d(inputs, hidden, 1, bias=False), True) if expansion > 1 else []
        layers += _conv_bn(DepthwiseConv2d(hidden, side, stride), True)
        self.layers = nn.Sequential(*layers, *_conv_bn(nn.Conv2d(hidden, outputs, 1, bias=False), False))
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.skip else self.layers(x)


class EfficientNetLite(nn.Module):
    """The first six stages of EfficientNet-Lite0: feature maps at strides 4, 8, 16, 32, finest first.

    No squeeze-and-excitation and ReLU6 only, so that it runs on every backend and survives 8-bit weights.
    ``widths`` and ``depths``: channels and blocks of the stages; as the original where weights are loaded into it
    (:mod:`probpose_training.pretrained`). Strided convolutions are padded alike on both sides.

    ``frozen``: the stem and this many stages keep what was loaded, statistics of the batch normalisation included;
    0 = all is trained.
    """

    STAGES = ((1, 3, 1), (6, 3, 2), (6, 5, 2), (6, 3, 2), (6, 5, 1), (6, 5, 2))  # expansion, side, stride
    OUTPUTS = (1, 2, 4, 5)  # the last stage at each stride

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], frozen: int = 0) -> None:
        super().__init__()
        inputs = 32
        self.stem = nn.Sequential(*_conv_bn(nn.Conv2d(3, inputs, 3, 2, 1, bias=False), True))
        self.stages = nn.ModuleList()
        for (expansion, side, stride), width, depth in zip(self.STAGES, widths, depths, strict=True):
            blocks = [InvertedResidual(inputs, width, expansion, side, stride)]
            blocks += [InvertedResidual(width, width, expansion, side, 1) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = width
        self.channels = [widths[i] for i in self.OUTPUTS]
        self.frozen = frozen
        for part in self._fixed():
            part.requires_grad_(False)

    def _fixed(self) -> list[nn.Module]:
        return [self.stem, *self.stages[: self.frozen]] if self.frozen else []

    def train(self, mode: bool = True) -> EfficientNetLite:
        super().train(mode)
        for part in self._fixed():
            part.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [maps[i] for i in self.OUTPUTS]


def _conv_bn(conv: nn.Conv2d, activate: bool) -> list[nn.Module]:
    normalisation = nn.BatchNorm2d(conv.out_channels, eps=1e-3, momentum=0.01)
    return [conv, normalisation, nn.ReLU6()] if activate else [conv, normalisation]
