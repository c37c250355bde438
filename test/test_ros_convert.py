"""Results <-> messages: the round trip, through the serialised form too, and what it costs."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("probpose_msgs.msg", reason="needs the built probpose_msgs (make test builds it)")
pytestmark = pytest.mark.ros

from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from probpose_msgs.msg import PersonPoseArray  # noqa: E402
from probpose_ros.ros.convert import message_to_dict, people_message, result_of  # noqa: E402
from probpose_ros.serialize import frame_to_dict  # noqa: E402
from probpose_ros.types import FrameResult, FrameState, Person, RegionKind, Regions, TrackState  # noqa: E402

LEVELS = [0.5, 0.95]


def some_result(people: int = 5, seed: int = 0) -> FrameResult:
    random = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    def person(i: int) -> Person:
        regions = Regions(
            levels=np.array(LEVELS, np.float32), kind=RegionKind.UNKNOWN, valid=random.random((17, 2)) < 0.5,
            ellipses=numbers(17, 2, 5), areas=numbers(17, 2), covariances=numbers(17, 3),
            polygons=tuple((numbers(6, 2), numbers(9, 2)) for _ in range(17)),
        )  # fmt: skip
        unknown = numbers(17)
        unknown[3] = np.nan
        return Person(
            score=0.5, bbox=numbers(4), window=numbers(4), keypoints=numbers(17, 2), presence=unknown,
            visibility=numbers(17), quality=numbers(17), peak=np.full(17, np.nan, np.float32),
            states=random.integers(0, 4, 17).astype(np.uint8),
            regions=regions, id=i, track_state=TrackState.TRACKED,
        )  # fmt: skip

    return FrameResult(tuple(person(i) for i in range(people)), 640, 480, FrameState.OK)


def assert_same(got: FrameResult, want: FrameResult, polygons: bool) -> None:
    assert (got.state, got.image_width, got.image_height) == (want.state, want.image_width, want.image_height)
    for a, b in zip(got.people, want.people):
        assert (a.id, a.track_state, a.score) == (b.id, b.track_state, b.score)
        for name in ("bbox", "window", "keypoints", "presence", "visibility", "quality", "states"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for name in ("levels", "valid", "ellipses", "areas", "covariances"):
            np.testing.assert_array_equal(getattr(a.regions, name), getattr(b.regions, name))
        for row, other in zip(a.regions.polygons, b.regions.polygons):
            for p, q in zip(row, other):
                np.testing.assert_array_equal(p, q if polygons else np.zeros((0, 2)))


@pytest.mark.parametrize("polygons", [False, True])
def test_round_trip_over_the_wire(polygons: bool) -> None:
    result = some_result()
    message = people_message(result, Header(frame_id="cam"), LEVELS, "tiny", polygons)
    received = deserialize_message(serialize_message(message), PersonPoseArray)
    assert received.header.frame_id == "cam" and np.isnan(received.age_ms)
    assert_same(result_of(received), result, polygons)


def test_a_person_without_regions() -> None:
    result = some_result(1)
    person = Person(**{**result.people[0].__dict__, "regions": None})
    message = people_message(FrameResult((person,), 640, 480, FrameState.OK), Header(), LEVELS, "tiny")
    assert all(len(k.regions) == 0 and np.isnan(k.covariance).all() for k in message.people[0].keypoints)
    assert result_of(message).people[0].regions is None


def test_dict_of_a_message_has_the_fields_of_the_runtimes_own() -> None:
    result = some_result(1)
    ours = message_to_dict(people_message(result, Header(), LEVELS, "tiny", polygons=True))
    other = frame_to_dict(result, levels=LEVELS, model="tiny")
    for person in other["people"]:
        for keypoint in person["keypoints"]:
            del keypoint["peak"]  # not in the message
    assert fields_of(ours) == fields_of(other)


def fields_of(value: object) -> object:
    if isinstance(value, dict):
        return {name: fields_of(item) for name, item in value.items()}
    return fields_of(value[0]) if isinstance(value, list) and value else type(value) in (list, tuple)


def test_five_people_cost_little() -> None:
    result, header = some_result(), Header()
    times = []
    for _ in range(30):
        began = time.perf_counter()
        serialize_message(people_message(result, header, LEVELS, "tiny"))
        times.append(time.perf_counter() - began)
    assert min(times) < 2e-3
