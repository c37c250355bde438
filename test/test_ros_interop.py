"""People as vision_msgs and hri_msgs. Neither is on PyPI: where one is missing, doubles with the same fields stand in,
so that only the type support is left untried there."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ros_bench import Bench, Header
from test_ros_node import NOBODY, PEOPLE, make  # noqa: F401  (fixture)

pytestmark = pytest.mark.ros

from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from test_ros_convert import some_result  # noqa: E402

from probpose_ros.ros import interop  # noqa: E402
from probpose_ros.skeleton import KEYPOINT_NAMES  # noqa: E402
from probpose_ros.types import FrameResult, FrameState, KeypointState, Person  # noqa: E402

HAVE_VISION, HAVE_HRI = interop.Detection2DArray is not None, interop.Skeleton2D is not None


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> None:
    def box(**fields: Any) -> Any:
        return SimpleNamespace(center=SimpleNamespace(position=SimpleNamespace()), **fields)

    doubles: dict[str, Any] = {}
    if not HAVE_VISION:
        doubles.update(
            Detection2DArray=lambda header: SimpleNamespace(header=header, detections=[]), BoundingBox2D=box,
            Detection2D=SimpleNamespace, ObjectHypothesisWithPose=lambda: SimpleNamespace(hypothesis=SimpleNamespace()),
        )  # fmt: skip
    if not HAVE_HRI:
        names = ("IdsList", "Skeleton2D", "NormalizedPointOfInterest2D", "NormalizedRegionOfInterest2D")
        doubles.update(dict.fromkeys(names, SimpleNamespace))
    for name, double in doubles.items():
        monkeypatch.setattr(interop, name, double, raising=False)


def through_the_wire(message: Any) -> Any:
    return (
        message
        if isinstance(message, SimpleNamespace)
        else deserialize_message(serialize_message(message), type(message))
    )


def standing(**changes: Any) -> Person:
    """Joint k at 10 k, 20 k px in an image of 640 x 480 px."""
    person = some_result(1).people[0]
    keypoints = np.column_stack([np.arange(17) * 10.0, np.arange(17) * 20.0]).astype(np.float32)
    known = np.linspace(0.2, 0.9, 17).astype(np.float32)
    fields = {"keypoints": keypoints, "presence": known, "states": np.full(17, KeypointState.IN, np.uint8), "id": 3}
    return Person(**{**person.__dict__, "bbox": np.array([10, 20, 110, 220], np.float32), **fields, **changes})


def test_boxes(messages: None) -> None:
    people = standing(), standing(id=-1)
    header = Header(frame_id="cam")
    found = through_the_wire(interop.detections_message(FrameResult(people, 640, 480, FrameState.OK), header))
    first, second = found.detections
    assert found.header == first.header == header and (first.id, second.id) == ("3", "")
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (60, 120)
    assert (first.bbox.size_x, first.bbox.size_y) == (100, 200)
    assert first.results[0].hypothesis.class_id == "person" and first.results[0].hypothesis.score == people[0].score


def test_skeleton_in_openposes_order(messages: None) -> None:
    """The order is written out here once more, from Skeleton2D.msg."""
    names = ["NOSE", "NECK", "RIGHT_SHOULDER", "RIGHT_ELBOW", "RIGHT_WRIST", "LEFT_SHOULDER", "LEFT_ELBOW",
             "LEFT_WRIST", "RIGHT_HIP", "RIGHT_KNEE", "RIGHT_ANKLE", "LEFT_HIP", "LEFT_KNEE", "LEFT_ANKLE",
             "LEFT_EYE", "RIGHT_EYE", "LEFT_EAR", "RIGHT_EAR"]  # fmt: skip
    person = standing()
    points = through_the_wire(interop.skeleton2d_message(person, 640, 480, Header())).skeleton
    assert len(points) == 18
    for place, name in enumerate(names):
        if HAVE_HRI:
            assert getattr(interop.Skeleton2D, name) == place
        if name == "NECK":
            left, right = (KEYPOINT_NAMES.index(f"{side}_shoulder") for side in ("left", "right"))
            pixel, presence = person.keypoints[[left, right]].mean(axis=0), person.presence[[left, right]].min()
        else:
            k = KEYPOINT_NAMES.index(name.lower())
            pixel, presence = person.keypoints[k], person.presence[k]
        point = points[place]
        assert (point.x * 640 - 0.5, point.y * 480 - 0.5) == pytest.approx(tuple(pixel), abs=1e-3)
        assert point.c == pytest.approx(presence)


def test_what_cannot_be_held_has_no_confidence(messages: None) -> None:
    person = standing()
    keypoints, states, presence = person.keypoints.copy(), person.states.copy(), person.presence.copy()
    keypoints[0], keypoints[1] = (-50, 20), (np.nan, np.nan)  # nose, left eye
    states[5], states[9] = KeypointState.OUT, KeypointState.UNKNOWN  # left shoulder, left wrist
    presence[16] = np.nan  # right ankle
    person = standing(keypoints=keypoints, states=states, presence=presence)
    points = through_the_wire(interop.skeleton2d_message(person, 640, 480, Header())).skeleton
    assert {i for i, point in enumerate(points) if point.c == 0} == {0, 1, 5, 7, 10, 14}
    assert all(0 <= value <= 1 for point in points for value in (point.x, point.y, point.c))


def test_region_of_interest_is_cut_at_the_border(messages: None) -> None:
    person = standing(bbox=np.array([-30, 47.5, 319.5, 900], np.float32))
    roi = through_the_wire(interop.roi_message(person, 640, 480, Header()))
    assert (roi.xmin, roi.ymin, roi.xmax, roi.ymax) == pytest.approx((0, 0.1, 0.5, 1))


@pytest.mark.skipif(HAVE_HRI, reason="hri_msgs is installed here")
def test_hri_without_its_package_fails_configure_with_the_fix(make: Callable[..., Bench], capfd: Any) -> None:  # noqa: F811
    assert make(active=False, hri=True).node.trigger_configure().name == "FAILURE"
    assert "ros-$ROS_DISTRO-hri-msgs" in capfd.readouterr().err


@pytest.mark.skipif(not (HAVE_VISION and HAVE_HRI), reason="vision_msgs and hri_msgs are not on PyPI")
def test_through_the_node(make: Callable[..., Bench]) -> None:  # noqa: F811
    bench = make(hri=True)
    bench.listen_to_results()
    bench.listen("detections", interop.Detection2DArray)
    bench.listen("/humans/bodies/tracked", interop.IdsList)
    publisher = bench.publisher()
    bench.connected()
    msg = bench.image(PEOPLE)
    people, boxes = bench.answer(publisher, msg), bench.answer(publisher, msg, "detections")
    assert {d.id for d in boxes.detections} == {str(person.id) for person in people.people}
    tracked = bench.answer(publisher, msg, "/humans/bodies/tracked")
    assert set(tracked.ids) == {f"b{person.id}" for person in people.people} and len(tracked.ids) == 2
    name = f"/humans/bodies/{tracked.ids[0]}/skeleton2d"
    bench.listen(name, interop.Skeleton2D)
    bench.connected()
    assert len(bench.answer(publisher, bench.image(PEOPLE), name).skeleton) == 18
    nobody = bench.image(NOBODY)
    assert not bench.answer(publisher, nobody, "/humans/bodies/tracked").ids
    assert not [p for p in bench.node.publishers if p.topic_name == name]
