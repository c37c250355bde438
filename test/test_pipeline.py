"""Image -> people, with models whose answers are known; and what happens when a network answers nonsense."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import person_image, write_tiny_pose

from probpose_ros import Pipeline, PipelineConfig
from probpose_ros.config import ConfigError
from probpose_ros.geometry import CropTransform
from probpose_ros.pose import PoseModel
from probpose_ros.types import Detections, FrameState, KeypointState

LEFT, RIGHT = (40, 40, 100, 200), (200, 30, 260, 220)


@pytest.fixture
def config(tiny_detector_model, tiny_pose_model) -> PipelineConfig:
    return PipelineConfig(detector=str(tiny_detector_model), model=str(tiny_pose_model), threads=1)


@pytest.fixture
def pipeline(config) -> Pipeline:
    return Pipeline(config)


def test_people_of_an_image(pipeline):
    image = person_image(LEFT, RIGHT)
    frame = pipeline(image)
    assert (frame.image_width, frame.image_height, frame.state) == (320, 240, FrameState.OK)
    assert set(frame.stage_ms) == {"detect", "crop", "pose", "regions"} and min(frame.stage_ms.values()) >= 0
    assert len(frame.people) == 2
    assert frame.people[0].score >= frame.people[1].score
    for person in frame.people:
        assert person.keypoints.shape == (17, 2) and person.keypoints.dtype == np.float32
        inside = (person.keypoints >= person.bbox[:2]) & (person.keypoints <= person.bbox[2:])
        assert inside.all()
        assert person.keypoints[0, 1] < person.keypoints[11, 1] < person.keypoints[15, 1]  # nose, hip, ankle
        assert person.regions.ellipses.shape == (17, 2, 5)
        assert person.id == -1


def test_keypoints_are_the_networks_in_image_px(pipeline, config):
    image = person_image(LEFT)
    (person,) = pipeline(image).people
    model = PoseModel(config.model)
    transform = CropTransform.from_bbox(person.bbox, (48, 64), 1.25)
    output = model(transform.warp(image)[None])
    np.testing.assert_allclose(person.keypoints, transform.to_image(output.keypoints[0]), atol=1e-4)
    np.testing.assert_allclose(person.window, transform.window)
    np.testing.assert_array_equal(person.presence, output.presence[0])


@pytest.mark.parametrize("shift", [(0, 0), (32, -16), (-30, 20)])
def test_people_move_with_the_image(pipeline, shift):
    # Even steps: the detector sees the image at half size.
    (before,) = pipeline(person_image(LEFT)).people
    moved = np.array(LEFT) + np.tile(shift, 2)
    (after,) = pipeline(person_image(moved.tolist())).people
    np.testing.assert_allclose(after.keypoints, before.keypoints + np.array(shift), atol=0.05)
    np.testing.assert_allclose(after.window, before.window + np.tile(shift, 2), atol=1e-3)
    np.testing.assert_allclose(after.regions.areas, before.regions.areas, rtol=1e-3)


def test_a_person_cut_by_the_frame_keeps_the_joints_outside(pipeline):
    (person,) = pipeline(person_image((40, 140, 100, 240))).people
    assert person.window[3] > 240
    lowest = person.regions.ellipses[15, -1]
    assert lowest[1] + lowest[2] > 240  # the ankle's region reaches beyond the image


def test_several_images_in_one_batch(pipeline):
    nobody, small = np.zeros((50, 60, 3), np.uint8), person_image((20, 20, 60, 120), size=(150, 150))
    images = [person_image(LEFT, RIGHT), nobody, small]
    together = pipeline.process(images)
    assert [len(frame.people) for frame in together] == [2, 0, 1]
    assert together[1].state == FrameState.NO_PERSON_DETECTED
    for image, frame in zip(images, together, strict=True):
        for alone, person in zip(pipeline(image).people, frame.people, strict=True):
            np.testing.assert_allclose(person.keypoints, alone.keypoints, atol=1e-3)
            assert person.score == pytest.approx(alone.score, abs=1e-5)
    assert pipeline.process([]) == []


def test_states_follow_presence(pipeline, config):
    (person,) = pipeline(person_image(LEFT)).people
    low, high = float(person.presence.min()), float(person.presence.max())
    for presence_out, presence_in, expected in [
        (0.0, low, {KeypointState.IN}),
        (min(1.0, high + 0.01), 1.0, {KeypointState.OUT}),
        (0.0, 1.0, {KeypointState.IN_OR_OUT}),
    ]:
        pipeline.reconfigure(replace(config, presence_in=presence_in, presence_out=presence_out))
        (person,) = pipeline(person_image(LEFT)).people
        assert set(person.states.tolist()) == expected
    # Where every joint is out there is nothing left to score.
    pipeline.reconfigure(replace(config, presence_in=1.0, presence_out=1.0))
    assert pipeline(person_image(LEFT)).people[0].score == 0.0


def test_score_is_detection_times_mean_quality_of_what_is_not_out(pipeline, config):
    (person,) = pipeline(person_image(LEFT)).people
    middle = float(np.median(person.presence))
    pipeline.reconfigure(replace(config, presence_in=middle, presence_out=middle))
    (person,) = pipeline(person_image(LEFT)).people
    counted = person.presence >= middle
    assert 0 < counted.sum() < 17
    assert person.score == pytest.approx(0.9 * person.quality[counted].mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keypoints", np.nan), ("keypoints", np.inf), ("presence", np.nan), ("presence", 1.5), ("visibility", -1.0),
        ("quality", np.nan), ("peak", np.nan), ("probmap", np.nan), ("probmap", 0.01),
    ],
)  # fmt: skip
def test_nonsense_is_unknown_and_only_there(pipeline, name, value):
    image = person_image(LEFT)
    (clean,) = pipeline(image).people
    network = pipeline.pose

    class Faulty:
        info, codec, cuts_crops = network.info, network.codec, False

        def __call__(self, crops):
            output = network(crops)
            broken = getattr(output, name).copy()
            broken[0, 7] = broken[0, 7] + value
            return replace(output, **{name: broken})

    pipeline.pose = Faulty()
    (person,) = pipeline(image).people
    others = np.arange(17) != 7
    assert person.states[7] == KeypointState.UNKNOWN
    assert np.isnan(person.keypoints[7]).all()
    for array in ("presence", "visibility", "quality", "peak"):
        assert np.isnan(getattr(person, array)[7])
        np.testing.assert_array_equal(getattr(person, array)[others], getattr(clean, array)[others])
    assert np.isnan(person.regions.ellipses[7]).all() and not person.regions.valid[7].any()
    assert [len(polygon) for polygon in person.regions.polygons[7]] == [0, 0]
    np.testing.assert_array_equal(person.states[others], clean.states[others])
    np.testing.assert_array_equal(person.regions.ellipses[others], clean.regions.ellipses[others])
    assert np.isfinite(person.score)


def test_a_model_without_maps_has_no_regions(tmp_path, config):
    path = write_tiny_pose(tmp_path / "no_map.onnx", probmap=False)
    (person,) = Pipeline(replace(config, model=str(path)))(person_image(LEFT)).people
    assert person.regions is None
    assert (person.states != KeypointState.UNKNOWN).all()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((10, 10), np.uint8), r"got uint8 \(10, 10\)"),
        (np.zeros((10, 10, 4), np.uint8), r"got uint8 \(10, 10, 4\)"),
        (np.zeros((10, 10, 3), np.float32), r"got float32 \(10, 10, 3\)"),
        (np.zeros((0, 10, 3), np.uint8), r"got uint8 \(0, 10, 3\)"),
        (None, "got NoneType"),
    ],
)
def test_bad_images(pipeline, image, words):
    with pytest.raises(ValueError, match=words):
        pipeline(image)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (500, 2, 3)])
@pytest.mark.parametrize("value", [0, 255])
def test_extreme_images_are_handled(pipeline, shape, value):
    frame = pipeline(np.full(shape, value, np.uint8))
    assert (frame.image_height, frame.image_width) == shape[:2]


def test_views_and_readonly_images(pipeline):
    image = person_image(LEFT, RIGHT)
    expected = pipeline(image).people[0].keypoints
    padded = np.zeros((240, 400, 3), np.uint8)
    padded[:, :320] = image
    view = padded[:, :320]
    view.setflags(write=False)
    np.testing.assert_array_equal(pipeline(view).people[0].keypoints, expected)
    reversed_twice = np.ascontiguousarray(image[::-1])[::-1]  # negative strides
    np.testing.assert_array_equal(pipeline(reversed_twice).people[0].keypoints, expected)


def test_reconfigure(pipeline, config):
    image = person_image(LEFT, RIGHT)
    pipeline.reconfigure(replace(config, detector_threshold=0.85))
    assert len(pipeline(image).people) == 1
    pipeline.reconfigure(replace(config, max_people=1))
    assert len(pipeline(image).people) == 1
    pipeline.reconfigure(config)
    assert len(pipeline(image).people) == 2
    with pytest.raises(ConfigError, match="model = 'other': cannot change while running"):
        pipeline.reconfigure(replace(config, model="other"))
    with pytest.raises(ConfigError, match="presence_out = 0.9: must not be above presence_in = 0.5"):
        pipeline.reconfigure(replace(config, presence_out=0.9))
    with pytest.raises(ConfigError, match=r"levels = \[0.9, 0.5\]: must ascend"):
        Pipeline(replace(config, levels=[0.9, 0.5]))
    assert pipeline.config == config


def test_without_levels_there_are_no_regions(config):
    (person,) = Pipeline(replace(config, levels=[]))(person_image(LEFT)).people
    assert person.regions is None


def test_given_boxes_take_the_detectors_place_and_promise_nothing(pipeline):
    image, nobody = person_image(LEFT), np.zeros((50, 60, 3), np.uint8)
    (detected,) = pipeline(image).people
    calls, detector = [], pipeline.detector
    pipeline.detector = lambda images: calls.append(len(images)) or detector(images)
    boxes = Detections(detected.bbox[None] + 3, np.ones(1, np.float32))
    followed, fresh = pipeline.process([image, nobody], [boxes, None])
    assert calls == [1] and not followed.detected and fresh.detected
    (person,) = followed.people
    np.testing.assert_array_equal(person.bbox, detected.bbox + 3)
    np.testing.assert_allclose(person.keypoints, detected.keypoints, atol=4)
    assert not person.regions.valid.any()
    assert fresh.state == FrameState.NO_PERSON_DETECTED
