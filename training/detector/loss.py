"""What the detector minimises: quality focal loss on the scores, GIoU on the boxes of the assigned cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .assign import assign

BOX_WEIGHT = 2.0


def giou(a: Tensor, b: Tensor) -> Tensor:
    """(N, 4), (N, 4) xyxy -> (N,) generalised IoU in [-1, 1] (Rezatofighi et al., CVPR 2019)."""
    common = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).clamp(min=0).prod(dim=1) for x in (a, b))
    union = (area_a + area_b - common).clamp(min=1e-6)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1).clamp(min=1e-6)
    return common / union - (hull - union) / hull


def quality_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy with a soft target, weighted by the squared error of the score (Li et al., NeurIPS 2020)."""
    error = (target - logits.sigmoid()).abs().square()
    return error * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def detection_loss(
    logits: Tensor, boxes: Tensor, centers: Tensor, truths: Sequence[Tensor], ignores: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Loss of a batch.

    Args:
        logits: (B, N). boxes: (B, N, 4) predicted, xyxy input px. centers: (N, 2) of the cells.
        truths, ignores: B tensors (M, 4) of boxes, px.

    Returns:
        ``total``, ``score`` and ``box``: scalars, relative to the number of boxes' worth of targets.
    """
    scores = logits.detach().sigmoid()
    found, wanted, shares, targets, weights = [], [], [], [], []
    for i, (truth, ignore) in enumerate(zip(truths, ignores, strict=True)):
        index, target, weight = assign(scores[i], boxes[i].detach(), centers, truth, ignore)
        cells = index >= 0
        found.append(boxes[i][cells])
        wanted.append(truth[index[cells]])
        shares.append(target[cells])
        targets.append(target)
        weights.append(weight)
    target, weight = torch.stack(targets), torch.stack(weights)
    total_target = target.sum().clamp(min=1)
    score = (quality_focal(logits, target) * weight).sum() / total_target
    box = ((1 - giou(torch.cat(found), torch.cat(wanted))) * torch.cat(shares)).sum() / total_target
    return {"total": score + BOX_WEIGHT * box, "score": score.detach(), "box": box.detach()}
