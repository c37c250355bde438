"""Exact rewrites of a graph for deployment: the same function at less cost, each tested against the plain network.

Generic on modules: batch normalisation folds into the convolution before it, image normalisation into the first one,
transposed convolutions become plain ones; and the official head's branches become one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from probpose_training.graph import MEAN, STD, PoseGraph
from probpose_training.network import Head, NetworkOutput


def rewrite(graph: PoseGraph) -> None:
    """All of them, in place; branches that nobody reads go. ``graph`` must be in evaluation mode."""
    fold_batch_norm(graph)
    fold_normalisation(graph)
    rewrite_deconvolutions(graph)
    config = graph.model.config
    if config.backbone == "vit" and config.scalar_heads == "separate" and not config.double_heatmap:
        graph.model.head = MergedHead(graph.model.head)


def fold_batch_norm(module: nn.Module) -> None:
    """Merges each batch normalisation into the convolution before it, in place."""
    for parent in module.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for i in range(len(parent) - 1):
            conv, norm = parent[i], parent[i + 1]
            if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) and isinstance(norm, nn.BatchNorm2d):
                parent[i] = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
                parent[i + 1] = nn.Identity()


def fold_normalisation(graph: PoseGraph) -> None:
    """The first convolution takes BGR and divides by the standard deviations; before it only the means are subtracted.

    The means cannot go into its bias: it pads with zeros, which stand for the mean colour.
    """
    first = next(m for m in graph.model.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    with torch.no_grad():
        first.weight.copy_((first.weight / torch.tensor(STD).view(3, 1, 1)).flip(1))
    graph.prepare = subtract_mean


def subtract_mean(crops: Tensor) -> Tensor:
    """uint8 BGR crops (B, H, W, 3) -> (B, 3, H, W) float32, BGR less the mean."""
    return crops.float().permute(0, 3, 1, 2) - torch.tensor(MEAN[::-1], device=crops.device).view(3, 1, 1)


def rewrite_deconvolutions(module: nn.Module) -> None:
    """Replaces the 4 x 4 transposed convolutions of stride 2, with the ReLU after each, in place."""
    for parent in module.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for i, deconv in enumerate(parent):
            if not isinstance(deconv, nn.ConvTranspose2d) or not _doubles(deconv):
                continue
            after = next((j for j in range(i + 1, len(parent)) if not isinstance(parent[j], nn.Identity)), i)
            relu = isinstance(parent[after], nn.ReLU)
            parent[i] = Doubling(deconv, relu)
            if relu:
                parent[after] = nn.Identity()


def _doubles(conv: nn.ConvTranspose2d) -> bool:
    form = conv.kernel_size, conv.stride, conv.padding, conv.output_padding, conv.dilation, conv.groups
    return form == ((4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1)


class Doubling(nn.Module):
    """A 4 x 4 transposed convolution of stride 2 and padding 1 as four 2 x 2 convolutions, one per output phase.

    Along an axis, output 2i reads inputs i-1 and i with taps 3 and 1; output 2i+1 reads i and i+1 with taps 2 and 0.
    """

    def __init__(self, deconv: nn.ConvTranspose2d, relu: bool) -> None:
        super().__init__()
        self.relu = relu
        self.convs = nn.ModuleList()
        for rows in ([3, 1], [2, 0]):
            for columns in ([3, 1], [2, 0]):
                conv = nn.Conv2d(deconv.in_channels, deconv.out_channels, 2, bias=deconv.bias is not None)
                taps = deconv.weight.detach()[:, :, rows][..., columns].transpose(0, 1)
                conv.weight = nn.Parameter(taps.contiguous())
                if conv.bias is not None and deconv.bias is not None:
                    conv.bias = nn.Parameter(deconv.bias.detach().clone())
                self.convs.append(conv)

    def phases(self, x: Tensor) -> list[Tensor]:
        """(B, C, h, w) of output rows and columns (even, even), (even, odd), (odd, even), (odd, odd)."""
        made = []
        for i, conv in enumerate(self.convs):
            odd_row, odd_column = divmod(i, 2)
            made.append(conv(F.pad(x, (1 - odd_column, odd_column, 1 - odd_row, odd_row))))
        return [F.relu(phase) for phase in made] if self.relu else made

    def forward(self, x: Tensor) -> Tensor:
        return interleave(self.phases(x))


def interleave(phases: list[Tensor]) -> Tensor:
    """Four phases (B, C, h, w) -> (B, C, 2h, 2w)."""
    _, channels, h, w = phases[0].shape
    return F.pixel_shuffle(torch.stack(phases, 2).reshape(-1, channels * 4, h, w), 2)


class MergedHead(nn.Module):
    """The official head: its scalar branches as one of three groups, the error branch gone.

    The last 1 x 1 convolution comes before the interleaving, which then moves 17 channels and not ``head_width``.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.config = head.config
        self.first, self.second = (m for m in head.deconv_layers if isinstance(m, Doubling))  # type: ignore[union-attr]
        self.final_layer = head.final_layer
        self.scalars = merge_branches([head.probability_layers, head.visibility_layers, head.oks_layers])

    def forward(self, features: list[Tensor]) -> NetworkOutput:
        deep, config = features[-1], self.config
        logits = interleave([self.final_layer(phase) for phase in self.second.phases(self.first(deep))])
        presence, visibility, quality = self.scalars(deep).flatten(1).chunk(3, dim=1)
        return NetworkOutput(logits, presence, visibility, quality, config.temperature, config.map_activation)


def merge_branches(branches: list[nn.Sequential]) -> nn.Sequential:
    """Equal branches of the same input -> one whose convolutions have a group per branch; outputs side by side."""
    merged: list[nn.Module] = []
    for layers in zip(*branches, strict=True):
        conv = layers[0]
        if isinstance(conv, nn.Conv2d):
            groups = 1 if not merged else len(branches)  # They share the input of the first.
            wide = nn.Conv2d(
                conv.in_channels * groups, conv.out_channels * len(branches), conv.kernel_size, conv.stride,  # type: ignore[arg-type]
                conv.padding, groups=groups,  # type: ignore[arg-type]
            )  # fmt: skip
            wide.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]).detach())
            wide.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]).detach())
            conv = wide
        merged.append(conv)
    return nn.Sequential(*merged)
