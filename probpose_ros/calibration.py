"""A calibration file: what a model's maps, presence and quality are worth, measured on labelled images.

Regions of a calibrated person are cells of the predictive map (:mod:`probpose_ros.predictive`) whose score is at most
the threshold of the keypoint's group (joint type x predicted quality). The file is JSON, read strictly, and belongs to
one model file and one source of boxes; with any other it is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from probpose_ros.codec import Codec
from probpose_ros.geometry import CropTransform
from probpose_ros.models import find_file
from probpose_ros.predictive import Mixture, Predictor, Ranking
from probpose_ros.regions import describe, is_distribution, measure, with_placeholders
from probpose_ros.skeleton import FLIP_INDEX, JOINT_TYPE, JOINT_TYPES
from probpose_ros.types import KeypointState, RegionKind, Regions
from probpose_ros.untrusted import parse_json, read_bytes

SUFFIX = ".calibration.json"
AUTO = "auto"  # in the place of a name: the file beside the pose model
FORMAT_VERSION = 2
MAX_BYTES = 8_000_000
QUALITY_BINS = 4
_FIRST_MIXTURE = JOINT_TYPE * QUALITY_BINS
DOUBTFUL = QUALITY_BINS  # in the place of a quality bin: presence is so low that the joint may be out of the window
GIVEN_BOXES = "gt boxes"  # in the place of a detector's sha256
KINDS = {
    "marginal": RegionKind.MARGINAL, "pac": RegionKind.PAC,
    "simultaneous": RegionKind.SIMULTANEOUS, "simultaneous_pac": RegionKind.SIMULTANEOUS_PAC,
}  # fmt: skip


class CalibrationError(ValueError):
    """The file is no calibration, or not one for this model: the message says what was found and what is needed."""


@dataclass(frozen=True)
class Subject:
    """What was calibrated; the boxes come from a detector (its file's sha256) or are GIVEN_BOXES."""

    model: str
    model_sha256: str
    precision: str
    input_size: tuple[int, int]
    detector: str

    def check(self, running: Subject) -> None:
        """Refuses to be used with anything else."""
        for name, mine in asdict(self).items():
            if name != "model" and mine != (theirs := getattr(running, name)):
                raise CalibrationError(f"calibrated for {name} {_short(mine)}, but {_short(theirs)} is running")


@dataclass(frozen=True)
class Group:
    """Keypoints that share thresholds, one by kind and level; infinity where the data cannot support the level.

    members: (joint type, quality bin or DOUBTFUL). n: keypoints that gave the marginal thresholds. photographs: of how
    many photographs; one keypoint of each gave the PAC thresholds. The simultaneous ones come from all groups together.
    """

    members: tuple[tuple[str, int], ...]
    n: int
    photographs: int
    marginal: tuple[float, ...]
    pac: tuple[float, ...]
    simultaneous: tuple[float, ...]
    simultaneous_pac: tuple[float, ...]


@dataclass(frozen=True)
class Knots:
    """A rising piecewise linear function, constant beyond its ends: isotonic regression."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.interp(values, self.x, self.y).astype(np.float32)


@dataclass(frozen=True)
class Presence:
    """in_scores, out_scores: presence of keypoints in and out of the window, ascending.

    alpha: a keypoint out of the window is believed to be possibly out in a share 1 - alpha of cases.
    drop: a keypoint in the window is believed to be certainly out in a share of at most drop. It keeps its region.
    reliability: presence of the network -> probability.
    """

    alpha: float
    drop: float
    in_scores: tuple[float, ...]
    out_scores: tuple[float, ...]
    reliability: Knots

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.in_scores), np.array(self.out_scores)

    def p_in(self, presence: np.ndarray) -> np.ndarray:
        """Conformal p-value of "in the window"."""
        scores = self._sorted[0]
        return (1 + np.searchsorted(scores, presence, side="right")) / (len(scores) + 1)

    def p_out(self, presence: np.ndarray) -> np.ndarray:
        """Conformal p-value of "out of the window"."""
        scores = self._sorted[1]
        return (1 + len(scores) - np.searchsorted(scores, presence, side="left")) / (len(scores) + 1)

    def states(self, presence: np.ndarray) -> np.ndarray:
        """KeypointState (uint8): what is not rejected; UNKNOWN where both are, or presence is NaN."""
        may_be_in, may_be_out = self.p_in(presence) > self.drop, self.p_out(presence) > self.alpha
        states = np.full(np.shape(presence), KeypointState.UNKNOWN, np.uint8)
        states[may_be_in & ~may_be_out] = KeypointState.IN
        states[may_be_in & may_be_out] = KeypointState.IN_OR_OUT
        states[~may_be_in & may_be_out] = KeypointState.OUT
        states[np.isnan(presence)] = KeypointState.UNKNOWN
        return states


@dataclass(frozen=True)
class Calibration:
    """levels: ascending. kind: one of KINDS, what regions promise unless told otherwise; delta: 1 - confidence of PAC.

    quality_edges: by joint type, the rising borders between the bins of predicted quality. mixtures: by joint type and
    bin. persons: that gave the simultaneous thresholds, of how many photographs.
    doubt: presence below which keypoints are DOUBTFUL; 0: none is.
    quality: predicted quality -> expected OKS. provenance: where it comes from, free text by name.
    """

    subject: Subject
    kind: str
    delta: float
    levels: tuple[float, ...]
    quality_edges: tuple[tuple[float, ...], ...]
    mixtures: tuple[tuple[Mixture, ...], ...]
    groups: tuple[Group, ...]
    persons: int
    photographs: int
    presence: Presence
    quality: Knots
    provenance: dict[str, str]
    doubt: float = 0.0
    format_version: int = FORMAT_VERSION
    sha256: str = ""  # of the file; empty until it is read from one

    @property
    def id(self) -> str:
        return self.sha256[:16]

    def delta_of(self, kind: str = "") -> float:
        """1 - confidence of regions of this kind; NaN where they have none. Empty: the calibration's kind."""
        return self.delta if (kind or self.kind).endswith("pac") else float("nan")

    @cached_property
    def _edges(self) -> np.ndarray:
        return np.array(self.quality_edges)

    @cached_property
    def _group_of(self) -> np.ndarray:
        """(T, QUALITY_BINS + 1) index of the group; -1 where no keypoint can be."""
        table = np.full((len(JOINT_TYPES), QUALITY_BINS + 1), -1)
        for index, group in enumerate(self.groups):
            for joint, its_bin in group.members:
                table[JOINT_TYPES.index(joint), its_bin] = index
        return table

    @cached_property
    def predictor(self) -> Predictor:
        """Its groups are joint type * QUALITY_BINS + bin."""
        return Predictor([mixture for row in self.mixtures for mixture in row])

    @cached_property
    def _thresholds(self) -> dict[str, np.ndarray]:
        """By kind, (T, QUALITY_BINS + 1, levels)."""
        return {kind: np.array([getattr(group, kind) for group in self.groups])[self._group_of] for kind in KINDS}

    def bins(self, joint_type: np.ndarray, quality: np.ndarray) -> np.ndarray:
        """Bin of each predicted quality; joint_type: indices of JOINT_TYPES."""
        return quality_bin(self._edges, joint_type, quality)

    def thresholds(self, joint_type: np.ndarray, bins: np.ndarray, presence: np.ndarray, kind: str = "") -> np.ndarray:
        """(N, levels) largest scores that belong to the regions; bins: of quality. presence: of the network."""
        bins = np.where(presence < self.doubt, DOUBTFUL, bins)
        return self._thresholds[kind or self.kind][joint_type, bins]

    def regions(
        self, probmaps: np.ndarray, quality: np.ndarray, presence: np.ndarray, states: np.ndarray,
        transforms: Sequence[CropTransform], codec: Codec, levels: Sequence[float], kind: str = "",
        known: np.ndarray | None = None,
    ) -> list[Regions]:  # fmt: skip
        """Regions of each person: where each keypoint is if it is in the window. Whatever its state, it has one.

        Only a keypoint whose map is no distribution has none. Where the data do not support a level, the region is the
        whole window and not valid.

        Args:
            probmaps: (P, K, h, w) float32. quality, presence, states: (P, K), the first two as predicted.
            levels: some of the calibrated levels. kind: one of KINDS; empty: the calibration's.
            known: (P, K) bool, which maps are distributions, if somebody has looked already.
        """
        good = (is_distribution(probmaps) if known is None else known) & np.isfinite(quality)
        bins = self.bins(JOINT_TYPE, quality)
        mixture = _FIRST_MIXTURE + bins
        thresholds = self.thresholds(JOINT_TYPE, bins, presence, kind)[..., self.columns(levels)]
        measured = []
        for maps, its_good, its_mixture, its_thresholds in zip(probmaps, good, mixture, thresholds, strict=True):
            maps = with_placeholders(maps, its_good)
            # Where the map of the other side is not known, a joint's own stands for it.
            other_side = np.where(its_good[FLIP_INDEX], FLIP_INDEX, np.arange(len(maps)))
            own = maps.transpose(1, 0, 2).copy()
            predictive = self.predictor.mix(own, own.take(other_side, axis=1), its_mixture)
            ranking = Ranking(predictive.transpose(1, 0, 2))
            measured.append(measure(ranking.inside(its_thresholds), ranking.rows))
        valid = np.isfinite(thresholds) & (states != KeypointState.UNKNOWN.value)[..., None]
        return describe(measured, good, valid, transforms, codec, levels, KINDS[kind or self.kind])

    def has(self, levels: Sequence[float]) -> bool:
        return set(levels) <= set(self.levels)

    def columns(self, levels: Sequence[float]) -> list[int]:
        """Indices of levels, each of which must be a calibrated one."""
        try:
            return [self.levels.index(level) for level in levels]
        except ValueError:
            raise CalibrationError(
                f"levels {list(levels)}: calibrated are {', '.join(map(str, self.levels))}"
            ) from None

    def to_json(self) -> str:
        values = asdict(self)
        del values["sha256"]
        values["mixtures"] = [[mixture._asdict() for mixture in row] for row in self.mixtures]
        for group in values["groups"]:
            for kind in KINDS:
                group[kind] = [None if np.isinf(value) else value for value in group[kind]]
        return json.dumps(values, indent=1, allow_nan=False)


def quality_bin(
    edges: Sequence[Sequence[float]] | np.ndarray, joint_type: np.ndarray, quality: np.ndarray
) -> np.ndarray:
    """The bin of each predicted quality, 0 lowest; edges: by joint type."""
    return (np.asarray(quality)[..., None] >= np.asarray(edges)[joint_type]).sum(axis=-1)  # type: ignore[no-any-return]


def beside(model: Path) -> Path:
    """The calibration file of a model, whether there is one or not."""
    return model.with_name(model.stem + SUFFIX)


def find_calibration(name_or_path: str | Path) -> Path:
    """Path of a calibration file: beside the bundled models by name, or any file by path."""
    return find_file(name_or_path, SUFFIX, "calibration")


def load_calibration(path: str | Path) -> Calibration:
    """Read a file.

    Raises:
        CalibrationError: it is too large, not JSON, holds an unknown or no value for something, or one out of range.
    """
    try:
        content = read_bytes(path, MAX_BYTES)
    except ValueError as error:
        raise CalibrationError(str(error)) from None
    try:
        return parse(parse_json(content), hashlib.sha256(content).hexdigest())
    except ValueError as error:
        raise CalibrationError(f"{path}: {error}") from None


def parse(values: Any, sha256: str = "") -> Calibration:
    """A Calibration from a file's JSON content, every value checked."""
    if isinstance(values, dict) and values.get("format_version") != FORMAT_VERSION:
        raise CalibrationError(
            f"format_version {_short(values.get('format_version'))}; this version reads {FORMAT_VERSION}: "
            "make the file anew with probpose calibrate"
        )
    top = _object(
        values, "calibration", format_version=_whole(1), subject=_subject, kind=_one_of(*KINDS), delta=_share,
        levels=_list(_share, rising=True), quality_edges=_list(_list(_number, QUALITY_BINS - 1), len(JOINT_TYPES)),
        mixtures=_list(_list(_mixture, QUALITY_BINS), len(JOINT_TYPES)),
        groups=_list(_group), persons=_whole(0), photographs=_whole(0), presence=_presence, quality=_knots,
        provenance=_texts, doubt=_probability,
    )  # fmt: skip
    for edges in top["quality_edges"]:
        _rising(edges, "quality_edges", strictly=False)
    for group in top["groups"]:
        for kind in KINDS:
            if len(group[kind]) != len(top["levels"]):
                raise CalibrationError(f"{kind}: {len(group[kind])} thresholds for {len(top['levels'])} levels")
            _rising(group[kind], kind, strictly=False)
    members = [member for group in top["groups"] for member in group["members"]]
    bins = QUALITY_BINS + (top["doubt"] > 0)
    if sorted(members) != sorted((joint, b) for joint in JOINT_TYPES for b in range(bins)):
        raise CalibrationError(f"groups: every joint type and bin 0 .. {bins - 1} must be in exactly one group")
    groups = tuple(Group(**group) for group in top.pop("groups"))
    return Calibration(groups=groups, sha256=sha256, **top)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


Check = Callable[[Any, str], Any]


def _object(values: Any, where: str, **checks: Check) -> dict[str, Any]:
    """An object with exactly these keys, each value checked."""
    if not isinstance(values, dict):
        raise CalibrationError(f"{where} must be an object, got {_short(values)}")
    if unknown := sorted(set(values) - set(checks)):
        raise CalibrationError(f"{where}: unknown {_short(unknown)}; known are {', '.join(checks)}")
    if missing := [name for name in checks if name not in values]:
        raise CalibrationError(f"{where}: {', '.join(missing)} missing")
    return {name: check(values[name], name) for name, check in checks.items()}


def _list(check: Check, length: int | None = None, rising: bool = False) -> Check:
    def checked(values: Any, where: str) -> tuple:
        if not isinstance(values, list) or (length is not None and len(values) != length):
            size = "" if length is None else f" of {length}"
            raise CalibrationError(f"{where} must be a list{size}, got {_short(values)}")
        if length is None and not values:
            raise CalibrationError(f"{where} must not be empty")
        result = tuple(check(value, where) for value in values)
        if rising:
            _rising(result, where)
        return result

    return checked


def _rising(values: Sequence[float], where: str, strictly: bool = True) -> None:
    for a, b in zip(values, values[1:]):
        if b < a or (strictly and a == b):
            raise CalibrationError(f"{where} must rise, got {a} before {b}")


def _number(value: Any, where: str) -> float:
    # 1e999 is valid JSON and infinite; an integer may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e9:
        raise CalibrationError(f"{where} must be a number, got {_short(value)}")
    return float(value)


def _between(low: float, high: float) -> Check:
    def checked(value: Any, where: str) -> float:
        if not low <= (number := _number(value, where)) <= high:
            raise CalibrationError(f"{where} must lie in {low} .. {high}, got {number}")
        return number

    return checked


_probability = _between(0, 1)


def _share(value: Any, where: str) -> float:
    if not 0 < (number := _number(value, where)) < 1:
        raise CalibrationError(f"{where} must lie between 0 and 1, got {number}")
    return number


def _threshold(value: Any, where: str) -> float:
    return np.inf if value is None else _between(0, 2)(value, where)


def _whole(low: int) -> Check:
    def checked(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 10**9:
            raise CalibrationError(f"{where} must be a whole number of at least {low}, got {_short(value)}")
        return value

    return checked


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise CalibrationError(f"{where} must be text, got {_short(value)}")
    return value


def _texts(values: Any, where: str) -> dict[str, str]:
    if not isinstance(values, dict):
        raise CalibrationError(f"{where} must be an object, got {_short(values)}")
    return {name: _text(value, f"{where}: {_short(name)}") for name, value in values.items()}


def _one_of(*names: str) -> Check:
    def checked(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in names:
            raise CalibrationError(f"{where} must be one of {', '.join(names)}, got {_short(value)}")
        return value

    return checked


def _subject(values: Any, where: str) -> Subject:
    return Subject(
        **_object(
            values, where, model=_text, model_sha256=_text, precision=_text, input_size=_list(_whole(1), 2),
            detector=_text,
        )
    )  # fmt: skip


def _member(values: Any, where: str) -> tuple[str, int]:
    joint, quality_bin = _list(lambda value, _: value, 2)(values, where)
    return _one_of(*JOINT_TYPES)(joint, where), _whole(0)(quality_bin, where)


def _mixture(values: Any, where: str) -> Mixture:
    mixture = Mixture(**_object(values, where, mirror=_probability, tail=_probability, scale=_between(1e-2, 1e2)))
    if mixture.mirror + mixture.tail >= 1:
        raise CalibrationError(f"{where}: mirror + tail must be below 1, got {mixture.mirror} + {mixture.tail}")
    return mixture


def _group(values: Any, where: str) -> dict[str, Any]:
    thresholds = _list(_threshold)
    return _object(
        values, where, members=_list(_member), n=_whole(0), photographs=_whole(0),
        **dict.fromkeys(KINDS, thresholds),
    )  # fmt: skip


def _knots(values: Any, where: str) -> Knots:
    knots = Knots(**_object(values, where, x=_list(_probability, rising=True), y=_list(_probability)))
    if len(knots.x) != len(knots.y):
        raise CalibrationError(f"{where}: {len(knots.x)} x for {len(knots.y)} y")
    _rising(knots.y, f"{where}: y", strictly=False)
    return knots


def _scores(values: Any, where: str) -> tuple[float, ...]:
    scores = _list(_probability)(values, where) if values != [] else ()
    _rising(scores, where, strictly=False)
    return scores


def _presence(values: Any, where: str) -> Presence:
    return Presence(
        **_object(
            values, where, alpha=_share, drop=_between(0, 0.5), in_scores=_scores, out_scores=_scores,
            reliability=_knots,
        )
    )  # fmt: skip
