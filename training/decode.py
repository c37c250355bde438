"""Maps -> keypoints in torch, on any device and in a graph; the numbers are those of ``probpose_ros.codec``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from probpose_ros.codec import Codec
from probpose_training.network import NetworkConfig, NetworkOutput

# Trust in the inner map of a double heatmap that no outer map takes away: this share of the answer is that the
# keypoint is in the inner window with INNER_PRIOR. So a wrong outer map leaves the right answer alive.
OUTER_DOUBT, INNER_PRIOR = 0.02, 0.9


def decode_codec(config: NetworkConfig, profile: str, padding: float) -> Codec:
    """The codec of the maps that a network's graph decodes: of a double heatmap, the merged one."""
    codec = Codec(config.input_size, config.map_size, profile, padding)
    if not config.double_heatmap:
        return codec
    if profile != "oks":
        raise ValueError(f"a double heatmap is decoded with profile 'oks', got {profile!r}")
    return codec.extended(config.outer_scale)


class MergedMaps(nn.Module):
    """Network output -> probability maps (B, K, h, w) that sum to 1, on the grid of :func:`decode_codec`.

    Without a double heatmap these are the network's maps. With one, the outer map says how much probability lies in
    the inner window; the inner map says where in there, and the outer map, resampled to the inner map's cells, where
    around it. So cells of either origin hold probability per equal area.
    """

    rows: Tensor
    columns_t: Tensor
    outside: Tensor
    place_rows: Tensor
    place_columns: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.merges = config.double_heatmap
        if not self.merges:
            return
        inner = Codec(config.input_size, config.map_size)
        outer, merged = inner.outer(config.outer_scale), inner.extended(config.outer_scale)
        w, h = merged.map_size
        x, y = (w - inner.map_size[0]) // 2, (h - inner.map_size[1]) // 2
        # Padding as a product with ones and zeros: as Pad it would bring integer operators that TensorRT 8.6 lacks.
        self.register_buffer("place_rows", torch.eye(h)[:, y : h - y].clone(), persistent=False)
        self.register_buffer("place_columns", torch.eye(w)[x : w - x].clone(), persistent=False)
        cells = np.arange(max(w, h))
        places = outer.to_map(merged.to_crop(np.stack([cells, cells], axis=-1)))
        self.register_buffer("rows", _interpolation(places[:h, 1], outer.map_size[1]), persistent=False)
        self.register_buffer("columns_t", _interpolation(places[:w, 0], outer.map_size[0]).T, persistent=False)
        outside = torch.ones(h, w)
        outside[y : h - y, x : w - x] = 0
        self.register_buffer("outside", outside, persistent=False)

    def forward(self, output: NetworkOutput) -> Tensor:
        if not self.merges:
            return output.probmap()
        spread = torch.matmul(torch.matmul(self.rows, output.outer_probmap()), self.columns_t)
        around = spread * self.outside
        outside = around.sum((-2, -1), keepdim=True)
        inside = (spread * (1 - self.outside)).sum((-2, -1), keepdim=True)
        share = (1 - OUTER_DOUBT) * inside / (inside + outside) + OUTER_DOUBT * INNER_PRIOR
        placed = torch.matmul(torch.matmul(self.place_rows, output.probmap() * share), self.place_columns)
        merged = placed + around * ((1 - share) / outside.clamp(min=1e-9))
        return merged / merged.sum((-2, -1), keepdim=True)


def _interpolation(places: np.ndarray, size: int) -> Tensor:
    """(len(places), size) weights of linear interpolation at ``places`` of an array of ``size`` cells."""
    distance = np.abs(places.clip(0, size - 1)[:, None] - np.arange(size))
    return torch.tensor((1 - distance).clip(0), dtype=torch.float32)


class ExpectedOksDecode(nn.Module):
    """Probability maps (B, K, h, w) -> keypoints (B, K, 2) crop px and peak (B, K), as ``Codec.decode`` does."""

    ky: Tensor
    kx_t: Tensor
    columns: Tensor
    origin: Tensor
    step: Tensor

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.map_size, self.reference = codec.map_size, codec.profile == "reference"
        ky, kx = codec.kernels
        self.register_buffer("ky", torch.tensor(ky), persistent=False)
        self.register_buffer("kx_t", torch.tensor(kx.transpose(0, 2, 1).copy()), persistent=False)
        self.register_buffer("columns", torch.arange(codec.map_size[0]), persistent=False)
        origin = codec.to_crop(np.zeros(2))
        self.register_buffer("origin", torch.tensor(origin, dtype=torch.float32), persistent=False)
        step = torch.tensor(codec.to_crop(np.ones(2)) - origin, dtype=torch.float32)
        self.register_buffer("step", step, persistent=False)

    def forward(self, probmaps: Tensor) -> tuple[Tensor, Tensor]:
        w, h = self.map_size
        score = torch.matmul(torch.matmul(self.ky, probmaps), self.kx_t)
        # The first best row and its first best column are the first best cell, sooner found than among all of them.
        y = score.amax(-1).argmax(-1, keepdim=True)
        score = score.flatten(2)
        x = score.gather(-1, y * w + self.columns).argmax(-1, keepdim=True)
        index = y * w + x

        def at(column: Tensor, row: Tensor) -> Tensor:
            return score.gather(-1, row * w + column)

        # Steps that stop at the border by a comparison: TensorRT has no Clip of integers.
        left, right = x - (x > 0).long(), x + (x < w - 1).long()
        above, below = y - (y > 0).long(), y + (y < h - 1).long()
        centre = at(x, y)
        inner_x, inner_y = (x > 0) & (x < w - 1), (y > 0) & (y < h - 1)
        if self.reference:
            inner_x = inner_y = inner_x & inner_y
        dx = _parabola_peak(at(left, y), centre, at(right, y)) * inner_x
        dy = _parabola_peak(at(x, above), centre, at(x, below)) * inner_y
        keypoints = torch.cat([x + dx, y + dy], dim=-1) * self.step + self.origin
        return keypoints, probmaps.flatten(2).gather(-1, index).squeeze(-1)


def _parabola_peak(before: Tensor, centre: Tensor, after: Tensor) -> Tensor:
    curvature = after + before - 2 * centre
    return (before - after) / 2 / (curvature + 1e-6 * (curvature == 0))
