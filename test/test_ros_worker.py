"""Latest frame only, the heartbeat and the stream's state: the parts of the node that know no ROS."""

from __future__ import annotations

import math
import threading
import time

import pytest

from probpose_ros.ros.heartbeat import Heartbeat
from probpose_ros.ros.stats import Stats, rate
from probpose_ros.ros.worker import Worker
from probpose_ros.types import FrameState

WAIT = 20.0


def test_only_the_newest_item_of_each_key_is_processed() -> None:
    taken, go, done = threading.Event(), threading.Event(), threading.Event()
    seen: list[dict] = []

    def process(items: dict) -> None:
        seen.append(items)
        taken.set()
        assert go.wait(WAIT)
        if len(seen) == 2:
            done.set()

    worker = Worker(process, on_error=pytest.fail)
    assert worker.put("a", 1) is False
    assert taken.wait(WAIT)
    dropped = [worker.put("a", 2), worker.put("b", 10), worker.put("a", 3), worker.put("a", 4)]
    go.set()
    assert done.wait(WAIT)
    assert dropped == [False, False, True, True]
    assert seen == [{"a": 1}, {"a": 4, "b": 10}]
    assert worker.stop(WAIT)


def test_the_worker_survives_exceptions() -> None:
    errors: list[Exception] = []
    done = threading.Event()

    def process(items: dict) -> None:
        if items["a"] == "bad":
            raise RuntimeError("boom")
        done.set()

    worker = Worker(process, errors.append)
    worker.put("a", "bad")
    end = time.monotonic() + WAIT
    while not errors and time.monotonic() < end:
        time.sleep(0.001)
    worker.put("a", "good")
    assert done.wait(WAIT) and [str(error) for error in errors] == ["boom"]
    assert worker.stop(WAIT)


def test_a_hung_worker_is_told() -> None:
    go = threading.Event()
    worker = Worker(lambda items: go.wait(WAIT), pytest.fail)
    worker.put("a", 1)
    time.sleep(0.01)
    assert worker.stop(0.05) is False and worker.stopping
    go.set()
    assert worker.stop(WAIT)


def test_heartbeat_goes_on_after_an_error_and_stops() -> None:
    beats: list[int] = []
    errors: list[Exception] = []
    third = threading.Event()

    def beat(count: int) -> None:
        beats.append(count)
        if count == 1:
            raise RuntimeError("boom")
        if count == 3:
            third.set()

    heartbeat = Heartbeat(0.01, beat, errors.append)
    assert third.wait(WAIT)
    heartbeat.stop()
    count = len(beats)
    time.sleep(0.05)
    assert len(beats) == count and beats[:4] == [0, 1, 2, 3] and len(errors) == 1


def test_state_goes_from_ok_over_stale_to_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stats = Stats(stale_after=0.1)
    assert stats.now()[0] == FrameState.UNKNOWN and math.isnan(stats.now()[1])
    stats.finished(FrameState.OK, 30.0)
    assert stats.now() == (FrameState.OK, 30.0)
    now[0] += 0.069
    assert stats.now()[0] == FrameState.OK
    now[0] += 0.002
    assert stats.now()[0] == FrameState.STALE
    now[0] += 1.0
    assert stats.now()[0] == FrameState.UNKNOWN


def test_three_frame_times_are_allowed_when_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stats = Stats(stale_after=0.1)
    for _ in range(5):
        now[0] += 0.2
        stats.finished(FrameState.OK, 10.0)
    assert stats.limit_ms() == pytest.approx(600)
    assert not stats.silent()
    assert rate(stats.outputs) == pytest.approx(5)
    for _ in range(6):  # a faster camera: within a few frames the limit follows
        now[0] += 0.05
        stats.finished(FrameState.OK, 10.0)
    assert stats.limit_ms() == pytest.approx(150)
    now[0] += 3
    assert stats.silent()
    assert rate(stats.outputs) == 0


@pytest.mark.parametrize("age, word", [(-11.0, "future"), (1001.0, "old"), (math.nan, "no stamp")])
def test_future_ancient_and_missing_stamps_are_unknown(age: float, word: str) -> None:
    stats = Stats(stale_after=0.1)
    assert stats.judge(FrameState.NO_PERSON_DETECTED, age) == FrameState.UNKNOWN and word in stats.doubt(age)


def test_the_state_never_falls_back_to_a_result_while_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stats = Stats(stale_after=0.1)
    stats.finished(FrameState.NO_PERSON_DETECTED, 0.0)
    states = []
    for _ in range(300):
        states.append(stats.now()[0])
        now[0] += 0.01
    order = [FrameState.NO_PERSON_DETECTED, FrameState.STALE, FrameState.UNKNOWN]
    assert [states.index(state) for state in order] == pytest.approx([0, 10, 100], abs=1)
    assert states == sorted(states, key=order.index)


def test_a_failed_frame_is_unknown_until_the_next_good_one() -> None:
    stats = Stats(stale_after=10)
    stats.finished(FrameState.OK, 1.0)
    stats.finished(FrameState.UNKNOWN, 1.0, error="boom", failed=True)
    assert stats.now()[0] == FrameState.UNKNOWN and (stats.errors, stats.last_error) == (1, "boom")
    stats.finished(FrameState.OK, 1.0)
    assert stats.now()[0] == FrameState.OK and (stats.processed, stats.errors) == (2, 1)
