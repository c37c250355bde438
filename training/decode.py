"""The expected-OKS decode in torch: applies the numbers of ``probpose_ros.codec`` on any device and in a graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from probpose_ros.codec import Codec


class ExpectedOksDecode(nn.Module):
    """Probability maps (B, K, h, w) -> keypoints (B, K, 2) crop px and peak (B, K), as ``Codec.decode`` does."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.map_size, self.reference = codec.map_size, codec.profile == "reference"
        ky, kx = codec.kernels
        self.register_buffer("ky", torch.tensor(ky), persistent=False)
        self.register_buffer("kx_t", torch.tensor(kx.transpose(0, 2, 1).copy()), persistent=False)
        origin = codec.to_crop(np.zeros(2))
        self.register_buffer("origin", torch.tensor(origin, dtype=torch.float32), persistent=False)
        step = torch.tensor(codec.to_crop(np.ones(2)) - origin, dtype=torch.float32)
        self.register_buffer("step", step, persistent=False)

    def forward(self, probmaps: Tensor) -> tuple[Tensor, Tensor]:
        w, h = self.map_size
        score = torch.matmul(torch.matmul(self.ky, probmaps), self.kx_t).flatten(2)
        index = score.argmax(-1, keepdim=True)
        # Quotient of non-negative integers: "trunc" exports as a plain integer Div, "floor" does not.
        y = torch.div(index, w, rounding_mode="trunc")
        x = index - y * w

        def at(dx: int, dy: int) -> Tensor:
            cell = (y + dy).clamp(0, h - 1) * w + (x + dx).clamp(0, w - 1)
            return score.gather(-1, cell)

        centre = at(0, 0)
        inner_x, inner_y = (x > 0) & (x < w - 1), (y > 0) & (y < h - 1)
        if self.reference:
            inner_x = inner_y = inner_x & inner_y
        dx = _parabola_peak(at(-1, 0), centre, at(1, 0)) * inner_x
        dy = _parabola_peak(at(0, -1), centre, at(0, 1)) * inner_y
        keypoints = torch.cat([x + dx, y + dy], dim=-1) * self.step + self.origin
        return keypoints, probmaps.flatten(2).gather(-1, index).squeeze(-1)


def _parabola_peak(before: Tensor, centre: Tensor, after: Tensor) -> Tensor:
    curvature = after + before - 2 * centre
    return (before - after) / 2 / torch.where(curvature == 0, torch.full_like(curvature, 1e-6), curvature)
