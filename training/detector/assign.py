"""Which cells learn which box: task-aligned assignment (Feng et al., TOOD, ICCV 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

TOPK = 10
SCORE_POWER = 0.5
IOU_POWER = 4.0


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(M, 4), (N, 4) xyxy -> (M, N) in [0, 1]."""
    size = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])
    common = size.clamp(min=0).prod(dim=-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).clamp(min=0).prod(dim=-1) for x in (a, b))
    return common / (area_a[:, None] + area_b[None] - common).clamp(min=1e-6)


def contains(boxes: Tensor, points: Tensor) -> Tensor:
    """(M, 4), (N, 2) -> (M, N) bool."""
    return ((points[None] > boxes[:, None, :2]) & (points[None] < boxes[:, None, 2:])).all(dim=-1)


@torch.no_grad()
def assign(
    scores: Tensor, boxes: Tensor, centers: Tensor, truth: Tensor, ignore: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets of one image.

    A box teaches the TOPK cells inside it that already find it best (score^SCORE_POWER * IoU^IOU_POWER); their target
    score is that alignment, scaled so that a box's best cell gets its IoU. A box too small to hold any cell's centre
    teaches the nearest cell.

    Args:
        scores: (N,) in [0, 1]. boxes: (N, 4) predicted. centers: (N, 2) of the cells.
        truth: (M, 4) boxes to find. ignore: (K, 4) regions in which nothing is learned about absence.

    Returns:
        index (N,) int64 of the box a cell learns, -1 for none; target (N,) score in [0, 1];
        weight (N,) 0 where the score is not to be learned, else 1.
    """
    cells = len(scores)
    index = torch.full((cells,), -1, dtype=torch.int64, device=scores.device)
    target = torch.zeros(cells, device=scores.device)
    weight = torch.ones(cells, device=scores.device)
    if len(ignore):
        weight[contains(ignore, centers).any(dim=0)] = 0
    if len(truth) == 0:
        return index, target, weight
    iou = pairwise_iou(truth, boxes)
    inside = contains(truth, centers)
    lost = ~inside.any(dim=1)
    if lost.any():
        middle = (truth[lost, :2] + truth[lost, 2:]) / 2
        inside[lost, torch.cdist(middle, centers).argmin(dim=1)] = True
    # The tiny floor keeps the order sensible while no prediction overlaps a box yet.
    metric = (scores[None].clamp(min=1e-6) ** SCORE_POWER * iou.clamp(min=1e-3) ** IOU_POWER) * inside
    best, cell = metric.topk(min(TOPK, cells), dim=1)
    chosen = torch.zeros_like(inside)
    chosen.scatter_(1, cell, best > 0)
    claim = torch.where(chosen, iou + 1e-6, iou.new_zeros(()))  # a cell wanted by two boxes goes to the better overlap
    value, owner = claim.max(dim=0)
    taken = value > 0
    index[taken] = owner[taken]
    mine = torch.zeros_like(chosen)
    mine[owner[taken], taken.nonzero()[:, 0]] = True
    aligned = metric * mine
    peak = aligned.amax(dim=1, keepdim=True).clamp(min=1e-12)
    reach = (iou * mine).amax(dim=1, keepdim=True)
    target[taken] = (aligned / peak * reach).amax(dim=0)[taken]
    weight[taken] = 1
    return index, target, weight
