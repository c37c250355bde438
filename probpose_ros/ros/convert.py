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

from probpose_msgs.msg import Keypoint, PersonPose, PersonPoseArray, Region, SkeletonInfo, Zone, ZoneArray
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


def people_message(
    result: FrameResult, header: Header, levels: Iterable[float], model: str, polygons: bool = False,
    calibration_id: str = "",
) -> PersonPoseArray:  # fmt: skip
    """Everything the pipeline says of one image. sequence, processing_ms and age_ms are the publisher's to fill in.

    polygons: fill in Region.polygon too; they cost more than all the rest together.
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
        people=[_person(person, polygons) for person in result.people],
    )


def _person(person: Person, polygons: bool) -> PersonPose:
    # Columns to Python numbers first: tolist() converts an array 20 times faster than indexing number by number.
    numbers = np.column_stack([person.keypoints, person.presence, person.visibility, person.quality]).tolist()
    states = person.states.tolist()
    regions = [[] for _ in numbers] if person.regions is None else _regions(person.regions, polygons)
    unknown = np.full((len(numbers), 3), np.nan, np.float32)
    covariances = unknown if person.regions is None else person.regions.covariances
    return PersonPose(
        id=person.id,
        track_state=int(person.track_state),
        score=float(person.score),
        bbox=person.bbox.astype(np.float32),
        window=person.window.astype(np.float32),
        keypoints=[
            Keypoint(
                id=k, x=x, y=y, presence=presence, visibility=visibility, quality=quality,
                covariance=covariances[k].astype(np.float32), state=states[k], regions=regions[k],
            )
            for k, (x, y, presence, visibility, quality) in enumerate(numbers)
        ],
    )  # fmt: skip


def _regions(regions: Regions, polygons: bool) -> list[list[Region]]:
    kind, levels = int(regions.kind), regions.levels.tolist()
    columns = (regions.valid.tolist(), regions.ellipses.tolist(), regions.areas.tolist(), regions.polygons)
    return [
        [
            Region(
                level=level, kind=kind, valid=valid, x=x, y=y, semi_major=major, semi_minor=minor, theta=theta,
                area=area, polygon=points(polygon) if polygons else [],
            )
            for level, valid, (x, y, major, minor, theta), area, polygon in zip(levels, *per_level)
        ]
        for per_level in zip(*columns)
    ]  # fmt: skip


def zones_message(
    result: FrameResult, header: Header, zones: list[PersonZone], age_ms: float, config: NodeConfig,
    calibration_id: str = "", delta: float = NAN,
) -> ZoneArray:  # fmt: skip
    """The advisory zones of one image, which hold until its age is ``age_ms`` and the lookahead. sequence as above.

    delta: of the calibration, if its kind is PAC.
    """
    width, height, state = result.image_width, result.image_height, result.state
    view = points(view_corners(width, height)) if width and height else []  # of a broken image not even that is known
    until = 0.0 if math.isnan(age_ms) else 1e-3 * age_ms + config.zone_lookahead
    if state == FrameState.OK and not all(zone.valid for zone in zones):
        state = FrameState.UNKNOWN
    each = FrameState.STALE if state == FrameState.STALE else FrameState.OK
    made = [
        Zone(
            person_id=zone.person_id, part=zone.part, state=int(each if zone.valid else FrameState.UNKNOWN),
            valid=zone.valid, polygon=points(zone.polygon), range_source=int(zone.source),
            points=[Point32(x=x, y=y, z=z) for x, y, z in zone.points.tolist()], distance=zone.distance,
        )
        for zone in zones
    ]  # fmt: skip
    if result.state == FrameState.UNKNOWN:  # nothing can be said: one more zone is the whole view
        made.append(Zone(person_id=-1, part="view", polygon=view, distance=NAN))
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
        observed_area=view if result.state in (FrameState.OK, FrameState.NO_PERSON_DETECTED) else [],
        zones=made,
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
    """The FrameResult in a message: the reverse of :func:`people_message` (polygons only where they were sent)."""
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
