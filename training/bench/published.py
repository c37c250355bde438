"""The published way from crops to keypoints, rebuilt from its description: what ours is measured against.

torch in eager mode, four separate scalar branches, sparsemax by a full sort, and for every keypoint a convolution with
the two-dimensional OKS kernel by SciPy. The same answers as ours, at the published cost.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import convolve
from torch import nn

from probpose_ros.codec import Codec
from probpose_training.graph import normalise
from probpose_training.network import ProbPose
from probpose_training.sparsemax import sparsemax_sort


class PublishedPath:
    """crops (N, H, W, 3) uint8 BGR -> keypoints (N, K, 2) crop px, scores (N, K), and four scalars (4, N, K).

    model: with the official layout, in evaluation mode. codec: profile ``reference``.
    """

    def __init__(self, model: ProbPose, codec: Codec) -> None:
        self.model, self.codec = model, codec
        self.kernels = [_kernel(s) for s in codec.variance]

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        head, device = self.model.head, next(self.model.parameters()).device
        features = self.model.backbone(normalise(torch.from_numpy(crops).to(device)))[-1]
        logits = head.final_layer(head.deconv_layers(features))
        layers: list[nn.Module] = [head.probability_layers, head.visibility_layers, head.oks_layers]
        scalars = [layer(features).flatten(1).sigmoid() for layer in layers]
        scalars.append(head.error_layers(features).flatten(1).relu())
        maps = sparsemax_sort(logits.flatten(2) / self.model.config.temperature).clamp(0, 1).view(logits.shape)
        decoded = [self.decode(person) for person in maps.cpu().numpy()]
        points, scores = map(np.stack, zip(*decoded, strict=True))
        return points, scores, torch.stack(scalars).cpu().numpy()

    def decode(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(K, h, w) -> points (K, 2) crop px, scores (K,)."""
        points, scores = [], []
        for p, kernel in zip(maps, self.kernels, strict=True):
            e = convolve(p, kernel, mode="reflect")
            y, x = np.unravel_index(int(e.argmax()), e.shape)
            point = np.array([x, y], float)
            if 0 < x < e.shape[1] - 1 and 0 < y < e.shape[0] - 1:
                for axis, line in enumerate((e[y, x - 1 : x + 2], e[y - 1 : y + 2, x])):
                    bend = line[0] + line[2] - 2 * line[1]
                    point[axis] -= (line[2] - line[0]) / 2 / (bend or 1e-6)
            points.append(point)
            scores.append(p[y, x])
        return self.codec.to_crop(np.array(points)), np.array(scores)


def _kernel(s: float) -> np.ndarray:
    radius = int(np.ceil(3 * s))
    r = np.arange(-radius, radius + 1)
    kernel = np.exp(-(r[:, None] ** 2 + r[None] ** 2) / (2 * s))
    return (kernel / kernel.sum()).astype(np.float32)


def plain_regions(maps: np.ndarray, levels: list[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Highest-density regions the plain NumPy way, keypoint by keypoint: masks with their mean and covariance."""
    found = []
    rows, columns = np.indices(maps.shape[1:])
    places = np.column_stack([columns.ravel(), rows.ravel()])
    for p in maps.reshape(len(maps), -1):
        order = np.argsort(-p)
        mass = p[order].cumsum()
        for level in levels:
            cells = order[: int((mass < level * mass[-1]).sum()) + 1]
            found.append((places[cells].mean(axis=0), np.cov(places[cells].T, aweights=p[cells], bias=True)))
    return found
