"""Ids over time: synthetic people who cross, vanish and come back."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import BODY

from probpose_ros.codec import AREA_PER_BOX
from probpose_ros.config import NodeConfig
from probpose_ros.skeleton import SIGMAS
from probpose_ros.tracking import DRIFT, Track, Tracker, _middle, similarity
from probpose_ros.types import FrameResult, FrameState, KeypointState, Person, TrackState
from probpose_ros.zones import bodies, zones_at

FPS = 15.0


def person(x: float, y: float = 240, height: float = 200, rng: np.random.Generator | None = None) -> Person:
    """A standing person around (x, y), 0.4 as wide as high; with rng, seen as badly as a detector and a network do."""
    size = np.array([0.4 * height, height])
    corner = np.array([x, y]) - size / 2
    box, keypoints = np.concatenate([corner, corner + size]), corner + BODY * size
    if rng is not None:
        box = box + rng.normal(0, 0.03 * height, 4)
        keypoints = keypoints + rng.normal(0, 0.015 * height, keypoints.shape)
    one = np.ones(17, np.float32)
    return Person(
        score=0.9, bbox=box.astype(np.float32), window=box.astype(np.float32), keypoints=keypoints.astype(np.float32),
        presence=one, visibility=one, quality=one, peak=one, states=np.full(17, KeypointState.IN, np.uint8),
    )  # fmt: skip


def ids(people: list[Person]) -> list[int]:
    return [person.id for person in people]


def states(people: list[Person]) -> list[TrackState]:
    return [person.track_state for person in people]


def test_new_then_tracked_in_the_order_given() -> None:
    tracker = Tracker()
    first = tracker.update([person(100), person(400)], 0.0)
    assert ids(first) == [1, 2] and states(first) == [TrackState.NEW] * 2
    second = tracker.update([person(402), person(103), person(700)], 0.1)
    assert ids(second) == [2, 1, 3]
    assert states(second) == [TrackState.TRACKED, TrackState.TRACKED, TrackState.NEW]
    np.testing.assert_array_equal(second[0].keypoints, person(402).keypoints)  # nothing is smoothed or moved


@pytest.mark.parametrize("seed", range(5))
def test_people_who_cross_keep_their_ids(seed: int) -> None:
    """Two walk through each other at 1.2 body heights a second, one of them nearer to the camera; then a third stands
    in their way. While one covers another by more than half, the covered one is not found."""
    rng, tracker = np.random.default_rng(seed), Tracker()
    seen: list[list[int]] = []
    for frame in range(60):
        t = frame / FPS
        here = {"left": person(100 + 240 * t, 250, 230, rng), "right": person(900 - 240 * t, 235, 200, rng)}
        here["stands"] = person(650, 215, 170, rng)
        people = [one for name, one in here.items() if name == "left" or not _covered(one, here["left"])]
        order = rng.permutation(len(people))
        found = tracker.update([people[i] for i in order], t)
        back = {id(people[i]): found[k].id for k, i in enumerate(order)}
        seen.append([back.get(id(one), 0) for one in here.values()])
    columns = np.array(seen).T
    for column in columns:
        assert len(set(column[column > 0])) == 1, columns
    assert (columns[1:] == 0).sum() >= 4, "nobody was ever covered: the test tests nothing"


def _covered(one: Person, front: Person) -> bool:
    shared = np.minimum(one.bbox[2:], front.bbox[2:]) - np.maximum(one.bbox[:2], front.bbox[:2])
    return bool(shared.clip(min=0).prod() > 0.5 * (one.bbox[2:] - one.bbox[:2]).prod())


@pytest.mark.parametrize("missing", [1, 3, 10])
def test_a_walker_survives_misses(missing: int) -> None:
    tracker = Tracker(keep=1.0)
    for frame in range(10):
        (found,) = tracker.update([person(100 + 12 * frame)], frame / FPS)
    for frame in range(10, 10 + missing):
        assert tracker.update([], frame / FPS) == []
        (lost,) = tracker.lost()
        assert (lost.id, lost.track_state, lost.score) == (found.id, TrackState.LOST, 0.0)
        assert np.abs(lost.keypoints - person(100 + 12 * frame).keypoints).max() < 5, "where the walker is by now"
        assert (lost.states == KeypointState.UNKNOWN).all() and np.isnan(lost.presence).all() and lost.regions is None
    (again,) = tracker.update([person(100 + 12 * (10 + missing))], (10 + missing) / FPS)
    assert again.id == found.id and again.track_state == TrackState.TRACKED
    assert tracker.lost() == []


def test_unseen_for_too_long_is_somebody_new_and_ids_never_come_twice() -> None:
    tracker = Tracker(keep=0.5)
    seen: set[int] = set()
    for round_ in range(20):
        (found,) = tracker.update([person(100)], round_ * 0.6)
        assert found.track_state == TrackState.NEW and found.id not in seen
        seen.add(found.id)
    tracker.update([], 12.0)
    assert tracker.lost() == [] and tracker.tracks == []


def test_several_cameras_share_their_ids() -> None:
    shared = count(1)
    left, right = Tracker(ids=shared), Tracker(ids=shared)
    a, b = left.update([person(100)], 0.0), right.update([person(100), person(400)], 0.0)
    assert len({*ids(a), *ids(b)}) == 3
    assert ids(left.update([person(101)], 0.1)) == ids(a), "a camera's people are its own"


def test_oks_tells_apart_what_boxes_cannot() -> None:
    """Two people in the same box, one upside down: only the joints say who is who."""
    tracker = Tracker()
    upright = person(200)
    turned = replace(upright, keypoints=2 * np.float32([200, 240]) - upright.keypoints)
    assert ids(tracker.update([upright, turned], 0.0)) == [1, 2]
    assert ids(tracker.update([turned, upright], 0.1)) == [2, 1]


def test_similarity_of_all_pairs_is_that_of_each() -> None:
    rng, now = np.random.default_rng(0), 1.2

    def seen_badly(x: float) -> Person:
        one = person(x, rng=rng)
        return replace(one, states=rng.choice([1, 1, 2, 3], 17).astype(np.uint8))

    tracks = [Track(i, one, one.bbox, rng.normal(0, 50, 2), 1.0) for i, one in enumerate(map(seen_badly, (100, 130)))]
    people = [seen_badly(105), seen_badly(140), replace(seen_badly(160), states=np.zeros(17, np.uint8))]
    found = similarity(tracks, people, now)
    for p, one in enumerate(people):
        for t, track in enumerate(tracks):
            shift, elapsed = track.velocity * (now - track.seen), now - track.seen
            box, other = track.box + np.tile(shift, 2), one.bbox
            width, height = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
            shared, sizes = max(width, 0) * max(height, 0), [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
            iou, terms = shared / (sum(sizes) - shared), []
            for k in range(17):
                if one.states[k] in (1, 2) and track.person.states[k] in (1, 2):
                    d = track.person.keypoints[k] + shift - one.keypoints[k]
                    area = sum(sizes) / 2
                    variance = (2 * SIGMAS[k]) ** 2 * AREA_PER_BOX * area + (DRIFT * elapsed) ** 2 * area
                    terms.append(np.exp(-(d @ d) / (2 * variance)))
            expected = iou if len(terms) < 3 else (iou + np.mean(terms)) / 2
            assert found[p, t] == pytest.approx(expected, rel=1e-9)


def test_the_middle_is_the_median() -> None:
    for n in range(3, 18):
        values = np.random.default_rng(n).normal(size=(n, 2))
        np.testing.assert_allclose(_middle(values), np.median(values, axis=0))


def test_without_known_joints_boxes_do() -> None:
    tracker = Tracker()
    unknown = [
        replace(one, states=np.zeros(17, np.uint8), keypoints=np.full((17, 2), np.nan, np.float32))
        for one in (person(100), person(400))
    ]
    assert ids(tracker.update(unknown, 0.0)) == [1, 2]
    assert ids(tracker.update(unknown[::-1], 0.1)) == [2, 1]


def test_the_same_image_time_and_steps_back() -> None:
    tracker = Tracker(keep=0.5)
    tracker.update([person(100)], 10.0)
    assert ids(tracker.update([person(101)], 10.0)) == [1]  # a camera whose clock stands still
    assert ids(tracker.update([person(102)], float("nan"))) == [1]
    assert ids(tracker.update([person(102)], 2.0)) == [2], "a bag that starts again"
    assert ids(tracker.update([person(102)], 1e9)) == [3]
    for _ in range(1000):
        tracker.update([], 1e9)
    assert tracker.tracks == [], "stamps that stand still let nobody stay forever"


def test_boxes_follow_without_a_detector() -> None:
    """Every fifth image has detections; between them the pose network looks where the tracker believes people are."""
    tracker = Tracker()
    for frame in range(60):
        t, truth = frame / FPS, person(100 + 10 * frame + 20 * np.sin(frame / 5))
        if detected := frame % 5 == 0:
            seen = truth
        else:
            (box,) = tracker.boxes(t)
            assert frame == 1 or np.abs(box - truth.bbox).max() < 12, "a small part of its 80 x 200 px"
            seen = replace(truth, bbox=box)
        (found,) = tracker.update([seen], t, detected)
        assert found.id == 1
    assert tracker.boxes(t).shape == (1, 4) and Tracker().boxes(0.0).shape == (0, 4)


def test_zones_do_not_depend_on_ids() -> None:
    tracker, rng = Tracker(), np.random.default_rng(0)
    for frame in range(20):
        people = [person(100 + 30 * frame, rng=rng), person(700 - 30 * frame, rng=rng)][: rng.integers(0, 3)]
        tracked = tracker.update(people, frame / FPS)
        for raw, named in zip(people, tracked):
            results = [FrameResult((who,), 1280, 720, FrameState.OK) for who in (raw, named)]
            zones, named_zones = (zones_at(bodies(result, NodeConfig()), 0.1, NodeConfig()) for result in results)
            for zone, named_zone in zip(zones, named_zones):
                np.testing.assert_array_equal(zone.polygon, named_zone.polygon)
                assert (zone.valid, zone.kind) == (named_zone.valid, named_zone.kind)


@given(st.lists(st.tuples(st.floats(allow_nan=True, allow_infinity=True), st.integers(0, 6)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_times_and_crowds(steps: list[tuple[float, int]]) -> None:
    tracker, rng, ever = Tracker(), np.random.default_rng(0), set()
    for time, n in steps:
        people = [person(*rng.uniform(0, 300, 2), height=rng.choice([0, 1, 150]), rng=rng) for _ in range(n)]
        before = {track.id for track in tracker.tracks}
        found = tracker.update(people, time)
        assert len(set(ids(found))) == len(found) == n
        for one in found:
            assert (one.track_state == TrackState.TRACKED) == (one.id in before)
            assert one.id in before or one.id not in ever
            ever.add(one.id)
        assert not {one.id for one in tracker.lost()} & set(ids(found))
