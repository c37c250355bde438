"""Results <-> messages: the round trip, through the serialised form too, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("probpose_msgs.msg", reason="needs the built probpose_msgs (make test builds it)")
pytestmark = pytest.mark.ros

from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from probpose_msgs.msg import PersonPose, PersonPoseArray, Zone, ZoneArray  # noqa: E402
from probpose_ros.config import NodeConfig  # noqa: E402
from probpose_ros.ros.convert import message_to_dict, people_head, result_of, zones_head  # noqa: E402
from probpose_ros.ros.wire import layout, message_bytes, people_items, zone_items  # noqa: E402
from probpose_ros.serialize import frame_to_dict  # noqa: E402
from probpose_ros.types import FrameResult, FrameState, Person, RegionKind, Regions, TrackState  # noqa: E402
from probpose_ros.zones import RangeSource, whole_view  # noqa: E402
from probpose_ros.zones import Zone as PersonZone  # noqa: E402

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


def people_bytes(result: FrameResult, header: Header, polygons: bool = False) -> bytes:
    head = people_head(result, header, LEVELS, "tiny")
    return message_bytes(head, len(result.people), people_items(result.people, polygons))


def people_message(result: FrameResult, header: Header, polygons: bool = False) -> PersonPoseArray:
    """As a subscriber gets it."""
    return deserialize_message(people_bytes(result, header, polygons), PersonPoseArray)


def some_without(result: FrameResult) -> FrameResult:
    """The first person without regions (LOST), one joint of the last without polygons (its map was nonsense)."""
    first, *others, last = result.people
    none = (np.zeros((0, 2), np.float32),) * 2
    regions = replace(last.regions, polygons=(*last.regions.polygons[:5], none, *last.regions.polygons[6:]))
    people = (replace(first, regions=None), *others, replace(last, regions=regions))
    return replace(result, people=people)


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
    received = people_message(result, Header(frame_id="cam"), polygons)
    assert received.header.frame_id == "cam" and np.isnan(received.age_ms)
    assert_same(result_of(received), result, polygons)


@pytest.mark.parametrize("frame_id", ["", "cam", "camera_optical_frame"])  # strings shift what follows
@pytest.mark.parametrize("change", [lambda r: r, some_without, lambda r: replace(r, people=())])
def test_bytes_are_those_of_another_librarys_serialisation(change: Callable, frame_id: str) -> None:
    """rosbags writes CDR in pure Python, here from the dicts that ``probpose run --json`` gives. The people are
    the same byte for byte; between the fields of the head rclpy leaves whatever was in memory."""
    pytest.importorskip("rosbags", reason="the second opinion on CDR is the library rosbags")
    from probpose_ros.bags import PEOPLE, message, typestore

    result = change(some_result(3))
    fields = frame_to_dict(result, levels=LEVELS, model="tiny", frame_id=frame_id)
    expected = bytes(typestore().serialize_cdr(message(PEOPLE, fields), PEOPLE))
    made, items = people_bytes(result, Header(frame_id=frame_id), True), people_items(result.people, True)
    assert len(made) == len(expected) and made[-len(items) - 4 :] == expected[-len(items) - 4 :]


def test_zones_over_the_wire() -> None:
    random = np.random.default_rng(0)
    square, rays = np.array([[0, 0], [1, 0], [1, 1.5]], np.float32), random.normal(size=(16, 2))
    zones = [
        PersonZone(1, "person", random.normal(size=(16, 2)).astype(np.float32), 0.95, RegionKind.PAC, True),
        PersonZone(2, "head", square, 0.95, RegionKind.PAC, False, rays, 1.0, 2.0, RangeSource.DEPTH),
        whole_view(640, 480),
        whole_view(0, 0),
    ]
    result = FrameResult((), 640, 480, FrameState.STALE)
    head = zones_head(result, Header(frame_id="cam"), zones[:2], 12.0, NodeConfig(), "some", 0.1)
    received = deserialize_message(message_bytes(head, len(zones), zone_items(zones, Zone.STALE)), ZoneArray)
    assert (received.header.frame_id, received.state, received.calibration_id) == ("cam", Zone.STALE, "some")
    for got, want in zip(received.zones, zones, strict=True):
        assert (got.person_id, got.part, got.valid) == (want.person_id, want.part, want.valid)
        assert got.state == (Zone.STALE if want.valid else Zone.UNKNOWN) and got.range_source == want.source
        np.testing.assert_array_equal(np.array([(p.x, p.y) for p in got.polygon]).reshape(-1, 2), want.polygon)
        corners = np.array([(p.x, p.y, p.z) for p in got.points]).reshape(-1, 3)
        np.testing.assert_allclose(corners, want.points, rtol=1e-6)
        np.testing.assert_allclose(got.distance, want.distance, rtol=1e-6)
    assert [len(zone.polygon) for zone in received.zones] == [16, 3, 4, 0] and len(received.zones[1].points) == 32


def test_no_message_ends_with_padding() -> None:
    """What ``layout`` relies on: a list's items follow each other without a gap."""
    for kind, counts in ((PersonPose, {"regions": 1, "polygon": 0}), (Zone, {"part": 3, "polygon": 1, "points": 0})):
        fields = layout(kind, **counts)
        last, start = fields.fields[fields.names[-1]][:2]
        assert start + last.itemsize == fields.itemsize


def test_a_person_without_regions() -> None:
    result = some_result(1)
    message = people_message(replace(result, people=(replace(result.people[0], regions=None),)), Header())
    assert all(len(k.regions) == 0 and np.isnan(k.covariance).all() for k in message.people[0].keypoints)
    assert result_of(message).people[0].regions is None


def test_dict_of_a_message_has_the_fields_of_the_runtimes_own() -> None:
    result = some_result(1)
    ours = message_to_dict(people_message(result, Header(), polygons=True))
    other = frame_to_dict(result, levels=LEVELS, model="tiny")
    for person in other["people"]:
        for keypoint in person["keypoints"]:
            del keypoint["peak"]  # not in the message
    assert fields_of(ours) == fields_of(other)


def fields_of(value: object) -> object:
    if isinstance(value, dict):
        return {name: fields_of(item) for name, item in value.items()}
    return fields_of(value[0]) if isinstance(value, list) and value else type(value) in (list, tuple)


def test_five_people_cost_a_fraction_of_rclpys_objects() -> None:
    """rclpy alone, with its objects made already, needs longer."""
    result, header, times = some_result(), Header(), np.zeros((30, 2))
    message = people_message(result, header)
    for row in times:
        start = time.thread_time()
        people_bytes(result, header)
        middle = time.thread_time()
        serialize_message(message)
        row[:] = middle - start, time.thread_time() - middle
    ours, objects = times.min(axis=0)
    assert ours < objects / 2
