"""foxglove_msgs/ImageAnnotations from a result. foxglove_msgs is not on PyPI: the messages are stood in for by doubles
with the same fields where it is missing, so that only the type support is left untried there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("probpose_msgs.msg", reason="needs the built probpose_msgs (make test builds it)")
pytestmark = pytest.mark.ros

from std_msgs.msg import Header  # noqa: E402
from test_ros_convert import some_result  # noqa: E402

from probpose_msgs.msg import PersonPoseArray  # noqa: E402
from probpose_ros.ros import foxglove  # noqa: E402
from probpose_ros.types import FrameResult, FrameState, KeypointState, Person  # noqa: E402

ROOT = Path(__file__).parents[1]


@dataclass
class Shape:
    """The fields of foxglove_msgs/PointsAnnotation and its constants."""

    timestamp: object
    type: int
    points: list
    outline_color: object
    outline_colors: list
    thickness: float
    fill_color: object = field(default_factory=lambda: SimpleNamespace(a=0.0))
    POINTS, LINE_LOOP, LINE_LIST = 1, 2, 4


@pytest.fixture(autouse=True)
def messages(monkeypatch: pytest.MonkeyPatch) -> None:
    if foxglove.ImageAnnotations is None:
        for name in ("ImageAnnotations", "Color", "Point2"):
            monkeypatch.setattr(foxglove, name, SimpleNamespace, raising=False)
        monkeypatch.setattr(foxglove, "PointsAnnotation", Shape, raising=False)


def one_person(**changes: object) -> tuple[FrameResult, Person]:
    person = some_result(1).people[0]
    person = Person(**{**person.__dict__, "states": np.full(17, KeypointState.IN, np.uint8), **changes})
    return FrameResult((person,), 640, 480, FrameState.OK), person


def test_annotations_lie_half_a_pixel_further_because_foxglove_counts_from_the_corner() -> None:
    header = Header(frame_id="cam")
    header.stamp.sec = 7
    result, person = one_person()
    zone = np.array([[0, 0], [10, 0], [10, 20]], np.float32)
    shapes = foxglove.image_annotations(result, [zone], header, 0.95).points
    outline, *ellipses, skeleton, joints = shapes
    assert [(p.x, p.y) for p in outline.points] == [(0.5, 0.5), (10.5, 0.5), (10.5, 20.5)]
    assert len(ellipses) == 17 and all(shape.fill_color.a > 0 and shape.type == 2 for shape in ellipses)
    centre = np.mean([(p.x, p.y) for p in ellipses[4].points], axis=0) - 0.5
    np.testing.assert_allclose(centre, person.regions.ellipses[4, 1, :2], atol=1e-5)
    assert skeleton.type == 4 and len(skeleton.points) == 2 * len(skeleton.outline_colors)
    np.testing.assert_allclose([(p.x, p.y) for p in joints.points], person.keypoints + 0.5, atol=1e-6)
    assert all(shape.timestamp.sec == 7 for shape in shapes)


def test_a_joint_that_is_out_or_has_no_place_is_not_drawn() -> None:
    states = np.full(17, KeypointState.OUT, np.uint8)
    states[:2] = KeypointState.IN
    keypoints = np.ones((17, 2), np.float32)
    keypoints[1] = np.nan
    result, _ = one_person(states=states, keypoints=keypoints)
    ellipse, joints = foxglove.image_annotations(result, [], Header(), 0.5).points
    assert ellipse.fill_color.a > 0 and len(joints.points) == 1
    nothing, _ = one_person(states=np.full(17, KeypointState.OUT, np.uint8))
    assert foxglove.image_annotations(nothing, [], Header(), 0.5).points == []


# What the panels read, by the sources of the open fork Lichtblick and the layouts of foxglove-sdk; others are ignored.
PANEL_KEYS = {
    "Image": {"imageMode", "topics", "followMode"},
    "3D": {"cameraState", "followMode", "topics"},
    "Plot": {
        "paths", "isSynced", "xAxisVal", "showXAxisLabels", "showYAxisLabels", "showLegend", "legendDisplay"
    },
    "DiagnosticSummary": {"topicToRender", "minLevel", "pinnedIds", "hardwareIdFilter", "sortByLevel"},
}  # fmt: skip


def test_layout_shows_the_nodes_topics() -> None:
    layout = json.loads((ROOT / "config/foxglove_layout.json").read_text())
    panels = layout["configById"]
    image = next(config["imageMode"] for name, config in panels.items() if name.startswith("Image!"))
    assert image["imageTopic"] == "/probpose/image"
    assert "calibrationTopic" not in image, "while such a topic is silent, Foxglove shows no image either"
    assert image["annotations"] == {"/probpose/annotations": {"visible": True}}

    def leaves(node: object) -> set[str]:
        return leaves(node["first"]) | leaves(node["second"]) if isinstance(node, dict) else {str(node)}

    assert leaves(layout["layout"]) == set(panels), "every panel is placed, and has a configuration"
    assert {name.partition("!")[0] for name in panels} == set(PANEL_KEYS)
    assert all(set(config) <= PANEL_KEYS[name.partition("!")[0]] for name, config in panels.items())
    paths = {path["value"] for name, config in panels.items() for path in config.get("paths", [])}
    fields = {f"/probpose/keypoints.{field}" for field in PersonPoseArray.get_fields_and_field_types()}
    assert paths and paths <= fields


def test_the_node_publishes_them(tiny_detector_model: Path, tiny_pose_model: Path) -> None:
    messages = pytest.importorskip("foxglove_msgs.msg", reason="foxglove_msgs is not installed (it is not on PyPI)")
    from ros_bench import Bench
    from tiny_models import person_image

    bench = Bench(tiny_detector_model, tiny_pose_model)
    try:
        bench.start()
        bench.listen("annotations", messages.ImageAnnotations)
        publisher = bench.publisher()
        bench.connected()

        def looked() -> list:
            publisher.publish(bench.image(person_image((40, 30, 110, 200))))
            return bench.messages["annotations"]

        shapes = bench.until(looked, "annotations")[0].points
        points = np.array([(p.x, p.y) for shape in shapes for p in shape.points])
        assert len(points) and np.isfinite(points).all()
    finally:
        bench.close()
