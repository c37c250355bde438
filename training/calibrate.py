"""Calibration: mixtures by maximum likelihood, conformal thresholds, presence and quality.

Photographs are split: FIT gives the mixtures and the borders of the quality bins, CAL the thresholds. What TEST then
shows is in calibration_report.py. All keypoints of a photograph stay on one side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import beta

from probpose_ros.calibration import KINDS, QUALITY_BINS, Calibration, Group, Knots, Presence, Subject, quality_bin
from probpose_ros.predictive import Mixture, Ranking, predictive_maps, tails
from probpose_ros.skeleton import JOINT_TYPES
from probpose_training.calibration_samples import Samples

FIT, CAL, TEST = 0, 1, 2
SHARES = (0.15, 0.45, 0.40)  # of the photographs
LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.99)
FAMILIES = ({"nose", "eye", "ear"}, {"shoulder", "elbow", "wrist"}, {"hip", "knee", "ankle"})
CHUNK = 256  # maps in hand at a time

# What maximum likelihood chooses from; the weights mirror and tail are found by expectation maximisation.
BLURS = (0.0, 0.5, 1.0, 1.5, 2.5, 4.0)
TAIL_WIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
LEAST_TAIL = 1e-3  # no cell of a predictive map may be 0
EM_STEPS = 60


@dataclass(frozen=True)
class Settings:
    """levels: ascending, in (0, 1). kind, delta, alpha, drop: of the Calibration.

    min_group: keypoints in CAL below which a group is merged with its neighbours.
    """

    levels: tuple[float, ...] = LEVELS
    kind: str = "marginal"
    delta: float = 0.05
    alpha: float = 0.05
    drop: float = 1e-3
    min_group: int = 500

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
    """The density at the true cell of every present keypoint, of each part of every mixture: computed once.

    own, mirrored: (BLURS, N); tail: (TAIL_WIDTHS, N); 0 where the keypoint is not present.
    """

    def __init__(self, samples: Samples) -> None:
        n = len(samples)
        self.own, self.mirrored = np.zeros((2, len(BLURS), n))
        self.tail = np.zeros((len(TAIL_WIDTHS), n))
        present = np.flatnonzero(samples.present)
        for rows in np.array_split(present, max(1, math.ceil(len(present) / CHUNK))):
            own, mirrored, cells = samples.own(rows), samples.mirrored(rows), samples.cells[rows]
            here = np.arange(len(rows)), cells[:, 1], cells[:, 0]
            for i, width in enumerate(TAIL_WIDTHS):
                self.tail[i, rows] = tails(own, np.full(len(rows), width, np.float32))[here]
            for i, blur in enumerate(BLURS):
                mixture = np.tile(Mixture(0, 0, 1, blur), (len(rows), 1))
                self.own[i, rows] = predictive_maps(own, own, mixture)[here]
                self.mirrored[i, rows] = predictive_maps(mirrored, mirrored, mixture)[here]

    def fit(self, rows: np.ndarray) -> Mixture:
        """The mixture of highest likelihood of these keypoints."""
        if not len(rows):
            return Mixture(0.02, 0.2, 4.0, 1.0)
        blurs, widths = len(BLURS), len(TAIL_WIDTHS)
        parts = np.empty((blurs, widths, 3, len(rows)))
        parts[:, :, 0], parts[:, :, 1] = self.own[:, None, rows], self.mirrored[:, None, rows]
        parts[:, :, 2] = self.tail[None, :, rows]
        weights = np.broadcast_to([0.8, 0.05, 0.15], (blurs, widths, 3)).copy()
        for _ in range(EM_STEPS):
            joint = weights[..., None] * parts
            weights = (joint / np.maximum(joint.sum(axis=2, keepdims=True), 1e-30)).mean(axis=-1)
            weights[..., 2] = np.maximum(weights[..., 2], LEAST_TAIL)
            weights /= weights.sum(axis=-1, keepdims=True)
        likelihood = np.log(np.maximum((weights[..., None] * parts).sum(axis=2), 1e-30)).mean(axis=-1)
        i, j = np.unravel_index(likelihood.argmax(), likelihood.shape)
        return Mixture(float(weights[i, j, 1]), float(weights[i, j, 2]), TAIL_WIDTHS[j], BLURS[i])


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
    counts = np.zeros((len(JOINT_TYPES), QUALITY_BINS), int)
    np.add.at(counts, (types[cal], bins[cal]), 1)
    groups = []
    for members in merge(counts, settings.min_group):
        chosen = np.zeros(counts.shape, bool)
        chosen[tuple(np.array(members).T)] = True
        its_fit, its_cal = (rows[chosen[types[rows], bins[rows]]] for rows in (fit, cal))
        # A mixture needs some keypoints of its own; a bin that FIT hardly has takes the mixture of all.
        mixture = likelihoods.fit(its_fit if len(its_fit) >= 10 else fit)
        found = scores(samples, its_cal, mixture)
        photographs = samples.photograph[its_cal]
        groups.append(
            Group(
                members=tuple((JOINT_TYPES[t], b) for t, b in members),
                n_fit=len(its_fit),
                n=len(its_cal),
                photographs=len(np.unique(photographs)),
                mixture=mixture,
                marginal=tuple(marginal_threshold(found, level) for level in settings.levels),
                pac=pac_thresholds(found, photographs, settings.levels, settings.delta),
            )
        )
    known = part != TEST
    return Calibration(
        subject=subject, kind=settings.kind, delta=settings.delta, levels=settings.levels, quality_edges=edges,
        groups=tuple(groups), presence=presence(samples, part == CAL, known, settings),
        quality=isotonic(samples.quality[known & present], samples.oks[known & present]),
        provenance=provenance or {},
    )  # fmt: skip


def quality_edges(types: np.ndarray, quality: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """By joint type, the quartiles of predicted quality; those of all joints for a type that has none."""
    shares = np.arange(1, QUALITY_BINS) / QUALITY_BINS
    return tuple(
        tuple(np.quantile(quality[types == t] if (types == t).any() else quality, shares).tolist())
        for t in range(len(JOINT_TYPES))
    )


def merge(counts: np.ndarray, least: int) -> list[list[tuple[int, int]]]:
    """Groups of (joint type, quality bin), of at least ``least`` keypoints each where there are as many at all.

    Alike joints of a bin join first (head, arms, legs), then all joints of a bin, then neighbouring bins.

    Args:
        counts: (T, QUALITY_BINS).
    """

    def size(group: list[tuple[int, int]]) -> int:
        return sum(counts[member] for member in group)

    families = [[JOINT_TYPES.index(name) for name in JOINT_TYPES if name in family] for family in FAMILIES]
    everything = [list(range(len(JOINT_TYPES)))]
    groups: list[list[tuple[int, int]]] = []
    waiting: list[tuple[int, int]] = []  # whole bins that are too small together
    for b in range(counts.shape[1]):
        here = [[(t, b)] for t in everything[0]]
        for parents in (families, everything):
            joined = []
            for parent in parents:
                children = [group for group in here if group[0][0] in parent]
                enough = min(map(size, children)) >= least
                joined += children if enough else [[member for group in children for member in group]]
            here = joined
        if waiting or len(here) == 1:
            waiting += [member for group in here for member in group]
            if size(waiting) < least:
                continue
            here, waiting = [waiting], []
        groups += here
    if waiting and groups:  # the highest bins are too small: they join the last bin that is not
        last = groups[-1][-1][1]
        waiting = [member for group in groups if group[-1][1] == last for member in group] + waiting
        groups = [group for group in groups if group[-1][1] != last]
    return groups + [waiting] if waiting else groups


def scores(samples: Samples, rows: np.ndarray, mixture: Mixture) -> np.ndarray:
    """(n,) the score of the truth of each of these present keypoints."""
    found = [
        ranking(samples, part, mixture).scores(samples.cells[part])
        for part in np.array_split(rows, max(1, math.ceil(len(rows) / CHUNK)))
    ]
    return np.concatenate(found)


def ranking(samples: Samples, rows: np.ndarray, mixture: Mixture) -> Ranking:
    mixtures = np.tile(np.array(mixture, np.float32), (len(rows), 1))
    return Ranking(predictive_maps(samples.own(rows), samples.mirrored(rows), mixtures))


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


def presence(samples: Samples, cal: np.ndarray, known: np.ndarray, settings: Settings) -> Presence:
    """Conformal scores from CAL; the reliability map, which promises nothing, from all that is known."""
    inside = samples.present
    return Presence(
        alpha=settings.alpha,
        drop=settings.drop,
        in_scores=tuple(np.sort(samples.presence[cal & inside]).tolist()),
        out_scores=tuple(np.sort(samples.presence[cal & ~inside]).tolist()),
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
                least = min(group.n if kind == "marginal" else group.photographs for group in few)
                unit = "keypoints" if kind == "marginal" else "photographs"
                lines.append(
                    f"{kind} {level:g}: too few samples in {len(few)} of {len(calibration.groups)} groups "
                    f"({least} {unit} in the smallest); there the region is the whole window and not valid"
                )
    return lines
