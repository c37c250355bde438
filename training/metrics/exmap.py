"""Mean average precision over OKS or Ex-OKS, split by visibility; the published tool's accounting rules by name.

The frame is COCO's: per image, detections are matched to persons best score first; per threshold, a precision-recall
curve at 101 recalls. Level 0 scores a person on all labelled keypoints, level v on those of visibility v alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from probpose_ros.codec import AREA_PER_BOX
from probpose_ros.geometry import PADDING
from probpose_ros.oks import oks, oks_variance
from probpose_ros.skeleton import NUM_KEYPOINTS
from probpose_training.crop_augmentation import OUTSIDE_IMAGE, UNLABELLED
from probpose_training.metrics.exoks import WINDOW_DISTANCES, ex_oks, relabel, window_of

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = {"all": (0.0, 1e10), "M": (32.0**2, 96.0**2), "L": (96.0**2, 1e10)}
MAX_DETECTIONS = 20  # per image, best first
NEAR_BBOX = 0.05  # share of the bbox's side; `ignore_near_bbox`
MATCH_DISTANCE = 20.0  # px between box centres, L1; `match_by_bbox`


@dataclass(frozen=True)
class Protocol:
    """How to score.

    extended: Ex-OKS; False: plain OKS on v = 1 and 2.
    threshold: presence from which a keypoint counts as predicted; None: presence is used as it is, unrounded.
    padding: of the activation window. distance: one of WINDOW_DISTANCES.
    ignore_near_bbox: keypoints within 5 % of the bbox's border do not count (paper, appendix D).
    match_by_bbox: match by box centres instead of by (Ex-)OKS, which then only has to reach the threshold.

    The rest are the quirks of exococotools 1.0.0, off by default, all on in EXOCOCOTOOLS:
    detections_need_truth: in an image without a countable person, detections are ignored instead of false.
    crowds_are_persons: `iscrowd` and `ignore` are not looked at.
    drop_absent: a detection without any presence above 0 is taken away.
    levels_are_prefix: it only works when the visibilities that occur are 1, or 1 and 2, or 1, 2 and 3.
    """

    extended: bool = True
    threshold: float | None = 0.5
    padding: float = PADDING
    distance: str = "paper"
    ignore_near_bbox: bool = False
    match_by_bbox: bool = False
    detections_need_truth: bool = False
    crowds_are_persons: bool = False
    drop_absent: bool = False
    levels_are_prefix: bool = False

    def __post_init__(self) -> None:
        if self.distance not in WINDOW_DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(WINDOW_DISTANCES)}, got {self.distance!r}")
        if self.threshold is not None and not 0 <= self.threshold <= 1.05:
            raise ValueError(f"threshold must lie in 0 .. 1, got {self.threshold!r}")


PAPER = Protocol()
COCO = Protocol(extended=False)
EXOCOCOTOOLS = Protocol(
    distance="exococotools",
    detections_need_truth=True,
    crowds_are_persons=True,
    drop_absent=True,
    levels_are_prefix=True,
)
EXOCOCOTOOLS_PLAIN = replace(EXOCOCOTOOLS, extended=False)


@dataclass(frozen=True)
class ImageMatches:
    """What one image adds to the curve of one level and area range.

    scores: (D,). matched, ignored: (T, D) bool. positives: persons that count. matched_scores: of every match.
    """

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    positives: int
    matched_scores: np.ndarray


@dataclass(frozen=True)
class Pool:
    """The matches of I images for one level and area range, detections sorted best first.

    matched, ignored: (T, D) bool. image: (D,) index of the image. positives: (I,). similarity, accepted: (I,) sum of
    the similarities of all matches, and their number.
    """

    matched: np.ndarray
    ignored: np.ndarray
    image: np.ndarray
    positives: np.ndarray
    similarity: np.ndarray
    accepted: np.ndarray

    @classmethod
    def of(cls, images: list[ImageMatches]) -> Pool:
        order = np.argsort(-np.concatenate([m.scores for m in images]), kind="stable")
        return cls(
            np.concatenate([m.matched for m in images], axis=1)[:, order],
            np.concatenate([m.ignored for m in images], axis=1)[:, order],
            np.repeat(np.arange(len(images)), [len(m.scores) for m in images])[order],
            np.array([m.positives for m in images]),
            np.array([m.matched_scores.sum() for m in images]),
            np.array([len(m.matched_scores) for m in images]),
        )

    def precision_recall(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Interpolated precision (T, 101) at RECALLS and the highest recall (T,); NaN when there is nothing to find.

        weights: (I,) how often each image counts; default once.
        """
        weights = np.ones(len(self.positives)) if weights is None else weights
        positives = (self.positives * weights).sum()
        precision, recall = np.full((len(THRESHOLDS), len(RECALLS)), np.nan), np.full(len(THRESHOLDS), np.nan)
        if positives == 0:
            return precision, recall
        counts = np.where(self.ignored, 0.0, weights[self.image])
        true, false = (self.matched * counts).cumsum(axis=1), (~self.matched * counts).cumsum(axis=1)
        for t in range(len(THRESHOLDS)):
            found = true[t] / positives
            share = true[t] / np.maximum(true[t] + false[t], np.spacing(1))
            share = np.append(np.maximum.accumulate(share[::-1])[::-1], 0)
            precision[t] = share[np.searchsorted(found, RECALLS, side="left")]
            recall[t] = found[-1] if len(found) else 0
        return precision, recall


@dataclass(frozen=True)
class Evaluation:
    """stats: the table, NaN where there is nothing to score; the tool's own tables say -1 there.

    levels: visibilities that occur. visibility_counts: keypoints per v after relabelling.
    pools: by (level index, area name). pairs: rows image id, detection (1-based), person id, level index, similarity.
    image_ids: the images, in the order of the pools.
    """

    stats: dict[str, float]
    levels: tuple[int, ...]
    visibility_counts: dict[int, int]
    pools: dict[tuple[int, str], Pool] = field(repr=False)
    pairs: np.ndarray = field(repr=False)
    image_ids: np.ndarray = field(repr=False)

    def stats_of(self, images: np.ndarray) -> dict[str, float]:
        """The table over some images (indices, may repeat): for the bootstrap."""
        return summarise(self.pools, self.levels, np.bincount(images, minlength=len(self.image_ids)))


@dataclass(frozen=True)
class _Person:
    id: int
    points: np.ndarray
    visibility: np.ndarray
    bbox: np.ndarray
    window: np.ndarray
    whereabouts: np.ndarray
    area: float
    crowd: bool


@dataclass(frozen=True)
class _Detection:
    id: int
    points: np.ndarray
    present: np.ndarray
    bbox: np.ndarray
    area: float
    score: float


def evaluate(annotations: dict, results: list[dict], protocol: Protocol = PAPER) -> Evaluation:
    """Score COCO keypoint results against COCO keypoint annotations.

    Args:
        annotations: the annotation file's content; v in 0 .. 3, ``pad_to_contain`` where it is known.
        results: the result file's content; the third value of a keypoint is the presence probability.
    """
    image_ids = np.unique([image["id"] for image in annotations["images"]]).astype(int)
    persons: dict[int, list[_Person]] = {int(i): [] for i in image_ids}
    detections: dict[int, list[_Detection]] = {int(i): [] for i in image_ids}
    for annotation in annotations["annotations"]:
        persons[annotation["image_id"]].append(_read_person(annotation, protocol))
    for number, result in enumerate(results, 1):
        if result["image_id"] not in detections:
            raise ValueError(f"result {number}: image_id {result['image_id']} is not in the annotations")
        detection = _read_detection(number, result, protocol)
        if not protocol.drop_absent or np.any(np.array(result["keypoints"][2::3]) > 0):
            detections[result["image_id"]].append(detection)

    counts = Counter(int(v) for group in persons.values() for person in group for v in person.visibility)
    levels = tuple(sorted(v for v in counts if v > UNLABELLED))
    if protocol.levels_are_prefix and levels != tuple(range(1, len(levels) + 1)):
        raise ValueError(
            f"exococotools accounting works with visibilities 1 .. n only, these annotations have {levels}"
        )

    matches: dict[tuple[int, str], list[ImageMatches]] = {
        (level, area): [] for level in range(len(levels) + 1) for area in AREAS
    }
    rows = []
    for image_id in image_ids:
        image_persons = persons[image_id]
        image_detections = sorted(detections[image_id], key=lambda d: -d.score)[:MAX_DETECTIONS]
        per_keypoint = _keypoint_similarities(image_persons, image_detections, protocol)
        for level in range(len(levels) + 1):
            labelled = [
                p.visibility > UNLABELLED if level == 0 else p.visibility == levels[level - 1] for p in image_persons
            ]
            similarity = _level_similarity(per_keypoint, labelled, image_persons, image_detections)
            for d, detection in enumerate(image_detections):
                rows += [(image_id, detection.id, p.id, level, similarity[d, g]) for g, p in enumerate(image_persons)]
            ignored = np.array(
                [
                    not seen.any() or (p.crowd and not protocol.crowds_are_persons)
                    for seen, p in zip(labelled, image_persons, strict=True)
                ],
                dtype=bool,
            )
            for area, limits in AREAS.items():
                matches[level, area].append(
                    _match(image_persons, image_detections, similarity, ignored, limits, protocol)
                )
    pools = {key: Pool.of(images) for key, images in matches.items()}
    pairs = np.array(rows).reshape(-1, 5)
    return Evaluation(summarise(pools, levels), levels, dict(sorted(counts.items())), pools, pairs, image_ids)


def _read_person(annotation: dict, protocol: Protocol) -> _Person:
    values = np.array(annotation.get("keypoints") or [0] * 3 * NUM_KEYPOINTS, dtype=np.float64).reshape(-1, 3)
    points, visibility = values[:, :2], values[:, 2].astype(int)
    bbox = np.array(annotation["bbox"], dtype=np.float64)
    if protocol.extended:
        visibility = relabel(visibility, annotation.get("pad_to_contain"), protocol.padding)
    else:
        visibility = np.where(visibility == OUTSIDE_IMAGE, UNLABELLED, visibility)
    if protocol.ignore_near_bbox:
        low, high = np.abs(points - bbox[:2]), np.abs(points - bbox[:2] - bbox[2:])
        near = (np.minimum(low, high) < NEAR_BBOX * bbox[2:]).any(axis=-1)
        visibility = np.where(near, UNLABELLED, visibility)
    return _Person(
        id=annotation["id"],
        points=points,
        visibility=visibility,
        bbox=bbox,
        window=window_of(bbox, protocol.padding),
        # Where detections of an unlabelled person may lie: the window; COCO takes the bbox and one more on each side.
        whereabouts=window_of(bbox, protocol.padding)
        if protocol.extended
        else np.concatenate([bbox[:2] - bbox[2:], bbox[:2] + 2 * bbox[2:]]),
        area=float(annotation.get("area", AREA_PER_BOX * bbox[2] * bbox[3])),
        crowd=bool(annotation.get("iscrowd", 0) or annotation.get("ignore", 0)),
    )


def _read_detection(number: int, result: dict, protocol: Protocol) -> _Detection:
    values = np.array(result["keypoints"], dtype=np.float64)
    if values.shape != (3 * NUM_KEYPOINTS,) or not np.isfinite(values).all():
        raise ValueError(f"result {number}: keypoints must be {3 * NUM_KEYPOINTS} finite numbers")
    values = values.reshape(-1, 3)
    present = values[:, 2] if protocol.threshold is None else values[:, 2] >= protocol.threshold
    low, high = values[:, :2].min(axis=0), values[:, :2].max(axis=0)
    bbox = np.array(result.get("bbox") or [*low, *(high - low)], dtype=np.float64)
    return _Detection(number, values[:, :2], present, bbox, float(bbox[2] * bbox[3]), float(result["score"]))


def _keypoint_similarities(persons: list[_Person], detections: list[_Detection], protocol: Protocol) -> np.ndarray:
    """(D, G, K) similarity of each keypoint."""
    similarity = np.zeros((len(detections), len(persons), NUM_KEYPOINTS))
    if not detections:
        return similarity
    points, present = np.stack([d.points for d in detections]), np.stack([d.present for d in detections])
    if not protocol.extended:
        present = np.full(present.shape, 0.5)  # takes no side: every distance is the plain one
    for g, person in enumerate(persons):
        similarity[:, g] = ex_oks(
            person.points, person.visibility, points, present, person.window, person.area, protocol.distance
        )
    return similarity


def _level_similarity(
    per_keypoint: np.ndarray, labelled: list[np.ndarray], persons: list[_Person], detections: list[_Detection]
) -> np.ndarray:
    """(D, G) similarity of a detection and a person on the level's keypoints.

    A person without such keypoints is ignored, but may take a detection out of the count that lies about there.
    """
    similarity = np.zeros(per_keypoint.shape[:2])
    for g, (person, seen) in enumerate(zip(persons, labelled, strict=True)):
        if seen.any():
            similarity[:, g] = per_keypoint[:, g, seen].mean(axis=-1)
        else:
            points = np.stack([d.points for d in detections]) if detections else np.zeros((0, NUM_KEYPOINTS, 2))
            beyond = np.maximum(np.maximum(person.whereabouts[:2] - points, points - person.whereabouts[2:]), 0)
            variance = oks_variance(person.area + np.spacing(1))
            similarity[:, g] = oks((beyond**2).sum(axis=-1), variance).mean(axis=-1)
    return similarity


def _match(
    persons: list[_Person],
    detections: list[_Detection],
    similarity: np.ndarray,
    unlabelled: np.ndarray,
    area: tuple[float, float],
    protocol: Protocol,
) -> ImageMatches:
    """COCO's greedy matching at every threshold."""
    ignored_person = unlabelled | np.array([not area[0] <= p.area <= area[1] for p in persons], dtype=bool)
    order = np.argsort(ignored_person, kind="stable")  # those that count come first
    outside = np.array([not area[0] <= d.area <= area[1] for d in detections], dtype=bool)
    shape = (len(THRESHOLDS), len(detections))
    matched, ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    accepted = []
    for t, threshold in enumerate(THRESHOLDS):
        free = np.ones(len(persons), dtype=bool)
        for d, detection in enumerate(detections):
            best, found = min(threshold, 1 - 1e-10), -1
            nearest = MATCH_DISTANCE
            for g in order:
                if not free[g] and (protocol.crowds_are_persons or not persons[g].crowd):
                    continue
                if found >= 0 and not ignored_person[found] and ignored_person[g]:
                    break
                if similarity[d, g] < best:
                    continue
                if protocol.match_by_bbox:
                    gap = np.abs(
                        persons[g].bbox[:2] + persons[g].bbox[2:] / 2 - detection.bbox[:2] - detection.bbox[2:] / 2
                    ).sum()
                    if gap >= nearest:
                        continue
                    nearest = gap
                else:
                    best = similarity[d, g]
                found = int(g)
            if found >= 0:
                free[found] = False
                matched[t, d], ignored[t, d] = True, ignored_person[found]
                accepted.append(similarity[d, found])
    ignored |= ~matched & outside
    if protocol.detections_need_truth and ignored_person.all():
        ignored[:] = True
    scores = np.array([d.score for d in detections])
    return ImageMatches(scores, matched, ignored, int((~ignored_person).sum()), np.array(accepted))


def summarise(
    pools: dict[tuple[int, str], Pool], levels: tuple[int, ...], weights: np.ndarray | None = None
) -> dict[str, float]:
    """The table of the published tool, in its order."""
    curves = {key: pool.precision_recall(weights) for key, pool in pools.items()}
    half, three_quarters = 0, 5  # THRESHOLDS 0.5 and 0.75
    every, every_recall = curves[0, "all"]
    stats = {"AP": every.mean()}
    stats.update({f"AP (v={v})": curves[index, "all"][0].mean() for index, v in enumerate(levels, 1)})
    stats.update({"AP .5": every[half].mean(), "AP .75": every[three_quarters].mean()})
    stats.update({f"AP ({area})": curves[0, area][0].mean() for area in ("M", "L")})
    stats.update({"AR": every_recall.mean(), "AR .5": every_recall[half], "AR .75": every_recall[three_quarters]})
    stats.update({f"AR ({area})": curves[0, area][1].mean() for area in ("M", "L")})
    if weights is None:
        weights = np.ones(len(pools[0, "all"].positives))
    accepted = sum((pool.accepted * weights).sum() for pool in pools.values())
    stats["OKS"] = sum((pool.similarity * weights).sum() for pool in pools.values()) / accepted if accepted else np.nan
    return {name: float(value) for name, value in stats.items()}
