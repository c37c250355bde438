"""Depthwise convolution for training on CPUs.

oneDNN's bfloat16 kernels are fast for every forward pass and for 3 x 3 weight gradients, but fall back to reference
code for the weight gradient of 5 x 5 kernels and for the input gradient of strided ones: 30 to 130 ms instead of 1 to 5
for a layer of EfficientNet-Lite. The backward pass below says the same with the fast ones.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _gradient(
    g: Tensor, x: Tensor, w: Tensor, stride: int, padding: int, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    result = torch.ops.aten.convolution_backward(
        g, x, w, None, (stride,) * 2, (padding,) * 2, (1, 1), False, (0, 0), w.shape[0], (*wanted, False)
    )
    return result[0], result[1]


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.stride = stride
        return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2, groups=w.shape[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, w), stride, g = ctx.saved_tensors, ctx.stride, grad_outputs[0]
        side = w.shape[-1]
        grad_x = grad_w = None
        if ctx.needs_input_grad[0]:
            spread = g
            if stride > 1:  # zeros between the cells make it a dense convolution
                spread = torch.zeros_like(x)  # of the layout of x
                spread[:, :, ::stride, ::stride] = g
            grad_x, _ = _gradient(spread, x, w, 1, side // 2, (True, False))
        if ctx.needs_input_grad[1]:
            if side == 5:  # four overlapping 3 x 3 blocks
                padded = F.pad(x, (2, 2, 2, 2))
                reach = [(n - 1) * stride + 3 for n in g.shape[2:]]
                grad_w = torch.empty_like(w)
                for y in (0, 2):
                    for z in (0, 2):
                        part = padded[:, :, y : y + reach[0], z : z + reach[1]]
                        part = part.contiguous(memory_format=torch.channels_last)
                        corner = w[:, :, y : y + 3, z : z + 3].contiguous()
                        _, block = _gradient(g, part, corner, stride, 0, (False, True))
                        assert block is not None
                        grad_w[:, :, y : y + 3, z : z + 3] = block
            else:
                _, grad_w = _gradient(g, x, w, stride, side // 2, (False, True))
        return grad_x, grad_w, None


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with one filter per channel, side 3 or 5, half padding, no bias; quick to train on CPUs."""

    def __init__(self, channels: int, side: int, stride: int = 1) -> None:
        super().__init__(channels, channels, side, stride, side // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        stride = self.stride[0]
        whole = x.shape[2] % stride == 0 and x.shape[3] % stride == 0
        if not (self.training and x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and whole):
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu")
        return _DepthwiseConv.apply(x.to(dtype), self.weight.to(dtype), stride)
