"""Predictive maps and highest-density regions, against sums over cells written out."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_world import sparse_maps

from probpose_ros.predictive import Mixture, Predictor, Ranking

ONE_GROUP = np.zeros(1000, int)


def written_out(probmap: np.ndarray, mirrored: np.ndarray, mixture: Mixture) -> np.ndarray:
    """The formula, with NumPy's covariance of the map's cells."""
    h, w = probmap.shape
    places = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).reshape(-1, 2)
    weights = probmap.ravel().astype(np.float64)
    offset = places - np.average(places, axis=0, weights=weights)
    covariance = np.cov(places.T, aweights=weights, ddof=0) + np.eye(2) / 12  # mass fills its cell
    distance = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance), offset)
    tail = ((1 + distance / mixture.scale**2) ** -2).reshape(h, w)
    own = 1 - mixture.mirror - mixture.tail
    return own * probmap.astype(float) + mixture.mirror * mirrored + mixture.tail * tail / tail.sum()


@pytest.mark.parametrize(
    "mixture", [Mixture(0, 0.001, 1), Mixture(0.1, 0.2, 3), Mixture(0.3, 0.1, 0.7), Mixture(0, 1, 8)]
)
def test_predictive_map_is_the_formula(mixture):
    maps = sparse_maps(np.random.default_rng(0), 8)
    maps.flags.writeable = False
    found = Predictor([mixture])(maps[:4], maps[4:], ONE_GROUP[:4])
    assert found.dtype == np.float32
    for one, own, mirrored in zip(found, maps[:4], maps[4:], strict=True):
        np.testing.assert_allclose(one, written_out(own, mirrored, mixture), rtol=1e-3)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), 1, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 36), (64, 48), (110, 90)])
def test_a_map_of_one_cell_has_a_tail_of_that_size(size):
    # The smallest covariance, far from the middle: the worst for the polynomial in float32.
    maps = np.zeros((2, *size), np.float32)
    maps[0, 0, 0] = maps[1, -1, 3] = 1
    mixture = Mixture(0, 0.2, 0.7)
    for one, own in zip(Predictor([mixture])(maps, maps, ONE_GROUP[:2]), maps, strict=True):
        np.testing.assert_allclose(one, written_out(own, own, mixture), rtol=0.05)
    assert (one > 0).all()


def test_each_row_has_its_own_mixture():
    maps = sparse_maps(np.random.default_rng(1), 3)
    maps.flags.writeable = False
    mixtures = [Mixture(0.1, 0.2, 3), Mixture(0, 0.1, 1), Mixture(0.2, 0.1, 3)]
    order = np.array([2, 0, 1])
    together = Predictor(mixtures)(maps, maps[::-1], order)
    for i, group in enumerate(order):
        alone = Predictor([mixtures[group]])(maps[i : i + 1], maps[::-1][i : i + 1], ONE_GROUP[:1])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-4)


def test_scores_and_regions_are_sums_over_cells():
    rng = np.random.default_rng(2)
    maps = sparse_maps(rng, 6)
    maps = Predictor([Mixture(0.1, 0.2, 2)])(maps, maps[::-1], ONE_GROUP[:6])
    ranking = Ranking(maps)
    thresholds = np.tile([0.0, 0.3, 0.5, 0.95, 0.999, np.inf], (6, 1))
    inside = ranking.inside(thresholds)
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
            assert expected.any()


def test_the_score_decides_membership_of_the_region_exactly():
    # What calibrates (scores) and what runs (inside) must agree at the threshold itself, not only near it.
    rng = np.random.default_rng(3)
    maps = Predictor([Mixture(0, 0.1, 2)])(m := sparse_maps(rng, 50), m, ONE_GROUP[:50])
    ranking, rows = Ranking(maps), np.arange(50)
    cells = np.column_stack([rng.integers(0, 12, 50), rng.integers(0, 16, 50)])
    scores = ranking.scores(cells)
    assert ranking.inside(scores[:, None])[0, rows, cells[:, 1], cells[:, 0]].all()
    positive = scores > 0
    below = ranking.inside(np.nextafter(scores, -1)[:, None])[0, rows, cells[:, 1], cells[:, 0]]
    assert positive.sum() > 20 and not below[positive].any()


def test_the_fewest_steps_that_reach_a_mass():
    maps = sparse_maps(np.random.default_rng(4), 5)
    ranking, masses = Ranking(maps), [0.3, 0.9, 1.0]
    cells = np.stack(np.meshgrid(np.arange(12), np.arange(16)), axis=-1).reshape(-1, 1, 2).repeat(5, axis=1)
    scores = np.array([ranking.scores(cell) for cell in cells]).T
    for inside, mass in zip(ranking.reaching(masses), masses, strict=True):
        held = (maps * inside).sum(axis=(1, 2), dtype=np.float64)
        assert (held >= mass - 1e-6).all() and not (inside & (maps == 0)).any()
        # Without its thinnest step it would not reach the mass.
        assert all(
            (row[row < total - 1e-9].max(initial=0) < mass + 1e-6) for row, total in zip(scores, held, strict=True)
        )


def test_extreme_values_have_a_step():
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 0, 0], maps[0, 1, 1], maps[0, 2, 2] = 1, 1e-30, 1e-45
    ranking = Ranking(maps)
    cells = np.array([[0, 0], [1, 1], [2, 2], [3, 3]])
    assert [float(ranking.scores(cell[None])[0]) for cell in cells] == [0, 1, 1, 1]
    assert ranking.inside(np.array([[np.inf]])).all() and ranking.inside(np.array([[0.5]])).sum() == 1
