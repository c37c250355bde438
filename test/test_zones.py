"""Zones contain what they say they contain, and promise nothing that the regions do not."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from tiny_models import person_image

from probpose_ros import Pipeline, PipelineConfig
from probpose_ros.types import KeypointState, Person, RegionKind
from probpose_ros.zones import person_zone


@pytest.fixture(scope="module")
def person(tiny_detector_model, tiny_pose_model) -> Person:
    models = {"detector": str(tiny_detector_model), "model": str(tiny_pose_model)}
    config = PipelineConfig(**models, presence_in=0.01, presence_out=0)
    (person,) = Pipeline(config)(person_image((40, 40, 100, 200))).people
    return person


def calibrated(person: Person) -> Person:
    """As if its regions were calibrated."""
    regions = replace(person.regions, kind=RegionKind.MARGINAL, valid=np.ones_like(person.regions.valid))
    return replace(person, regions=regions)


def distance(polygon: np.ndarray, point: np.ndarray) -> float:
    """Signed distance in px, positive inside."""
    return cv2.pointPolygonTest(polygon[:, None], tuple(map(float, point)), True)


def test_contains_every_region_and_the_bbox(person):
    zone = person_zone(calibrated(person))
    assert zone.valid and zone.kind == RegionKind.MARGINAL and zone.level == np.float32(0.95)
    points = np.concatenate([polygons[-1] for polygons in person.regions.polygons])
    x0, y0, x1, y1 = person.bbox
    for point in [*points, (x0, y0), (x1, y0), (x1, y1), (x0, y1)]:
        assert distance(zone.polygon, point) >= -1e-3
    # and nothing else: every corner of the zone is one of those points.
    known = np.concatenate([points, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]])
    assert (np.abs(zone.polygon[:, None] - known).max(-1).min(1) < 1e-3).all()


@pytest.mark.parametrize("inflate", [0.5, 30.0])
def test_inflation_is_a_distance_on_every_side(person, inflate):
    small, large = person_zone(calibrated(person)).polygon, person_zone(calibrated(person), inflate).polygon
    distances = [distance(large, point) for point in small]
    assert min(distances) >= inflate - 1e-2
    assert min(distances) <= inflate * 1.1


@pytest.mark.parametrize("state", [KeypointState.UNKNOWN, KeypointState.OUT, KeypointState.IN_OR_OUT])
def test_a_joint_that_may_be_elsewhere_makes_the_zone_the_window_and_invalid(person, state):
    states = person.states.copy()
    states[9] = state
    zone = person_zone(replace(calibrated(person), states=states))
    assert not zone.valid
    x0, y0, x1, y1 = person.window
    for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)):
        assert distance(zone.polygon, corner) >= -1e-3


def test_without_calibration_or_regions_nothing_is_promised(person):
    assert person_zone(person).kind == RegionKind.UNKNOWN
    assert not person_zone(person).valid
    bare = person_zone(replace(person, regions=None))
    assert not bare.valid and np.isnan(bare.level) and bare.polygon.shape == (4, 2)
