"""A world whose truth is known: joints drawn from known mixtures, presence from known probabilities."""

from __future__ import annotations

import numpy as np

from probpose_ros.predictive import Mixture, Predictor
from probpose_ros.skeleton import FLIP_INDEX, NUM_KEYPOINTS
from probpose_training.calibration_samples import Samples

TRUE_MIXTURE = Mixture(mirror=0.06, tail=0.25, scale=2.0)


def sparse_maps(rng: np.random.Generator, count: int, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """(count, h, w) float32: blobs of random place and width, exactly 0 in most cells, each summing to 1."""
    w, h = size
    x, y, width = rng.uniform(0, w, count), rng.uniform(0, h, count), rng.uniform(0.7, 2.5, count)
    distance = (np.arange(h)[:, None] - y[:, None, None]) ** 2 + (np.arange(w) - x[:, None, None]) ** 2
    maps = np.maximum(np.exp(-distance / (2 * width[:, None, None] ** 2)) - rng.uniform(0.1, 0.5, (count, 1, 1)), 0)
    maps.reshape(count, -1)[np.arange(count), distance.reshape(count, -1).argmin(axis=1)] += 1e-3
    return (maps / maps.sum(axis=(1, 2), keepdims=True)).astype(np.float32)


def draw_cells(rng: np.random.Generator, maps: np.ndarray) -> np.ndarray:
    """(N, 2) x, y of one cell of each map, drawn with the map's probabilities."""
    n, h, w = maps.shape
    cumulative = maps.reshape(n, -1).astype(np.float64).cumsum(axis=1)
    index = (cumulative < rng.random((n, 1)) * cumulative[:, -1:]).sum(axis=1)
    return np.column_stack([index % w, index // w])


def world(rng: np.random.Generator, persons: int, absent: bool = True) -> Samples:
    """Samples of persons of one photograph each, all joints labelled; presence is the probability to be present."""
    n = persons * NUM_KEYPOINTS
    maps = sparse_maps(rng, n).reshape(persons, NUM_KEYPOINTS, 16, 12)
    predictor = Predictor([TRUE_MIXTURE])
    predictive = predictor(maps.reshape(n, 16, 12), maps[:, FLIP_INDEX].reshape(n, 16, 12), np.zeros(n, int))
    points = draw_cells(rng, predictive) + rng.uniform(-0.499, 0.499, (n, 2))
    presence = rng.beta(2, 0.5, n) if absent else np.ones(n)
    points[rng.random(n) >= presence] = -10
    peak = maps.reshape(n, -1).argmax(axis=1)
    quality = rng.random(n)
    return Samples(
        maps=maps, cell_px=np.full(persons, 4.0), box_px=np.full(persons, 400.0),
        person=np.repeat(np.arange(persons), NUM_KEYPOINTS), joint=np.tile(np.arange(NUM_KEYPOINTS), persons),
        photograph=np.repeat(np.arange(persons), NUM_KEYPOINTS),
        points=points, decoded=np.column_stack([peak % 12, peak // 12]).astype(float),
        presence=presence, quality=quality, oks=(rng.random(n) < quality).astype(float), visibility=np.full(n, 2),
        logits=None, persons=persons,
    )  # fmt: skip
