"""Calibration: mixtures by maximum likelihood, conformal thresholds, presence and quality.

Photographs are split: FIT gives the mixtures and the borders of the quality bins, CAL the thresholds. What TEST then
shows is in calibration_report.py. All keypoints of a photograph stay on one side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression, minimize
from scipy.stats import beta

from probpose_ros.calibration import (
    DOUBTFUL,
    KINDS,
    QUALITY_BINS,
    Calibration,
    Group,
    Knots,
    Presence,
    Subject,
    quality_bin,
)
from probpose_ros.predictive import Mixture, Predictor, Ranking
from probpose_ros.skeleton import JOINT_TYPES
from probpose_training.calibration_samples import Samples

FIT, CAL, TEST = 0, 1, 2
SHARES = (0.15, 0.45, 0.40)  # of the photographs
LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.99)
FAMILIES = ({"nose", "eye", "ear"}, {"shoulder", "elbow", "wrist"}, {"hip", "knee", "ankle"})
DOUBT = 0.15  # of the keypoints in the window, those of the lowest presence have thresholds of their own
DIVIDE = 5  # a joint type with so many times the least keypoints in every quality bin has thresholds for each bin
CHUNK = 256  # maps in hand at a time

# What maximum likelihood chooses from, and the least weight of each part, so that no cell of a predictive map is 0.
SCALES = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
LEAST = 1e-3
START = np.log([0.8, 0.05, 0.15])  # own map, mirrored, tail
# How strongly the log-odds of a mixture are held at START, and those of a joint type or quality bin at the others'.
HOLD_START, HOLD_TOGETHER = 0.5, 8.0


@dataclass(frozen=True)
class Settings:
    """levels: ascending, in (0, 1). kind, delta, alpha, drop: of the Calibration.

    min_group: keypoints in CAL below which joint types share thresholds.
    """

    levels: tuple[float, ...] = LEVELS
    kind: str = "marginal"
    delta: float = 0.05
    alpha: float = 0.05
    drop: float = 1e-3
    min_group: int = 100

    def __post_init__(self) -> None:
        for name in ("delta", "alpha", "levels"):
            for value in np.atleast_1d(getattr(self, name)):
                if not 0 < value < 1:
                    raise ValueError(f"{name} must lie between 0 and 1, got {value}")
        if not self.levels or list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels must ascend, got {list(self.levels)}")
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 <= self.drop <= 0.5:
            raise ValueError(f"drop must lie in 0 .. 0.5, got {self.drop}")
        if self.min_group < 1:
            raise ValueError(f"min_group must be at least 1, got {self.min_group}")


class Likelihoods:
    """The density at the true cell of present keypoints, of each part of every mixture: computed once.

    fitted: the keypoints that will be; None: any.
    parts: (SCALES, 3, N): own map, mirrored, tail; 0 where the keypoint is not present.
    """

    def __init__(self, samples: Samples, fitted: np.ndarray | None = None) -> None:
        self.parts = np.zeros((len(SCALES), 3, len(samples)))
        tails = Predictor([Mixture(0, 1, scale) for scale in SCALES])
        present = np.flatnonzero(samples.present)
        for rows in chunks(present if fitted is None else np.intersect1d(fitted, present)):
            own, mirrored, cells = samples.own(rows), samples.mirrored(rows), samples.cells[rows]
            here = np.arange(len(rows)), cells[:, 1], cells[:, 0]
            self.parts[:, 0, rows], self.parts[:, 1, rows] = own[here], mirrored[here]
            for i in range(len(SCALES)):
                self.parts[i, 2, rows] = tails(own, mirrored, np.full(len(rows), i))[here]

    def fit(self, rows: np.ndarray, types: np.ndarray, bins: np.ndarray) -> tuple[tuple[Mixture, ...], ...]:
        """Mixtures by joint type and quality bin, of highest likelihood.

        The log-odds of the weights are a joint type's term plus a bin's, so that few keypoints are enough: nine joint
        types in four bins are 36 mixtures, most with a handful of keypoints each. All have the same scale.

        Args:
            rows: the keypoints to fit. types, bins: (rows,) theirs.
        """
        one = np.ones((len(rows), 1))
        features = np.hstack([one, np.eye(len(JOINT_TYPES))[types], np.eye(QUALITY_BINS)[bins]])
        fits = [log_linear(parts[:, rows].T, features) for parts in self.parts]
        best = int(np.argmin([loss for _, loss in fits]))
        start, of_type, of_bin = np.split(fits[best][0], [1, 1 + len(JOINT_TYPES)])
        weights = softmax(start + of_type[:, None] + of_bin).round(6)
        return tuple(
            tuple(Mixture(float(mirror), float(tail), SCALES[best]) for _, mirror, tail in row) for row in weights
        )


def log_linear(parts: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients (F, 3) of the features in the log-odds of a mixture's weights, of highest likelihood; its loss.

    Args:
        parts: (n, 3) densities of the samples under each part. features: (n, F), the first of them 1.
    """
    hold = np.full((features.shape[1], 1), HOLD_TOGETHER)
    hold[0] = HOLD_START
    start = np.zeros((len(hold), 3))
    start[0] = START

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        coefficients = values.reshape(start.shape)
        weights = softmax(features @ coefficients)
        density = (weights * parts).sum(axis=1, keepdims=True) + 1e-30
        free = weights - LEAST  # what the log-odds move
        slope = free * parts / density
        slope -= free / (1 - 3 * LEAST) * slope.sum(axis=1, keepdims=True)
        moved = coefficients - start
        value = (hold * moved**2).sum() / 2 - np.log(density).sum()
        return float(value), (hold * moved - features.T @ slope).ravel()

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B")
    return found.x.reshape(start.shape), float(found.fun)


def softmax(log_odds: np.ndarray) -> np.ndarray:
    """Weights (..., 3), each at least LEAST."""
    weights = np.exp(log_odds - log_odds.max(axis=-1, keepdims=True))
    return LEAST + (1 - 3 * LEAST) * weights / weights.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def chunks(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, max(1, math.ceil(len(rows) / CHUNK)))


def split(photographs: int, seed: int, shares: Sequence[float] = SHARES) -> np.ndarray:
    """(photographs,) FIT, CAL or TEST, at random; a fold of two shares has no TEST."""
    place = np.random.default_rng(seed).permutation(photographs) + 0.5
    return np.searchsorted(np.cumsum(shares)[:-1] / np.sum(shares), place / photographs)


def calibrate(
    samples: Samples, likelihoods: Likelihoods, part: np.ndarray, settings: Settings, subject: Subject,
    provenance: dict[str, str] | None = None,
) -> Calibration:  # fmt: skip
    """A Calibration from the photographs that ``part`` (photographs,) puts into FIT and CAL."""
    part = part[samples.photograph]
    present, types = samples.present, samples.joint_type
    fit, cal = np.flatnonzero(present & (part == FIT)), np.flatnonzero(present & (part == CAL))
    if not len(fit) or not len(cal):
        raise ValueError(f"too few labelled keypoints in the window: {len(fit)} to fit, {len(cal)} to calibrate")
    edges = quality_edges(types[fit], samples.quality[fit])
    bins = quality_bin(edges, types, samples.quality)
    mixtures = likelihoods.fit(fit, types[fit], bins[fit])
    predictor = Predictor([mixture for row in mixtures for mixture in row])
    found = np.full(len(samples), np.nan)  # the score of each keypoint
    for rows in (fit, cal):
        found[rows] = scores(samples, rows, predictor, types[rows] * QUALITY_BINS + bins[rows])

    counts = np.zeros((len(JOINT_TYPES), QUALITY_BINS), int)
    np.add.at(counts, (types[cal], bins[cal]), 1)
    merged = merge(counts, settings.min_group)
    # Joints outside the image, yet in the window, are missed most; presence tells them best.
    doubt = float(np.quantile(samples.presence[fit], DOUBT))
    if (samples.presence[cal] < doubt).sum() >= settings.min_group:
        merged.append([(t, DOUBTFUL) for t in range(len(JOINT_TYPES))])
    else:
        doubt = 0.0
    group = np.empty((len(JOINT_TYPES), QUALITY_BINS + 1), int)
    for g, members in enumerate(merged):
        group[tuple(np.array(members).T)] = g
    group = group[types, np.where(samples.presence < doubt, DOUBTFUL, bins)]

    together = Together(samples, fit, cal, found, group)
    groups = []
    for g, members in enumerate(merged):
        its, photographs = found[cal[group[cal] == g]], samples.photograph[cal[group[cal] == g]]
        groups.append(
            Group(
                members=tuple((JOINT_TYPES[t], b) for t, b in members),
                n=len(its),
                photographs=len(np.unique(photographs)),
                marginal=tuple(marginal_threshold(its, level) for level in settings.levels),
                pac=pac_thresholds(its, photographs, settings.levels, settings.delta),
                simultaneous=together.thresholds(
                    g, [marginal_threshold(together.worst, level) for level in settings.levels]
                ),
                simultaneous_pac=together.thresholds(
                    g, pac_thresholds(together.worst, together.photographs, settings.levels, settings.delta)
                ),
            )
        )
    known = part != TEST
    return Calibration(
        subject=subject, kind=settings.kind, delta=settings.delta, levels=settings.levels, quality_edges=edges,
        mixtures=mixtures, groups=tuple(groups), doubt=doubt,
        persons=len(together.worst), photographs=len(np.unique(together.photographs)),
        presence=presence(samples, known, settings),
        quality=isotonic(samples.quality[known & present], samples.oks[known & present]),
        provenance=provenance or {},
    )  # fmt: skip


class Together:
    """Thresholds for all joints of a person at once: the conformal quantile of each person's least likely joint.

    A score becomes comparable between groups by its rank among the scores of FIT. worst: (P,) the highest rank of a
    person's joints in the window, of the persons of CAL; photographs: (P,) theirs.
    """

    def __init__(
        self, samples: Samples, fit: np.ndarray, cal: np.ndarray, found: np.ndarray, group: np.ndarray
    ) -> None:
        self.scores, self.ranks = [], []
        rank = np.empty(len(samples))
        for g in range(group.max() + 1):
            x, last = np.unique(found[fit[group[fit] == g]], return_counts=True)
            ranks = last.cumsum() / (last.sum() + 1)
            inner = (x > 0) & (x < 1)
            self.scores.append(np.concatenate([[0], x[inner], [1]]))
            self.ranks.append(np.concatenate([[0], ranks[inner], [1]]))
            its = cal[group[cal] == g]
            rank[its] = np.interp(found[its], self.scores[g], self.ranks[g])
        persons, place = np.unique(samples.person[cal], return_inverse=True)
        self.worst, self.photographs = np.zeros(len(persons)), np.empty(len(persons), int)
        np.maximum.at(self.worst, place, rank[cal])
        self.photographs[place] = samples.photograph[cal]

    def thresholds(self, group: int, ranks: Sequence[float]) -> tuple[float, ...]:
        """The scores of these ranks in a group; infinity stays."""
        return tuple(
            float(np.interp(rank, self.ranks[group], self.scores[group])) if math.isfinite(rank) else math.inf
            for rank in ranks
        )


def quality_edges(types: np.ndarray, quality: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """By joint type, the quartiles of predicted quality; those of all joints for a type that has none."""
    shares = np.arange(1, QUALITY_BINS) / QUALITY_BINS
    return tuple(
        tuple(np.quantile(quality[types == t] if (types == t).any() else quality, shares).tolist())
        for t in range(len(JOINT_TYPES))
    )


def merge(counts: np.ndarray, least: int) -> list[list[tuple[int, int]]]:
    """Groups of (joint type, quality bin) that share thresholds: at least ``least`` keypoints where there are as many.

    A joint type is a group; with DIVIDE times as many keypoints in each bin, each of its bins is one. With too few,
    alike joints (head, arms, legs) are one group, and if that is not enough, all joints.

    Args:
        counts: (T, QUALITY_BINS).
    """

    def whole(types: Sequence[int]) -> list[tuple[int, int]]:
        return [(t, b) for t in types for b in range(counts.shape[1])]

    groups = []
    for family in FAMILIES:
        types = [t for t, name in enumerate(JOINT_TYPES) if name in family]
        if counts[types].sum() < least:
            return [whole(range(len(counts)))]
        if counts[types].sum(axis=1).min() < least:
            groups.append(whole(types))
            continue
        for t in types:
            divided = counts[t].min() >= DIVIDE * least
            groups += [[member] for member in whole([t])] if divided else [whole([t])]
    return groups


def scores(samples: Samples, rows: np.ndarray, predictor: Predictor, mixture: np.ndarray) -> np.ndarray:
    """(n,) the score of the truth of each of these present keypoints; mixture: (n,) indices of the predictor's."""
    found = np.empty(len(rows))
    for part in chunks(np.arange(len(rows))):
        found[part] = ranking(samples, rows[part], predictor, mixture[part]).scores(samples.cells[rows[part]])
    return found


def ranking(samples: Samples, rows: np.ndarray, predictor: Predictor, mixture: np.ndarray) -> Ranking:
    return Ranking(predictor(samples.own(rows), samples.mirrored(rows), mixture))


def marginal_threshold(found: np.ndarray, level: float) -> float:
    """The conformal quantile: a new exchangeable score is at most this with probability >= level; else infinity.

    >>> marginal_threshold(np.arange(19.0), 0.95), marginal_threshold(np.arange(18.0), 0.95)
    (18.0, inf)
    """
    rank = math.ceil((len(found) + 1) * level - 1e-9)
    return float(np.sort(found)[rank - 1]) if rank <= len(found) else math.inf


def pac_rank(n: int, level: float, delta: float) -> int | None:
    """The smallest rank whose coverage is at least ``level`` with confidence 1 - delta; None: n is too small.

    >>> pac_rank(58, 0.95, 0.05), pac_rank(59, 0.95, 0.05)
    (None, 59)
    """
    ranks = np.arange(1, n + 1)
    enough = np.flatnonzero(beta.cdf(level, ranks, n + 1 - ranks) <= delta)
    return int(ranks[enough[0]]) if len(enough) else None


def pac_thresholds(
    found: np.ndarray, photographs: np.ndarray, levels: Sequence[float], delta: float, seed: int = 0
) -> tuple[float, ...]:
    """PAC thresholds from one random keypoint of each photograph: those are independent, all keypoints are not."""
    order = np.random.default_rng(seed).permutation(len(found))
    _, first = np.unique(photographs[order], return_index=True)
    drawn = np.sort(found[order[first]])
    ranks = [pac_rank(len(drawn), level, delta) for level in levels]
    return tuple(math.inf if rank is None else float(drawn[rank - 1]) for rank in ranks)


def presence(samples: Samples, known: np.ndarray, settings: Settings) -> Presence:
    """From all that is known: the scores are the network's own, nothing in FIT was fitted for them."""
    inside = samples.present
    return Presence(
        alpha=settings.alpha,
        drop=settings.drop,
        in_scores=tuple(np.sort(samples.presence[known & inside]).tolist()),
        out_scores=tuple(np.sort(samples.presence[known & ~inside]).tolist()),
        reliability=isotonic(samples.presence[known], inside[known], prior=0.5),
    )


def isotonic(predicted: np.ndarray, outcome: np.ndarray, prior: float = 0.0) -> Knots:
    """Rising map from predictions to mean outcomes, through the middles of the blocks of isotonic regression.

    prior: pseudo-outcomes 0 and 1 added to each block, so that a probability never becomes 0 or 1.
    """
    x, place, count = np.unique(predicted.astype(np.float64), return_inverse=True, return_counts=True)
    outcome = np.bincount(place, outcome) / count  # equal predictions are one point
    fitted = isotonic_regression(outcome, weights=count)
    starts = fitted.blocks[:-1]
    size = np.add.reduceat(count, starts)
    middle = np.add.reduceat(x * count, starts) / size
    value = np.maximum.accumulate((fitted.x[starts] * size + prior) / (size + 2 * prior))
    return Knots(tuple(middle.tolist()), tuple(value.clip(0, 1).tolist()))


def unsupported(calibration: Calibration) -> list[str]:
    """One line for every level and kind at which some group has too few samples: its region is the whole window."""
    lines = []
    for kind in KINDS:
        for i, level in enumerate(calibration.levels):
            few = [group for group in calibration.groups if math.isinf(getattr(group, kind)[i])]
            if few:
                least = {
                    "marginal": f"{min(group.n for group in few)} keypoints in the smallest",
                    "pac": f"{min(group.photographs for group in few)} photographs in the smallest",
                    "simultaneous": f"{calibration.persons} persons",
                    "simultaneous_pac": f"{calibration.photographs} photographs",
                }[kind]
                lines.append(
                    f"{kind} {level:g}: too few samples in {len(few)} of {len(calibration.groups)} groups ({least}; "
                    f"needed {needed(level, calibration.delta if 'pac' in kind else None)}); "
                    "there the region is the whole window and not valid"
                )
    return lines


def needed(level: float, delta: float | None = None) -> int:
    """The fewest samples that support a level; delta: of a PAC threshold.

    >>> needed(0.95), needed(0.99), needed(0.95, 0.05), needed(0.99, 0.05)
    (19, 99, 59, 299)
    """
    if delta is None:
        return math.ceil(level / (1 - level) - 1e-9)
    return math.ceil(math.log(delta) / math.log(level))
