"""What calibrated regions cover on photographs that did not calibrate them: measured over many reshuffles."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logit
from scipy.stats import beta
from tqdm import tqdm

from probpose_ros.calibration import QUALITY_BINS, SUFFIX, Calibration, Subject, quality_bin
from probpose_ros.moments import covariances
from probpose_ros.serialize import to_json
from probpose_ros.skeleton import JOINT_TYPES
from probpose_ros.types import KeypointState
from probpose_training.calibrate import DOUBT, TEST, Likelihoods, Settings, calibrate, quality_edges, split
from probpose_training.calibration_baselines import Ellipses, calibrated
from probpose_training.calibration_samples import Samples
from probpose_training.crop_augmentation import OCCLUDED, OUTSIDE_IMAGE, VISIBLE
from probpose_training.metrics import binary
from probpose_training.metrics.bootstrap import bootstrap
from probpose_training.temperature import TEMPERATURES, MapMass, Temperatures

OURS = "ours"
KINDS = ("marginal", "simultaneous")
STRATUM_LEVEL = 0.95
SMALL_BOX = 96**2  # px^2


def zero_share(samples: Samples) -> dict[str, Any]:
    """Share of present keypoints whose true cell has probability exactly 0: what no mass threshold can hold."""
    rows = np.flatnonzero(samples.present)
    cells = samples.cells[rows]
    zero = samples.own(rows)[np.arange(len(rows)), cells[:, 1], cells[:, 0]] == 0

    def shares(group: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        return {
            name: {"n": int((group == g).sum()), "share": float(zero[group == g].mean())}
            for g, name in enumerate(names) if (group == g).any()
        }  # fmt: skip

    types = samples.joint_type[rows]
    bins = quality_bin(quality_edges(types, samples.quality[rows]), types, samples.quality[rows])
    return {
        "n": len(rows), "share": float(zero.mean()),
        "joints": shares(types, JOINT_TYPES),
        "quality": shares(bins, [f"quality quarter {b + 1}" for b in range(QUALITY_BINS)]),
    }  # fmt: skip


def coverage(
    samples: Samples, likelihoods: Likelihoods, settings: Settings, subject: Subject, reshuffles: int
) -> dict[str, Any]:  # fmt: skip
    """Every method on the TEST part of every reshuffle, and the intervals of ours."""
    rows = np.flatnonzero(samples.present)
    levels, truth = settings.levels, samples.cells[rows]
    own = samples.own(rows)
    types, photographs = samples.joint_type[rows], samples.photograph[rows]
    box_share = (samples.cell_px / samples.box_px)[samples.person[rows]]
    window = own[0].size
    raw = MapMass(own, truth, levels)
    temperature = None if samples.logits is None else Temperatures(samples.logits[rows], truth, levels)
    balls = Ellipses(samples, rows, np.broadcast_to(np.eye(2), (len(rows), 2, 2)))
    ellipses = Ellipses(samples, rows, covariances(own))

    totals: dict[str, _Total] = {}
    pooled: list[np.ndarray] = []
    together = {kind: _TogetherTotal(samples, rows, len(levels), box_share) for kind in KINDS}
    presence = _PresenceTotal(samples)
    quality: list[tuple[float, float]] = []
    first: tuple[float, float, int] = (math.nan, math.nan, 0)
    chosen: list[int] = []
    for seed in tqdm(range(reshuffles), unit="reshuffle", desc="coverage"):
        part = split(int(samples.photograph.max()) + 1, seed)
        calibration = calibrate(samples, likelihoods, part, settings, subject)
        here = part[photographs]
        test = np.flatnonzero(here == TEST)
        ours = calibrated(samples, rows[test], calibration, KINDS)
        for kind in KINDS:
            together[kind].add(test, *ours[kind])
        answers = {OURS: ours["marginal"]}
        answers["raw map mass"] = raw.held[test], raw.cells[test]
        if temperature:
            best = temperature.best(np.flatnonzero(here != TEST))
            chosen.append(best)
            mass = temperature.masses[best]
            answers["temperature scaling (paper)"] = mass.held[test], mass.cells[test]
        answers["conformal ball"] = balls(here, types, levels)
        answers["conformal ball, by quality"] = balls(here, calibration.bins(types, samples.quality[rows]), levels)
        answers["conformal ellipse"] = ellipses(here, types, levels)
        for name, (held, cells) in answers.items():
            totals.setdefault(name, _Total(len(rows), len(levels))).add(test, held, cells, window)
        held = answers[OURS][0]
        pooled.append(held.mean(axis=0))
        if seed == 0:
            first = _one_per_photograph(held[:, _nearest(levels)], photographs[test])
        presence.add(part, calibration)
        its = rows[test]
        quality.append((
            binary.reliability(samples.oks[its], samples.quality[its]).error,
            binary.reliability(samples.oks[its], calibration.quality(samples.quality[its])).error,
        ))  # fmt: skip

    methods = {name: total.table(levels, box_share) for name, total in totals.items()}
    share = totals[OURS].share()
    spread = np.quantile(pooled, [0.025, 0.975], axis=0)
    intervals = _intervals(share, photographs, levels)
    return {
        "keypoints": len(rows), "photographs": len(np.unique(samples.photograph)), "reshuffles": reshuffles,
        "persons": samples.persons, "persons_without_box": samples.persons - len(samples.maps),
        "levels": list(levels), "zeros": zero_share(samples), "methods": methods,
        "spread": {str(level): spread[:, i].tolist() for i, level in enumerate(levels)},
        "ci95": {str(level): list(intervals[str(level)]) for level in levels},
        "one_keypoint_per_photograph": {
            "level": levels[_nearest(levels)], "ci95": list(first[:2]), "photographs": first[2],
        },
        "together": {kind: total.table(levels) for kind, total in together.items()},
        "strata": _strata(samples, rows, share[:, _nearest(levels)], totals[OURS], box_share, _nearest(levels)),
        "temperatures": [TEMPERATURES[i] for i in chosen], "presence": presence.table(settings),
        "quality_error": np.mean(quality, axis=0).tolist(),
    }  # fmt: skip


class _Total:
    """Sums over reshuffles, for every keypoint."""

    def __init__(self, n: int, levels: int) -> None:
        self.held, self.cells, self.whole, self.count = *np.zeros((3, n, levels)), np.zeros((n, 1))

    def add(self, test: np.ndarray, held: np.ndarray, cells: np.ndarray, window: int) -> None:
        self.held[test] += held
        self.cells[test] += cells
        self.whole[test] += cells >= window
        self.count[test] += 1

    def share(self) -> np.ndarray:
        """(N, L) how often each keypoint was held when it was in TEST; NaN if it never was."""
        with np.errstate(invalid="ignore"):
            return self.held / self.count

    def table(self, levels: Sequence[float], box_share: np.ndarray) -> dict[str, dict[str, float]]:
        """By level: coverage over all draws, area relative to the box, share of whole windows.

        The area at exactly that coverage is interpolated between the levels: methods are compared at equal coverage.
        """
        total = self.count.sum()
        covered, areas = self.held.sum(axis=0) / total, np.nansum(self.cells * box_share[:, None], axis=0) / total
        with np.errstate(invalid="ignore"):
            area = self.cells / self.count * box_share[:, None]
        return {
            str(level): {
                "coverage": float(covered[i]),
                "mean_area_per_box": float(areas[i]),
                "mean_area_per_box_at_coverage": area_at(level, covered, areas),
                "median_area_per_box": float(np.nanmedian(area[:, i])),
                "whole_window": float(self.whole[:, i].sum() / total),
            }
            for i, level in enumerate(levels)
        }


def area_at(level: float, covered: np.ndarray, areas: np.ndarray) -> float:
    """The area at this coverage, of a method that has these at rising levels; NaN where it reaches no such coverage.

    Between two levels the logarithm of the area is linear in the log-odds of the coverage.

    >>> round(area_at(0.9, np.array([0.8, 0.9]), np.array([1.0, 3.0])), 6)
    3.0
    """
    if not covered.min() <= level <= covered.max():
        return math.nan
    odds = logit(np.append(covered, level).clip(1e-9, 1 - 1e-9))
    return float(np.exp(np.interp(odds[-1], odds[:-1], np.log(np.maximum(areas, 1e-12)))))


class _TogetherTotal:
    """Persons all of whose joints in the window are held, and the mean area of their regions."""

    def __init__(self, samples: Samples, rows: np.ndarray, levels: int, box_share: np.ndarray) -> None:
        self.person, self.box_share = samples.person[rows], box_share
        persons, first = np.unique(self.person, return_index=True)
        self.photographs = np.full(persons.max() + 1, -1)
        self.photographs[persons] = samples.photograph[rows[first]]
        self.held, self.count = np.zeros((len(self.photographs), levels)), np.zeros((len(self.photographs), 1))
        self.area, self.keypoints = np.zeros(levels), 0

    def add(self, test: np.ndarray, held: np.ndarray, cells: np.ndarray) -> None:
        persons, place = np.unique(self.person[test], return_inverse=True)
        everything = np.ones((len(persons), held.shape[1]), bool)
        np.logical_and.at(everything, place, held)
        self.held[persons] += everything
        self.count[persons] += 1
        self.area += (cells * self.box_share[test, None]).sum(axis=0)
        self.keypoints += len(test)

    def table(self, levels: Sequence[float]) -> dict[str, Any]:
        """By level: coverage of persons with its interval over photographs, and mean area of a region."""
        tested = self.count[:, 0] > 0
        share = self.held[tested] / self.count[tested]
        intervals = _intervals(share, self.photographs[tested], levels)
        area = self.area / self.keypoints
        return {
            "persons": int(tested.sum()),
            "levels": {
                str(level): {
                    "coverage": float(self.held[:, i].sum() / self.count.sum()), "ci95": list(intervals[str(level)]),
                    "mean_area_per_box": float(area[i]),
                }
                for i, level in enumerate(levels)
            },
        }  # fmt: skip


class _PresenceTotal:
    """Presence on TEST, after calibration."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.figures: list[dict[str, float]] = []
        # Of keypoints in and out of the window, by whether the reshuffle had enough examples to call anything OUT.
        self.states = np.zeros((2, 2, len(KeypointState)), int)
        self.enough = 0  # such reshuffles

    def add(self, part: np.ndarray, calibration: Calibration) -> None:
        test = part[self.samples.photograph] == TEST
        present, raw = self.samples.present[test], self.samples.presence[test]
        states, probability = calibration.presence.states(raw), calibration.presence.reliability(raw)
        enough = int(1 <= calibration.presence.drop * (len(calibration.presence.in_scores) + 1))
        for counts, where in zip(self.states[enough], (present, ~present), strict=True):
            counts += np.bincount(states[where], minlength=len(counts))
        self.enough += enough
        p = np.clip(probability, 1e-6, 1 - 1e-6)
        self.figures.append({
            "auroc": binary.auroc(present, raw), "brier": binary.brier(present, probability),
            "brier_raw": binary.brier(present, raw),
            "nll": float(-np.where(present, np.log(p), np.log(1 - p)).mean()),
            "ece": binary.reliability(present, probability).error, "ece_raw": binary.reliability(present, raw).error,
            "ece_of_perfect_calibration": binary.chance_error(probability, draws=20),
        })  # fmt: skip

    def table(self, settings: Settings) -> dict[str, Any]:
        means = {name: float(np.nanmean([row[name] for row in self.figures])) for name in self.figures[0]}
        inside = self.samples.present
        n_in, n_out = int(inside.sum()), int((~inside).sum())
        photographs = len(np.unique(self.samples.photograph[inside]))
        # Where nothing can be called OUT, nothing is: that would flatter the rate.
        states = self.states[int(self.enough > 0)]
        called = states / np.maximum(states.sum(axis=1, keepdims=True), 1)
        rate = float(called[0, KeypointState.OUT])
        return {
            **means, "in": n_in, "out": n_out, "alpha": settings.alpha, "drop": settings.drop,
            "called_out_given_present": rate,
            # As if the keypoints were independent, which they are not; and one of each photograph, which are.
            "called_out_upper_bound": clopper_pearson(round(rate * n_in), n_in)[1],
            "called_out_upper_bound_photographs": clopper_pearson(round(rate * photographs), photographs)[1],
            "photographs": photographs,
            "photographs_for_bound": enough_for(settings.drop) if settings.drop else 0,
            "called_in_given_absent": float(called[1, KeypointState.IN]),
            "reshuffles_that_can_call_out": self.enough / len(self.figures),
            "states": {
                where: {state.name: float(share) for state, share in zip(KeypointState, shares, strict=True)}
                for where, shares in zip(("in", "out"), called, strict=True)
            },
        }  # fmt: skip


def enough_for(share: float, confidence: float = 0.95) -> int:
    """Trials without a single event after which the Clopper-Pearson interval ends at or below this share.

    >>> enough_for(1e-3), clopper_pearson(0, enough_for(1e-3))[1] <= 1e-3 < clopper_pearson(0, enough_for(1e-3) - 1)[1]
    (3688, True)
    """
    return math.ceil(math.log((1 - confidence) / 2) / math.log1p(-share))


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share.

    >>> [round(v, 4) for v in clopper_pearson(0, 10)]
    [0.0, 0.3085]
    """
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def stratum_level(levels: Sequence[float]) -> float:
    """The level at which strata are shown."""
    return levels[_nearest(levels)]


def _nearest(levels: Sequence[float]) -> int:
    return int(np.abs(np.array(levels) - STRATUM_LEVEL).argmin())


def _one_per_photograph(held: np.ndarray, photographs: np.ndarray) -> tuple[float, float, int]:
    """Clopper-Pearson interval from one random keypoint of each photograph, and their number."""
    order = np.random.default_rng(0).permutation(len(held))
    _, first = np.unique(photographs[order], return_index=True)
    drawn = held[order[first]]
    return *clopper_pearson(int(drawn.sum()), len(drawn)), len(drawn)


def _intervals(share: np.ndarray, photographs: np.ndarray, names: Sequence[object]) -> dict[str, tuple[float, float]]:
    """Bootstrap over photographs of the mean of each column."""
    used = np.isfinite(share).all(axis=1)
    number = np.unique(photographs[used], return_inverse=True)[1]
    sums = np.zeros((number.max() + 1, share.shape[1]))
    np.add.at(sums, number, share[used])
    counts = np.bincount(number)

    def statistic(drawn: np.ndarray) -> dict[str, float]:
        means = sums[drawn].sum(axis=0) / counts[drawn].sum()
        return {str(name): float(value) for name, value in zip(names, means, strict=True)}

    return bootstrap(statistic, list(range(len(counts))))


def _strata(
    samples: Samples, rows: np.ndarray, share: np.ndarray, total: _Total, box_share: np.ndarray, column: int
) -> list[dict[str, Any]]:
    """Coverage of ours at STRATUM_LEVEL by joint, quality, visibility and size, with intervals over photographs."""
    types, quality, visibility = samples.joint_type[rows], samples.quality[rows], samples.visibility[rows]
    bins = quality_bin(quality_edges(types, quality), types, quality)
    masks = {name: types == t for t, name in enumerate(JOINT_TYPES)}
    masks |= {f"quality quarter {b + 1}": bins == b for b in range(QUALITY_BINS)}
    masks |= {"visible": visibility == VISIBLE, "occluded": visibility == OCCLUDED}
    masks |= {"outside the image, in the window": visibility == OUTSIDE_IMAGE}
    masks |= {
        f"presence in the lowest {DOUBT:.0%}": samples.presence[rows] < np.quantile(samples.presence[rows], DOUBT)
    }
    masks |= {"small box": samples.box_px[samples.person[rows]] < SMALL_BOX}
    with np.errstate(invalid="ignore"):
        area = (total.cells / total.count)[:, column] * box_share
        whole = (total.whole / total.count)[:, column]
    table = []
    for name, mask in masks.items():
        mask = mask & np.isfinite(share)
        if mask.any():
            (interval,) = _intervals(share[mask, None], samples.photograph[rows[mask]], ["value"]).values()
            table.append({
                "stratum": name, "n": int(mask.sum()), "photographs": len(np.unique(samples.photograph[rows[mask]])),
                "coverage": float(share[mask].mean()), "ci95": list(interval),
                "mean_area_per_box": float(area[mask].mean()), "whole_window": float(whole[mask].mean()),
            })  # fmt: skip
    return table


def write_report(calibration: Path, report: dict[str, Any], folder: str | None = None) -> Path:
    """``F.report.json`` and ``F.report.html`` beside ``F.calibration.json`` or in a folder; the path of the page."""
    from probpose_training.calibration_page import write_page

    name, place = calibration.name.removesuffix(SUFFIX), Path(folder) if folder else calibration.parent
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.report.json").write_text(json.dumps(json.loads(to_json(report)), indent=1) + "\n")
    page = place / f"{name}.report.html"
    write_page(page, report, stratum_level(report["levels"]))
    return page


def print_report(report: dict[str, Any]) -> None:
    """The tables, as text."""
    levels = report["levels"]
    strata = levels[_nearest(levels)]
    print(
        f"{report['model']} ({report['boxes']}) on {report['data']}: {report['keypoints']} keypoints in the window, "
        f"{report['photographs']} photographs, {report['reshuffles']} reshuffles; "
        f"{report['persons_without_box']} of {report['persons']} people without a box, covered by nothing"
    )
    zeros = report["zeros"]
    print(f"truth in exact zeros of the map: {zeros['share']:.1%} of {zeros['n']}")
    for name, row in (zeros["joints"] | zeros["quality"]).items():
        print(f"  {name:34s} {row['share']:6.1%} of {row['n']}")
    print(f"\ncoverage in percent{'':18s}" + "".join(f"{100 * level:8g}" for level in levels) + "   area/box  whole")
    for name, table in report["methods"].items():
        row = table[str(strata)]
        values = "".join(f"{100 * table[str(level)]['coverage']:8.1f}" for level in levels)
        print(f"  {name:35s}{values}   {row['mean_area_per_box']:8.3f} {row['whole_window']:6.1%}")
    for name, key in (("95 % interval over photographs", "ci95"), ("95 % of the reshuffles lie in", "spread")):
        values = "".join(f"{100 * low:9.1f}..{100 * high:.1f}" for low, high in report[key].values())
        print(f"  {name:31s}{values}")
    single = report["one_keypoint_per_photograph"]
    print(
        f"  {single['level']:g}, one keypoint of each of {single['photographs']} test photographs of one split: "
        f"{single['ci95'][0]:.1%} .. {single['ci95'][1]:.1%} (Clopper-Pearson)"
    )
    print(f"\nours at {strata:g}{'':26s}     n  coverage  95 % interval   area/box  whole")
    for row in report["strata"]:
        low, high = row["ci95"]
        print(
            f"  {row['stratum']:34s}{row['n']:6d}  {row['coverage']:8.1%}  {low:5.1%} .. {high:5.1%}"
            f"   {row['mean_area_per_box']:8.3f} {row['whole_window']:6.1%}"
        )
    for kind, table in report["together"].items():
        values = "".join(f"{100 * table['levels'][str(level)]['coverage']:8.1f}" for level in levels)
        area = table["levels"][str(strata)]["mean_area_per_box"]
        if kind == "marginal":
            print(f"\nall joints of a person in the window at once, {table['persons']} persons, percent")
        print(f"  {kind + ' regions':35s}{values}   {area:8.3f}")
    low, high = report["together"]["simultaneous"]["levels"][str(strata)]["ci95"]
    print(f"  simultaneous at {strata:g}, 95 % interval over photographs: {low:.1%} .. {high:.1%}")
    p = report["presence"]
    print(
        f"\npresence ({p['in']} in, {p['out']} out of the window): AUROC {p['auroc']:.3f}, "
        f"Brier {p['brier_raw']:.4f} -> {p['brier']:.4f}, "
        f"ECE {p['ece_raw']:.4f} -> {p['ece']:.4f} ({p['ece_of_perfect_calibration']:.4f} if perfect), "
        f"NLL {p['nll']:.4f}\n"
        f"  regions dropped though the joint is in: none, a keypoint keeps its region in every state\n"
        f"  called OUT though in: {p['called_out_given_present']:.2%} (bound {p['called_out_upper_bound']:.2%} if "
        f"keypoints were independent; {p['called_out_upper_bound_photographs']:.1%} with one of each of "
        f"{p['photographs']} photographs; {p['photographs_for_bound']} photographs without one would show "
        f"{p['drop']:g}; with {p['reshuffles_that_can_call_out']:.0%} of the reshuffles it is possible)\n"
        f"  called IN though out: {p['called_in_given_absent']:.1%} (nominal {p['alpha']:g})"
    )
    for where, shares in p["states"].items():
        print(f"  states of joints {where}: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    before, after = report["quality_error"]
    print(f"quality against the true OKS: calibration error {before:.4f} -> {after:.4f}")
