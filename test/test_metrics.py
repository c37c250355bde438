"""Metrics of probabilities, and intervals, against other implementations and cases worked out by hand."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probpose_training.metrics import binary
from probpose_training.metrics.bootstrap import bootstrap

RNG = np.random.default_rng(0)


def test_threshold_search_is_the_first_best_one() -> None:
    labels = np.array([True, True, True, False])
    probabilities = np.array([0.9, 0.8, 0.4, 0.3])
    accuracy = [((probabilities > t) == labels).mean() for t in binary.THRESHOLDS]
    assert accuracy == binary.accuracy_curve(labels, probabilities).tolist()
    assert binary.search_threshold(labels, probabilities) == 0.3  # 0.30 and 0.35 are both perfect


def test_threshold_with_one_class_lets_everything_in() -> None:
    for labels in (np.ones(5, bool), np.zeros(5, bool), np.zeros(0, bool)):
        assert binary.search_threshold(labels, np.linspace(0, 1, len(labels))) == 0.0
    assert np.isnan(binary.accuracy_curve(np.ones(5, bool), np.ones(5), balanced=True)).all()


def test_balanced_accuracy_is_what_a_balanced_random_subset_shows() -> None:
    labels = RNG.random(2000) < 0.9
    probabilities = np.clip(RNG.normal(0.4 + 0.3 * labels, 0.2), 0, 1)
    outs = np.flatnonzero(~labels)
    subsets = [np.concatenate([outs, RNG.choice(np.flatnonzero(labels), len(outs), replace=False)]) for _ in range(300)]
    drawn = np.mean([binary.accuracy_curve(labels[rows], probabilities[rows]) for rows in subsets], axis=0)
    np.testing.assert_allclose(binary.accuracy_curve(labels, probabilities, balanced=True), drawn, atol=0.01)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auroc_is_the_share_of_ordered_pairs(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    expected = np.mean(pairs) if pairs else np.nan
    np.testing.assert_allclose(binary.auroc(labels, scores), expected, atol=1e-12)


def test_brier() -> None:
    assert binary.brier(np.array([1, 0]), np.array([0.8, 0.4])) == pytest.approx((0.04 + 0.16) / 2)


def test_reliability_of_calibrated_and_of_overconfident_probabilities() -> None:
    probabilities = RNG.random(20_000)
    outcomes = RNG.random(20_000) < probabilities
    curve = binary.reliability(outcomes, probabilities)
    assert curve.counts.sum() == 20_000 and np.ptp(curve.counts) <= 1
    assert curve.error < 0.02
    # The floor is what the same number of perfect samples show: small, and of the size measured here.
    floor = binary.chance_error(probabilities)
    assert 0.3 * floor < curve.error < 3 * floor
    assert binary.reliability(np.zeros(1000), np.full(1000, 0.3)).error == pytest.approx(0.3)


def test_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    values = RNG.normal(3, 2, 400)
    low, high = bootstrap(lambda rows: {"mean": values[rows].mean()}, range(400), draws=2000)["mean"]
    half = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_draws_whole_photographs() -> None:
    groups = np.repeat(np.arange(40), 10)
    values = RNG.normal(0, 1, 40)[groups]  # ten identical copies hold no more than one

    def mean(rows: np.ndarray) -> dict[str, float]:
        return {"mean": values[rows].mean()}

    together, apart = bootstrap(mean, groups), bootstrap(mean, range(400))
    assert np.ptp(together["mean"]) > 2 * np.ptp(apart["mean"])


def test_bootstrap_ignores_draws_without_a_value() -> None:
    result = bootstrap(lambda rows: {"x": float("nan"), "y": 1.0 if 0 in rows else float("nan")}, range(5), draws=50)
    assert np.isnan(result["x"]).all() and result["y"] == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least one image"):
        bootstrap(lambda rows: {}, [])


@pytest.mark.parametrize(
    "name", ["crop_augmentation", "coco", "metrics.binary", "metrics.exoks"],
)  # fmt: skip
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"probpose_training.{name}"))
    assert result.failed == 0 and result.attempted > 0
