"""What the network is trained on: dense OKS loss on the maps, presence, visibility and quality.

Widths and areas come from the codec; nothing is derived again here. Every mean runs over all B x K keypoints, those
of weight 0 included, so that batches split over processes add up to the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from probpose_ros.codec import AREA_PER_BOX, PROFILES, Codec
from probpose_ros.config import Options, option
from probpose_ros.oks import oks_variance
from probpose_training.decode import ExpectedOksDecode, MergedMaps
from probpose_training.network import PROBPOSE_SMALL, NetworkConfig, NetworkOutput


@dataclass(frozen=True)
class LossConfig(Options):
    """The official recipe is ``reduction=pixel, train_outside=true, official_area=true`` with a reference codec."""

    map_loss: str = option("oks", "Dense OKS loss, or mean squared error of heatmaps", choices=("oks", "mse"))
    reduction: str = option(
        "sum",
        "Per map: sum over its cells; mean over its cells (official); or sum of the risk and largest gradient",
        choices=("sum", "pixel", "keypoint"),
    )
    alpha: float = option(0.05, "Share of the smoothness (Sobel) term", minimum=0.0, maximum=1.0)
    gamma: float = option(0.0, "Share of a squared-error term", minimum=0.0, maximum=1.0)
    risk: str = option("minus", "p(1-t), (1-p)t, or the average of both", choices=("minus", "plus", "both"))
    fenchel_young: float = option(
        0.0,
        "Weight of the sparsemax loss towards the normalised target: a proper scoring rule, unlike the OKS risk",
        minimum=0.0,
    )
    target_profile: str = option("codec", "Widths of the training targets", choices=("codec", *PROFILES))
    train_outside: bool = option(False, "Keypoints outside the window train the map too, towards the nearest border")
    balance_visibility: bool = option(True, "Weigh visible and invisible keypoints alike over the batch")
    official_area: bool = option(False, "Quality against the public implementation's ten times too strict OKS")
    map_weight: float = option(1.0, "Weight of the map loss", minimum=0.0)
    presence_weight: float = option(1.0, "Weight of the presence loss", minimum=0.0)
    visibility_weight: float = option(1.0, "Weight of the visibility loss", minimum=0.0)
    quality_weight: float = option(1.0, "Weight of the quality loss", minimum=0.0)


class PoseLoss(nn.Module):
    """Network output and batch -> dict of scalar tensors ``map``, ``presence``, ``visibility``, ``quality``, ``total``.

    The batch is a dict of float tensors:
        keypoints: (B, K, 2) crop px; any finite number where unlabelled.
        annotated: (B, K) in [0, 1], weight of map and presence; 0 = unlabelled, no loss at all.
        in_window: (B, K) target of presence, 0 or 1 (or a teacher's probability).
        visible, visible_weight: (B, K), 0 or 1; weight 0 = unknown.
        target_maps, target_weight (optional): (B, K, h, w) OKS maps of a teacher, (B, K) their weight.
        presence_weight (optional): (B, K), instead of ``annotated`` for presence.

    ``codec`` is that of the crop's own maps. A network with a double heatmap must be given as ``network``; there the
    outer map is trained as well, and presence and quality mean the outer window, whatever ``in_window`` says.
    """

    quality_variance: Tensor

    def __init__(
        self, codec: Codec, config: LossConfig = LossConfig(), network: NetworkConfig = PROBPOSE_SMALL
    ) -> None:
        super().__init__()
        self.codec, self.config = codec, config
        profile = codec.profile if config.target_profile == "codec" else config.target_profile
        self.target_codec = replace(codec, profile=profile)
        self.outer_codec = self.target_codec.outer(network.outer_scale) if network.double_heatmap else None
        self.maps = MergedMaps(network)
        self.decode = ExpectedOksDecode(codec.extended(network.outer_scale) if network.double_heatmap else codec)
        self.register_buffer("quality_variance", quality_variance(codec, config.official_area), persistent=False)

    def forward(self, output: NetworkOutput, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if (output.outer_logits is None) != (self.outer_codec is None):
            raise ValueError(
                "a network with a double heatmap and its loss must know of each other: PoseLoss(network=...)"
            )
        config, annotated, present = self.config, batch["annotated"], batch["in_window"]
        inside = (present > 0.5).float()
        target = encode_targets(batch["keypoints"], self.target_codec)
        weight = annotated * (reachable(batch["keypoints"], self.target_codec) if config.train_outside else inside)
        if "target_maps" in batch:
            target, weight = blend(target, weight, batch["target_maps"], batch["target_weight"])
        maps = self._map_loss(output.logits, output.probmap(), output.temperature, target, weight)
        if output.outer_logits is not None and self.outer_codec is not None:
            present = inside = in_map(batch["keypoints"], self.outer_codec)
            target = encode_targets(batch["keypoints"], self.outer_codec)
            outer = (output.outer_logits, output.outer_probmap(), output.temperature)
            maps = maps + self._map_loss(*outer, target, annotated * inside)

        presence = bce(output.presence, present, batch.get("presence_weight", annotated))
        visible_weight = batch["visible_weight"]
        if config.balance_visibility:
            visible_weight = visible_weight * class_balance(batch["visible"], visible_weight)
        visibility = bce(output.visibility, batch["visible"], visible_weight)

        with torch.no_grad():
            decoded, _ = self.decode(self.maps(output))
            distance = (decoded - batch["keypoints"]).square().sum(-1)
            oks = torch.exp(-distance / (2 * self.quality_variance))
        quality = quality_loss(output.quality, oks, annotated * inside)
        losses = {"map": maps, "presence": presence, "visibility": visibility, "quality": quality}
        losses["total"] = sum(getattr(config, f"{name}_weight") * loss for name, loss in losses.items())
        return losses

    def _map_loss(self, logits: Tensor, probmaps: Tensor, temperature: float, target: Tensor, weight: Tensor) -> Tensor:
        config = self.config
        if config.map_loss == "mse":
            loss = (logits.float() - target).square().mean((-2, -1))
        else:
            loss = oks_map_loss(probmaps, target, config)
        if config.fenchel_young:
            loss = loss + config.fenchel_young * sparsemax_loss(logits.float() / temperature, probmaps, target)
        return (weight * loss).mean()


def encode_targets(keypoints: Tensor, codec: Codec) -> Tensor:
    """``Codec.encode`` in torch: keypoints (..., K, 2) crop px -> OKS of every cell (..., K, h, w) float32."""
    gaussians = [torch.exp(-(d.square() / spread)) for d, spread in _cell_distances(keypoints, codec)]
    return gaussians[1][..., :, None] * gaussians[0][..., None, :]


def reachable(keypoints: Tensor, codec: Codec) -> Tensor:
    """1 where the target of a keypoint (..., K, 2) is above 0 in some cell in double precision, else 0: (..., K).

    The public implementation weighs keypoints so; with reference widths it reaches 28 (nose) to 67 (hip) map px out.
    """
    nearest = [d.abs().amin(-1).square() / spread[..., 0] for d, spread in _cell_distances(keypoints.double(), codec)]
    return (torch.exp(-(nearest[0] + nearest[1])) > 0).float()


def in_map(keypoints: Tensor, codec: Codec) -> Tensor:
    """1 where a keypoint (..., K, 2) lies on the codec's map (0 <= x < w, 0 <= y < h in map px), else 0: (..., K)."""
    points = _to_map(keypoints, codec)
    return ((points >= 0) & (points < torch.tensor(codec.map_size, device=points.device))).all(-1).float()


def _to_map(keypoints: Tensor, codec: Codec) -> Tensor:
    """``Codec.to_map`` in torch: an affine map per axis, so two points tell it."""
    like: dict[str, Any] = {"device": keypoints.device, "dtype": keypoints.dtype}
    origin = codec.to_map(np.zeros(2))
    return keypoints * torch.tensor(codec.to_map(np.ones(2)) - origin, **like) + torch.tensor(origin, **like)


def _cell_distances(keypoints: Tensor, codec: Codec) -> list[tuple[Tensor, Tensor]]:
    """For x, then y: distances (..., K, cells) of a keypoint to the cells in map px, and 2 * variance (K, 1)."""
    like: dict[str, Any] = {"device": keypoints.device, "dtype": keypoints.dtype}
    points = _to_map(keypoints, codec)
    spread = 2 * torch.tensor(codec.variance, **like)[:, None]
    return [(torch.arange(size, **like) - points[..., axis, None], spread) for axis, size in enumerate(codec.map_size)]


def blend(target: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor) -> tuple[Tensor, Tensor]:
    """One target and weight for label and teacher together; the OKS loss is linear in the target, so none is lost."""
    total = weight + teacher_weight
    share = (teacher_weight / total.clamp(min=1e-12))[..., None, None]
    return target + share * (teacher - target), total


def oks_map_loss(p: Tensor, target: Tensor, config: LossConfig) -> Tensor:
    """Dense OKS loss (paper, Eq. 3 and 4): ``(1 - alpha) * p * (1 - OKS) + alpha * |Sobel p|^2`` per cell.

    Args:
        p: (B, K, h, w) probability maps. target: the same shape, OKS of each cell, in [0, 1].

    Returns:
        (B, K), reduced over the cells as ``config.reduction`` says.
    """
    minus, plus = p * (1 - target), (1 - p) * target
    risk = {"minus": minus, "plus": plus, "both": (minus + plus) / 2}[config.risk]
    share = 1 - config.alpha - config.gamma
    smoothness = sobel(p)
    if config.reduction == "keypoint":
        # The maximum by max, not amax: of several equal gradients one is trained, as in the public implementation.
        loss = share * risk.sum((-2, -1)) + config.alpha * smoothness.flatten(-2).max(-1).values
        return loss + config.gamma * (p - target).square().mean((-2, -1))
    cells = share * risk + config.alpha * smoothness
    if config.gamma:
        cells = cells + config.gamma * (p - target).square()
    return cells.sum((-2, -1)) if config.reduction == "sum" else cells.mean((-2, -1))


def sparsemax_loss(z: Tensor, p: Tensor, target: Tensor) -> Tensor:
    """Fenchel-Young loss of sparsemax (Martins and Astudillo, ICML 2016), >= 0; its gradient in z is ``p - q``.

    Its minimiser is the mean of q given the image, so that the maps come out calibrated instead of too sharp.

    Args:
        z: (B, K, h, w) logits / temperature. p: sparsemax(z).
        target: OKS of each cell; q is the target divided by its sum.

    Returns:
        (B, K).
    """
    q, p = target / target.sum((-2, -1), keepdim=True).clamp(min=1e-12), p.detach()
    return (z * (p - q)).sum((-2, -1)) + (q.square() - p.square()).sum((-2, -1)) / 2


def sobel(p: Tensor) -> Tensor:
    """Squared magnitude of the unnormalised 3 x 3 Sobel gradient of (..., h, w), zeros outside."""
    p = F.pad(p, (1, 1, 1, 1))
    across, down = p[..., :, :-2] - p[..., :, 2:], p[..., :-2, :] - p[..., 2:, :]
    gx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    gy = down[..., :, :-2] + 2 * down[..., :, 1:-1] + down[..., :, 2:]
    return gx.square() + gy.square()


def bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted binary cross-entropy, mean over all keypoints."""
    return F.binary_cross_entropy_with_logits(logits.float(), target, weight)


def class_balance(target: Tensor, weight: Tensor) -> Tensor:
    """(B, K) factors that give both classes the same total weight, the more frequent one's factor being 1.

    Counted over the whole batch, over all processes when there are several.
    """
    counts = torch.stack([(weight * target).sum(), (weight * (1 - target)).sum()])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
    factors = counts.max() / counts.clamp(min=1e-12)
    return torch.where(target > 0.5, factors[0], factors[1])


def quality_variance(codec: Codec, official: bool = False) -> Tensor:
    """(K,) variance of the true OKS in crop px^2, for a person who fills the window up to the padding.

    ``official``: the public implementation takes the area in map px but distances in crop px: ten times too strict.
    """
    w, h = codec.map_size if official else codec.crop_size
    area = AREA_PER_BOX * w * h / (1 if official else codec.padding**2)
    return torch.tensor(oks_variance(area), dtype=torch.float32)


def quality_loss(logits: Tensor, oks: Tensor, weight: Tensor) -> Tensor:
    """Squared error of the predicted OKS, mean over all keypoints; the weight scales both sides, as official."""
    return F.mse_loss(weight * logits.float().sigmoid(), weight * oks)
