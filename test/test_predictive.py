"""Predictive maps and highest-density regions, against sums over cells written out."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_world import sparse_maps

from probpose_ros.predictive import BINS, Mixture, Ranking, predictive_maps


def written_out(probmap: np.ndarray, mirrored: np.ndarray, mixture: Mixture) -> np.ndarray:
    """The formula, cell by cell."""
    h, w = probmap.shape
    top_y, top_x = np.unravel_index(probmap.argmax(), probmap.shape)
    tail, spread = np.zeros((h, w)), np.zeros((h, w))
    sharp = (1 - mixture.mirror - mixture.tail) * probmap.astype(float) + mixture.mirror * mirrored
    y, x = np.mgrid[:h, :w]
    for i, j in np.ndindex(h, w):
        tail[i, j] = (1 + ((i - top_y) ** 2 + (j - top_x) ** 2) / mixture.tail_width**2) ** -1.5
        kernel = (
            (y == i) & (x == j) if mixture.blur == 0 else np.exp(-((y - i) ** 2 + (x - j) ** 2) / 2 / mixture.blur**2)
        )
        spread += sharp[i, j] * kernel / kernel.sum()
    return spread + mixture.tail * tail / tail.sum()


@pytest.mark.parametrize(
    "mixture", [Mixture(0, 0, 1, 0), Mixture(0.1, 0.2, 3, 1.5), Mixture(0, 0.001, 0.5, 0), Mixture(0.3, 0, 1, 4)]
)
def test_predictive_map_is_the_formula(mixture):
    maps = sparse_maps(np.random.default_rng(0), 4)
    found = predictive_maps(maps[:2], maps[2:], np.tile(np.array(mixture), (2, 1)))
    assert found.dtype == np.float32
    for one, own, mirrored in zip(found, maps[:2], maps[2:], strict=True):
        np.testing.assert_allclose(one, written_out(own, mirrored, mixture), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), 1, atol=1e-5)


def test_each_row_has_its_own_mixture():
    maps = sparse_maps(np.random.default_rng(1), 3)
    mixtures = [Mixture(0.1, 0.2, 3, 1.5), Mixture(0, 0.1, 1, 0), Mixture(0.2, 0.1, 2, 1.5)]
    together = predictive_maps(maps, maps[::-1], np.array(mixtures))
    for i, mixture in enumerate(mixtures):
        alone = predictive_maps(maps[i : i + 1], maps[::-1][i : i + 1], np.array([mixture]))
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-6)


def test_scores_regions_and_counts_are_sums_over_cells():
    rng = np.random.default_rng(2)
    maps = sparse_maps(rng, 6)
    maps = predictive_maps(maps, maps[::-1], np.tile([0.1, 0.2, 2, 1], (6, 1)))
    ranking = Ranking(maps)
    thresholds = np.tile([0.0, 0.3, 0.5, 0.95, 0.999, np.inf], (6, 1))
    inside, counts = ranking.inside(thresholds), ranking.counts(thresholds)
    for n, probmap in enumerate(maps.astype(np.float64)):
        # An octave in 16 steps of the mantissa: the step is the value with all but 4 bits of its mantissa removed.
        mantissa, exponent = np.frexp(probmap)
        step = np.ldexp(np.floor(mantissa * 32) / 32, exponent)
        score = np.array([[probmap[step > step[y, x]].sum() for x in range(12)] for y in range(16)])
        for x, y in rng.integers(0, 12, (20, 2)):
            assert ranking.scores(np.array([[x, y]] * 6))[n] == pytest.approx(score[y, x], abs=1e-6)
        for level, threshold in enumerate(thresholds[n]):
            expected = score <= threshold
            np.testing.assert_array_equal(inside[level, n], expected)
            assert counts[n, level] == expected.sum() >= 1


def test_the_score_decides_membership_of_the_region_exactly():
    # What calibrates (scores) and what runs (inside) must agree at the threshold itself, not only near it.
    rng = np.random.default_rng(3)
    maps = predictive_maps(m := sparse_maps(rng, 50), m, np.tile([0, 0.1, 2, 1], (50, 1)))
    ranking, rows = Ranking(maps), np.arange(50)
    cells = np.column_stack([rng.integers(0, 12, 50), rng.integers(0, 16, 50)])
    scores = ranking.scores(cells)
    assert ranking.inside(scores[:, None])[0, rows, cells[:, 1], cells[:, 0]].all()
    positive = scores > 0
    below = ranking.inside(np.nextafter(scores, -1)[:, None])[0, rows, cells[:, 1], cells[:, 0]]
    assert positive.sum() > 20 and not below[positive].any()


def test_extreme_values_have_a_step():
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 0, 0], maps[0, 1, 1], maps[0, 2, 2] = 1, 1e-30, 1e-45
    ranking = Ranking(maps)
    assert ranking.bins.min() == 0 and ranking.bins.max() == BINS - 1
    assert ranking.inside(np.array([[np.inf]])).all()
