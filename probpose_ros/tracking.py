"""Ids that people keep from image to image of one camera: association by box overlap (IoU) and OKS.

An id is a convenience for whoever follows people. Nothing that bounds where a person may be (zones) depends on one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from scipy.optimize import linear_sum_assignment

from probpose_ros.codec import AREA_PER_BOX
from probpose_ros.config import NodeConfig
from probpose_ros.oks import oks, oks_variance
from probpose_ros.types import FrameResult, KeypointState, Person, TrackState

SIMILARITY = 0.15  # least mean of IoU and OKS of a person and a track that may be the same
JOINTS = 3  # least joints that are known on both sides, for OKS to count
DRIFT = 0.5  # how wrong a predicted place becomes, in body sizes (root of the box's area) a second
GAIN = 0.5  # share of a newly measured velocity that is believed
TICK = 1e-3  # least seconds between two images, so that stamps which stand still let nobody stay forever


@dataclass
class Track:
    """person: as last seen. box: (4,) its bbox, moved along in images without detection. velocity: (2,) px/s.

    seen: seconds, when that was. hits: images in which the person was seen.
    """

    id: int
    person: Person
    box: np.ndarray
    velocity: np.ndarray
    seen: float
    hits: int = 1


class Tracker:
    """The people of one camera. Feed it every result in order; it never waits, and keeps nothing but its tracks.

    Args:
        keep: seconds for which an unseen person may come back under the same id.
        ids: where new ids come from. Share one iterator between all trackers of a run, so that no id comes twice.
    """

    def __init__(self, keep: float = NodeConfig.track_keep, ids: Iterator[int] | None = None) -> None:
        self.keep = keep
        self.tracks: list[Track] = []
        self._ids = count(1) if ids is None else ids
        self._time = -np.inf

    def update(self, people: Sequence[Person], time: float, detected: bool = True) -> list[Person]:
        """The same people, in the same order, with id and track_state (NEW or TRACKED).

        Args:
            time: of the image, seconds. A step back, such as a bag that starts again, ends every track.
            detected: False where the bboxes are :meth:`boxes`, not a detector's: then joints say how a person moved.
        """
        time = self._tick(time)
        rows = self._associate(people, time)
        found: list[Person] = []
        for person, row in zip(people, rows):
            if row is None:
                track = Track(next(self._ids), person, person.bbox, np.zeros(2), time)
                self.tracks.append(track)
            else:
                track = self.tracks[row]
                _move(track, person, time, detected)
            state = TrackState.NEW if track.hits == 1 else TrackState.TRACKED
            found.append(replace(person, id=track.id, track_state=state))
        return found

    def track(self, frame: FrameResult, time: float) -> FrameResult:
        """:meth:`update` for a whole result."""
        return replace(frame, people=tuple(self.update(frame.people, time, frame.detected)))

    def lost(self) -> list[Person]:
        """People who were not in the newest image but may come back: LOST, where they are believed to be.

        Only the places are predicted. Nobody looked: every state is UNKNOWN, the score 0, other numbers NaN.
        """
        return [_lost(track, self._time) for track in self.tracks if track.seen < self._time]

    def boxes(self, time: float) -> np.ndarray:
        """(N, 4) float32: where everybody of the newest image is believed to be at a later time, for the pose network
        to look without a detector."""
        here = [track for track in self.tracks if track.seen == self._time]
        return np.array([_box(track, max(time, self._time)) for track in here], np.float32).reshape(-1, 4)

    def _tick(self, time: float) -> float:
        """The time of this image, later than the last one's; forgets who has been unseen for too long."""
        if not np.isfinite(time):
            time = self._time if np.isfinite(self._time) else 0.0
        if time < self._time - TICK:
            self.tracks = []
        else:
            time = max(time, self._time + TICK)
        self.tracks = [track for track in self.tracks if time - track.seen <= self.keep]
        self._time = time
        return time

    def _associate(self, people: Sequence[Person], time: float) -> list[int | None]:
        """For every person the index of its track, or None: the pairs of the largest total similarity."""
        rows: list[int | None] = [None] * len(people)
        if self.tracks and people:
            alike = similarity(self.tracks, people, time)
            alike[~(alike >= SIMILARITY)] = 0
            for i, j in zip(*linear_sum_assignment(alike, maximize=True)):
                if alike[i, j]:
                    rows[i] = int(j)
        return rows


def similarity(tracks: Sequence[Track], people: Sequence[Person], time: float) -> np.ndarray:
    """(people, tracks) in 0 .. 1: mean of IoU and OKS between where the track should be and the person; IoU where few
    joints are known."""
    elapsed, velocity = np.array([time - track.seen for track in tracks]), np.array([t.velocity for t in tracks])
    boxes, found = np.array([_box(track, time) for track in tracks]), np.array([person.bbox for person in people])
    iou = _iou(found[:, None], boxes)
    places, known = _joints([track.person for track in tracks])
    places = places + (velocity * elapsed[:, None])[:, None]
    now, known_now = _joints(people)
    joints = known_now[:, None] & known  # (people, tracks, K)
    squared = np.where(joints[..., None], places - now[:, None], 0.0) ** 2
    area, drift = 0.5 * (_area(boxes) + _area(found)[:, None]), DRIFT * elapsed
    variance = oks_variance(AREA_PER_BOX * area) + (drift**2 * area)[..., None]
    alike, count = oks(squared.sum(axis=-1), variance), joints.sum(axis=-1)
    mean = np.where(joints, alike, 0.0).sum(axis=-1) / np.maximum(count, 1)
    return np.where(count < JOINTS, iou, 0.5 * (iou + mean))


def _move(track: Track, person: Person, time: float, detected: bool) -> None:
    """The track's newest sight of its person."""
    elapsed = max(time - track.seen, TICK)  # floats of absurd size do not tick
    (before, after), known = _joints([track.person, person])
    joints = known.all(axis=0)
    if joints.sum() >= JOINTS:  # a box jumps when an arm is stretched or cut; the middle of many joints does not
        moved = _middle((after - before)[joints])
    elif detected:
        moved = 0.5 * (person.bbox[:2] + person.bbox[2:] - track.box[:2] - track.box[2:])
    else:
        moved = track.velocity * elapsed
    track.box = person.bbox if detected else track.box + np.tile(moved, 2)
    gain = 1.0 if track.hits == 1 else GAIN
    track.velocity = track.velocity + gain * (moved / elapsed - track.velocity)
    track.person, track.seen, track.hits = person, time, track.hits + 1


def _lost(track: Track, time: float) -> Person:
    shift = track.velocity * (time - track.seen)
    person, unknown = track.person, np.full_like(track.person.presence, np.nan)
    return replace(
        person,
        score=0.0,
        bbox=_box(track, time).astype(np.float32),
        window=(person.window + np.tile(shift, 2)).astype(np.float32),
        keypoints=(person.keypoints + shift).astype(np.float32),
        presence=unknown, visibility=unknown, quality=unknown, peak=unknown,
        states=np.full_like(person.states, KeypointState.UNKNOWN),
        regions=None,
        id=track.id,
        track_state=TrackState.LOST,
    )  # fmt: skip


def _box(track: Track, time: float) -> np.ndarray:
    return track.box + np.tile(track.velocity * (time - track.seen), 2)


def _joints(people: Sequence[Person]) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, K, 2) and which of them say something (N, K)."""
    places, states = np.array([person.keypoints for person in people]), np.array([person.states for person in people])
    placed = (states == KeypointState.IN) | (states == KeypointState.IN_OR_OUT)
    return places, placed & np.isfinite(places).all(axis=-1)


def _middle(values: np.ndarray) -> np.ndarray:
    """The median of (N, 2) along N; NumPy's own costs more than all the rest of a track."""
    ordered = np.sort(values, axis=0)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).clip(min=1).prod(axis=-1)  # px^2; a box of no size is a point's


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    shared = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(min=0).prod(axis=-1)
    return shared / (_area(a) + _area(b) - shared)
