"""Track ids in the node: kept over a miss, never used twice, and of no influence on zones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ros_bench import Bench, PersonPoseArray
from tiny_models import person_image

pytestmark = pytest.mark.ros

from rclpy.parameter import Parameter  # noqa: E402

from probpose_ros.types import TrackState  # noqa: E402

LEFT, RIGHT = (40, 30, 100, 200), (200, 40, 280, 220)


@pytest.fixture
def make(tiny_detector_model: Any, tiny_pose_model: Any) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def start(**parameters: Any) -> Bench:
        # Long, so that a busy test machine ends no track; the last test shortens it.
        made.append(Bench(tiny_detector_model, tiny_pose_model, stale_after=10.0, track_keep=10.0, **parameters))
        made[-1].start()
        made[-1].listen_to_results()
        return made[-1]

    yield start
    for bench in made:
        bench.close()


def people(message: PersonPoseArray) -> dict[int, TrackState]:
    return {person.id: TrackState(person.track_state) for person in message.people}


def test_ids_survive_a_miss_and_zones_know_only_who_is_seen(make: Callable[..., Bench]) -> None:
    bench = make()
    publisher = bench.publisher()
    both, one = person_image(LEFT, RIGHT), person_image(LEFT)
    bench.answer(publisher, bench.image(both))
    first = bench.messages["keypoints"][0]
    ids = set(people(first))
    assert len(ids) == 2 and set(people(first).values()) == {TrackState.NEW} and min(ids) > 0
    assert people(bench.answer(publisher, bench.image(both))) == dict.fromkeys(ids, TrackState.TRACKED)
    assert len(people(bench.answer(publisher, bench.image(one)))) == 1
    nobody = bench.answer(publisher, bench.image(person_image()))
    assert (nobody.state, list(nobody.people)) == (PersonPoseArray.NO_PERSON_DETECTED, [])

    bench.node.set_parameters([Parameter("track_lost", value=True)])
    msg = bench.image(one)
    states = people(bench.answer(publisher, msg))
    assert set(states) == ids and sorted(states.values()) == [TrackState.TRACKED, TrackState.LOST]
    zone, *parts = bench.answer(publisher, msg, "zones").zones  # of the one who is seen
    assert {part.person_id for part in parts} == {zone.person_id}
    assert states[zone.person_id] == TrackState.TRACKED
    assert people(bench.answer(publisher, bench.image(both))) == dict.fromkeys(ids, TrackState.TRACKED)


def test_no_id_comes_twice_in_a_run(make: Callable[..., Bench]) -> None:
    bench = make(cameras=["left", "right"])
    both = person_image(LEFT, RIGHT)
    ever: set[int] = set()
    for _ in range(2):
        for camera in ("left", "right"):
            bench.listen_to_results(f"{camera}/")
            topic = f"{camera}/keypoints"
            found = set(people(bench.answer(bench.publisher(f"{camera}/image"), bench.image(both), topic)))
            assert len(found) == 2 and not found & ever
            ever |= found
        for transition in ("deactivate", "cleanup", "configure", "activate"):
            assert getattr(bench.node, f"trigger_{transition}")().name == "SUCCESS"
    bench.node.set_parameters([Parameter("track_keep", value=0.0)])
    assert all(channel.tracker.keep == 0 for channel in bench.node.channels)
