"""Regions of calibrations and of conformal balls and ellipses, on the same maps and splits.

Both give, for test keypoints and levels, whether the region holds the truth and how many cells it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from probpose_ros.calibration import QUALITY_BINS, Calibration
from probpose_training.calibrate import CAL, TEST, chunks, marginal_threshold, ranking
from probpose_training.calibration_samples import Samples

SMALL = 30  # cells; below it an ellipse's area is computed, above it cells of the window are counted


class Ellipses:
    """Conformal ellipses about the decoded keypoint: thresholds of the distance, by joint type or other groups.

    shapes: (N, 2, 2) covariances in map px^2; the identity gives balls.
    """

    def __init__(self, samples: Samples, rows: np.ndarray, shapes: np.ndarray) -> None:
        self.samples, self.rows = samples, rows
        self.inverse, self.root = np.linalg.inv(shapes), np.sqrt(np.linalg.det(shapes))
        offset = samples.points[rows] - samples.decoded[rows]
        self.distance = np.sqrt(np.einsum("ni,nij,nj->n", offset, self.inverse, offset))

    def __call__(self, part: np.ndarray, group: np.ndarray, levels: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """held and cells (test, L); part, group: (n,) of the rows."""
        cal, test = part == CAL, np.flatnonzero(part == TEST)
        radius = np.full((group.max() + 1, len(levels)), math.inf)
        for g in np.unique(group[cal]):
            radius[g] = [marginal_threshold(self.distance[cal & (group == g)], level) for level in levels]
        radius = radius[group[test]]
        return self.distance[test, None] <= radius, self._cells(test, radius)

    def _cells(self, index: np.ndarray, radius: np.ndarray) -> np.ndarray:
        h, w = self.samples.maps.shape[2:]
        area = np.pi * radius**2 * self.root[index, None]
        counts = np.empty_like(area)
        grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).reshape(-1, 2)
        for part in chunks(np.arange(len(index))):
            offset = grid - self.samples.decoded[self.rows[index[part]], None]
            squared = np.einsum("nci,nij,ncj->nc", offset, self.inverse[index[part]], offset, optimize=True)
            squared.sort(axis=1)
            counts[part] = [np.searchsorted(row, r**2, side="right") for row, r in zip(squared, radius[part])]
        return np.where(area < SMALL, area, counts)


def calibrated(
    samples: Samples, rows: np.ndarray, calibration: Calibration, kinds: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """held and cells (n, L) of a calibration's regions of each kind."""
    shape = (len(rows), len(calibration.levels))
    answers = {kind: (np.zeros(shape, bool), np.zeros(shape)) for kind in kinds}
    types = samples.joint_type[rows]
    bins = calibration.bins(types, samples.quality[rows])
    for part in chunks(np.arange(len(rows))):
        mixture = types[part] * QUALITY_BINS + bins[part]
        ranked = ranking(samples, rows[part], calibration.predictor, mixture)
        score = ranked.scores(samples.cells[rows[part]])
        for kind, (held, cells) in answers.items():
            thresholds = calibration.thresholds(types[part], bins[part], samples.presence[rows[part]], kind)
            held[part] = score[:, None] <= thresholds
            cells[part] = np.count_nonzero(ranked.inside(thresholds), axis=(2, 3)).T
    return answers
