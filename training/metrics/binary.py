"""How good a probability is: threshold, accuracy, ranking, calibration. For presence, visibility and quality alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.round(np.arange(21) * 0.05, 2)  # of the published search
BINS = 15


def accuracy_curve(labels: np.ndarray, probabilities: np.ndarray, balanced: bool = False) -> np.ndarray:
    """(21,) accuracy of ``probability > threshold`` at THRESHOLDS (paper, Fig. 5).

    balanced: the expected accuracy on a random subset with as many of either class, which is the mean of the two
    classes' accuracies; NaN if a class is empty.
    """
    labels = np.asarray(labels, dtype=bool)
    correct = (np.asarray(probabilities)[None] > THRESHOLDS[:, None]) == labels[None]
    if not balanced:
        return correct.mean(axis=1) if len(labels) else np.full(len(THRESHOLDS), np.nan)
    if labels.all() or not labels.any():
        return np.full(len(THRESHOLDS), np.nan)
    return (correct[:, labels].mean(axis=1) + correct[:, ~labels].mean(axis=1)) / 2


def search_threshold(labels: np.ndarray, probabilities: np.ndarray, balanced: bool = False) -> float:
    """The first threshold of the highest accuracy. With one class only there is nothing to search: 0, everything is in.

    >>> search_threshold(np.array([True, True, False]), np.array([0.9, 0.4, 0.32]))
    0.35
    """
    labels = np.asarray(labels, dtype=bool)
    if labels.all() or not labels.any():
        return 0.0
    return float(THRESHOLDS[accuracy_curve(labels, probabilities, balanced).argmax()])


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties half. NaN if a class is empty.

    >>> auroc(np.array([1, 0, 1, 0]), np.array([0.9, 0.1, 0.4, 0.4]))
    0.875
    """
    from scipy.stats import rankdata

    labels = np.asarray(labels, dtype=bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    ranks = rankdata(scores)[labels].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean squared error of the probability; ``labels`` may also be numbers in [0, 1]."""
    labels = np.asarray(labels, dtype=np.float64)
    return float(((np.asarray(probabilities) - labels) ** 2).mean()) if len(labels) else float("nan")


@dataclass(frozen=True)
class Reliability:
    """One row a bin: mean prediction, mean outcome, number of samples; bins of equal size, not equal width."""

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error (ECE): mean absolute difference, weighted by the samples."""
        if not self.counts.sum():
            return float("nan")
        return float((np.abs(self.predicted - self.observed) * self.counts).sum() / self.counts.sum())


def reliability(outcomes: np.ndarray, predictions: np.ndarray, bins: int = BINS) -> Reliability:
    """Reliability curve of predictions in [0, 1] for outcomes in {0, 1} or [0, 1]."""
    outcomes, predictions = np.asarray(outcomes, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    parts = [part for part in np.array_split(np.argsort(predictions, kind="stable"), bins) if len(part)]
    return Reliability(
        np.array([predictions[part].mean() for part in parts]),
        np.array([outcomes[part].mean() for part in parts]),
        np.array([len(part) for part in parts], dtype=int),
    )


def chance_error(probabilities: np.ndarray, draws: int = 200, seed: int = 0) -> float:
    """The ECE that perfectly calibrated probabilities would show on this many samples: the floor of the measurement."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    rng = np.random.default_rng(seed)
    outcomes = rng.random((draws, len(probabilities))) < probabilities
    return (
        float(np.mean([reliability(row, probabilities).error for row in outcomes]))
        if len(probabilities)
        else float("nan")
    )
