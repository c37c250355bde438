"""Results <-> messages. Free functions; nothing here knows the node."""

from __future__ import annotations

import array
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from geometry_msgs.msg import Point32
from rclpy.duration import Duration
from rclpy.time import Time
from std_msgs.msg import Header

from probpose_msgs.msg import PersonPose, PersonPoseArray, SkeletonInfo, ZoneArray
from probpose_ros.camera import view_corners
from probpose_ros.config import NodeConfig
from probpose_ros.serialize import skeleton_to_dict
from probpose_ros.types import FrameResult, FrameState, Person, RegionKind, Regions, TrackState
from probpose_ros.zones import Zone as PersonZone

NAN = float("nan")


def floats(values: Iterable[float]) -> array.array:
    """A float32[] field: array.array is taken as it is, a list is checked number by number."""
    return array.array("f", values)


def points(polygon: np.ndarray) -> list[Point32]:
    """(V, 2) image px -> Point32[] with z = 0."""
    return [Point32(x=x, y=y) for x, y in polygon.tolist()]


def people_head(
    result: FrameResult, header: Header, levels: Iterable[float], model: str, calibration_id: str = ""
) -> PersonPoseArray:
    """All that the pipeline says of one image but the people, who join in :mod:`probpose_ros.ros.wire`.

    sequence, processing_ms and age_ms are the publisher's to fill in.
    """
    return PersonPoseArray(
        header=header,
        state=int(result.state),
        image_width=result.image_width,
        image_height=result.image_height,
        model=model,
        calibration_id=calibration_id,
        processing_ms=NAN,
        age_ms=NAN,
        levels=floats(levels),
    )


def zones_head(
    result: FrameResult, header: Header, zones: list[PersonZone], age_ms: float, config: NodeConfig,
    calibration_id: str = "", delta: float = NAN,
) -> ZoneArray:  # fmt: skip
    """All about the advisory zones of one image but themselves, who join in :mod:`probpose_ros.ros.wire`.

    They hold until the image's age is ``age_ms`` and the lookahead. delta: of the calibration, if its kind is PAC.
    sequence is the publisher's to fill in.
    """
    width, height, state = result.image_width, result.image_height, result.state
    until = 0.0 if math.isnan(age_ms) else 1e-3 * age_ms + config.zone_lookahead
    if state == FrameState.OK and not all(zone.valid for zone in zones):
        state = FrameState.UNKNOWN
    searched = result.state in (FrameState.OK, FrameState.NO_PERSON_DETECTED)
    return ZoneArray(
        header=header,
        state=int(state),
        level=zones[0].level if zones else NAN,
        kind=int(zones[0].kind) if zones else ZoneArray.KIND_UNKNOWN,
        delta=delta,
        calibration_id=calibration_id,
        age_ms=age_ms,
        assumed_speed=max(config.zone_arm_speed, config.zone_body_speed),
        valid_until=(Time.from_msg(header.stamp) + Duration(seconds=until)).to_msg(),
        observed_area=points(view_corners(width, height)) if searched else [],
    )


def skeleton_message(model: str, calibration_id: str = "") -> SkeletonInfo:
    return SkeletonInfo(**skeleton_to_dict(model, calibration_id))


def message_to_dict(value: Any) -> Any:
    """A message as plain dicts, lists and numbers, with the names of its fields."""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: message_to_dict(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, (list, tuple, array.array, np.ndarray)):
        return [message_to_dict(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def result_of(message: PersonPoseArray) -> FrameResult:
    """The FrameResult in a message: the reverse of what the node sends (polygons only where they were sent)."""
    people = tuple(_person_of(person, message.levels) for person in message.people)
    return FrameResult(people, message.image_width, message.image_height, FrameState(message.state))


def _person_of(person: PersonPose, levels: Iterable[float]) -> Person:
    keypoints = person.keypoints
    numbers = np.array([(k.x, k.y, k.presence, k.visibility, k.quality) for k in keypoints], np.float32)
    regions = None
    if all(k.regions for k in keypoints):
        each = [k.regions for k in keypoints]
        regions = Regions(
            levels=np.array(levels, np.float32),
            kind=RegionKind(each[0][0].kind),
            valid=np.array([[r.valid for r in row] for row in each]),
            ellipses=np.array(
                [[(r.x, r.y, r.semi_major, r.semi_minor, r.theta) for r in row] for row in each], np.float32
            ),
            areas=np.array([[r.area for r in row] for row in each], np.float32),
            polygons=tuple(
                tuple(np.array([(p.x, p.y) for p in r.polygon], np.float32).reshape(-1, 2) for r in row) for row in each
            ),
            covariances=np.array([k.covariance for k in keypoints], np.float32),
        )
    return Person(
        score=person.score,
        bbox=np.array(person.bbox, np.float32),
        window=np.array(person.window, np.float32),
        keypoints=numbers[:, :2],
        presence=numbers[:, 2],
        visibility=numbers[:, 3],
        quality=numbers[:, 4],
        peak=np.full(len(keypoints), np.nan, np.float32),  # not in the message
        states=np.array([k.state for k in keypoints], np.uint8),
        regions=regions,
        id=person.id,
        track_state=TrackState(person.track_state),
    )
