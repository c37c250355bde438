"""Ids on real clips: every visitor of the reference clips has one id, also where every fourth image finds nobody."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from probpose_ros.config import PipelineConfig
from probpose_ros.pipeline import Pipeline
from probpose_ros.sources import open_source
from probpose_ros.tracking import Tracker
from probpose_ros.types import Person

SHARED = Path(__file__).parents[1] / "../shared/data"
DETECTOR = SHARED / "detector/yolox_nano_416.onnx"
pytestmark = pytest.mark.skipif(not DETECTOR.is_file(), reason="the reference folder ../shared is not there")

Frames = list[tuple[float, list[Person]]]


def people_in(clip: str, every: int, until: float) -> Frames:
    """(stamp, people) of every n-th image."""
    pipeline = Pipeline(PipelineConfig(detector=str(DETECTOR), levels=[0.5], backend="onnxruntime", threads=1))
    found: Frames = []
    for number, (stamp, image) in enumerate(open_source(SHARED / "video" / clip)):
        if stamp > until:
            break
        if number % every == 0:
            found.append((stamp, list(pipeline(image).people)))
    return found


def visits(frames: Frames, drop: int) -> dict[int, int]:
    """Images of every id, where every ``drop``-th image finds nobody (0: none does)."""
    tracker, seen = Tracker(), Counter[int]()
    for number, (stamp, people) in enumerate(frames):
        missed = drop and number % drop == drop - 1
        seen.update(person.id for person in tracker.update([] if missed else people, stamp))
    return dict(seen)


@pytest.mark.parametrize("drop", [0, 4])
def test_three_who_walk_side_by_side(drop: int) -> None:
    seen = visits(people_in("face-demographics-walking-and-pause.gif", 3, 10.0), drop)
    assert len(seen) == 3 and min(seen.values()) >= 9, seen


@pytest.mark.slow
def test_visitors_who_come_one_by_one() -> None:
    """Three come and go in the first 70 seconds, at 3.3 images a second, in which a walker moves by half a width.

    One more id for an image or two is forgiven: at the edge of the view a person comes and goes.
    """
    frames = people_in("one-by-one-person-detection.mp4", 3, 70.0)
    for drop in (0, 3, 4):
        seen = visits(frames, drop)
        assert len([images for images in seen.values() if images > 2]) == 3, seen
        assert len(seen) <= 5, seen
