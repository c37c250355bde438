"""Sparsemax over the last axis: the Euclidean projection onto the probability simplex (Martins and Astudillo, 2016).

``sparsemax(z) = max(z - tau, 0)`` with the one tau for which it sums to 1. The sum falls convexly as tau grows, so
Newton's method from any tau at or below the root never overshoots, and it ends exactly once the support stands still.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The largest entries of every GROUP come first: with fewer entries the root is smaller, and so a start that is near.
# Then six steps were exact on every family of maps that we tried (from the mean alone, eight to nine); a step on a
# solved row changes nothing.
GROUP, FIRST_STEPS, STEPS = 16, 4, 7


def sparsemax_newton(logits: Tensor) -> Tensor:
    """Sparsemax by elementwise operations and reductions alone, unrolled: what an exported graph holds.

    Args:
        logits: (..., N), any real numbers.

    Returns:
        (..., N) float32, >= 0, sums to 1.
    """
    z = logits.float()
    z = z - z.amax(-1, keepdim=True)
    # Two lower bounds of tau: the largest entry alone takes at most 1; the mean excess over all entries is at most 1/N.
    tau = torch.clamp((z.sum(-1, keepdim=True) - 1) / z.shape[-1], min=-1)
    largest = z.reshape(*z.shape[:-1], -1, math.gcd(z.shape[-1], GROUP)).amax(-1)
    tau = _newton(z, torch.maximum(tau, _newton(largest, tau, FIRST_STEPS)), STEPS)
    return (z - tau).clamp(min=0)


def _newton(z: Tensor, tau: Tensor, steps: int) -> Tensor:
    """From any tau (..., 1) below the largest of z (..., N): towards the root, from below after the first step."""
    for _ in range(steps):
        excess = (z - tau).clamp(min=0)
        support = (excess > 0).float().sum(-1, keepdim=True)
        tau = tau + (excess.sum(-1, keepdim=True) - 1) / support
    return tau


class _Sparsemax(torch.autograd.Function):
    """Newton forward, and the closed-form gradient: on the support, the upstream gradient less its mean there."""

    @staticmethod
    def forward(ctx, logits: Tensor) -> Tensor:
        p = sparsemax_newton(logits)
        ctx.save_for_backward(p)
        ctx.dtype = logits.dtype
        return p

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        support = (p > 0).float()
        grad = grad * support
        mean = grad.sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
        return (grad - mean * support).to(ctx.dtype)


def sparsemax(logits: Tensor) -> Tensor:
    """Differentiable sparsemax over the last axis, float32 in any autocast; shapes as :func:`sparsemax_newton`."""
    # An exported graph holds the plain operations, for a custom gradient has no form there.
    return sparsemax_newton(logits) if torch.onnx.is_in_onnx_export() else _Sparsemax.apply(logits)


def sparsemax_sort(logits: Tensor) -> Tensor:
    """The textbook algorithm by sorting, in the input's precision: the second opinion of the tests."""
    z = logits - logits.amax(-1, keepdim=True)
    ordered = z.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(-1) - 1
    rank = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    size = (ordered * rank > sums).sum(-1, keepdim=True)
    tau = sums.gather(-1, size - 1) / size
    return (z - tau).clamp(min=0)
