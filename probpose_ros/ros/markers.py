"""Markers for RViz: few batched markers with fixed ids, in the camera's optical frame.

Whatever the distance, a marker on the ray of a pixel lies on that pixel in RViz's Camera display (which knows no
distortion: give it a rectified image). People with a measured distance are drawn there, others at one fixed depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from rclpy.duration import Duration
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from probpose_ros import draw
from probpose_ros.camera import Camera, view_corners
from probpose_ros.config import NodeConfig
from probpose_ros.skeleton import EDGES
from probpose_ros.types import FrameResult, FrameState, KeypointState, Person
from probpose_ros.zones import RangeSource, Zone

RIM = 12  # corners of a drawn ellipse
# An ellipse cut into triangles that share its first corner.
FAN = [corner for i in range(1, RIM - 1) for corner in (0, i, i + 1)]
COLORS = {state: tuple(value / 255 for value in reversed(bgr)) for state, bgr in draw.COLORS.items()}
ZONE_COLOR = (1.0, 0.85, 0.1)
STALE_COLOR = (1.0, 0.45, 0.1)
NOT_VALID_COLOR = COLORS[KeypointState.UNKNOWN]
NEAREST = 0.1  # m, where people nearer than that are drawn


def people_markers(
    result: FrameResult, zones: Sequence[Zone], header: Header, camera: Camera, config: NodeConfig
) -> MarkerArray:
    """Ellipses of the drawn level, skeleton, joints and zones; each kind one marker, DELETE when it is empty.

    zones: the people's own in the order of the result, each followed by those of the parts. Outlines of the parts'
    are ``limbs``; where the distance is known, ``volumes`` are the edges of people's zones in metres. Of an image of
    which nothing is known the whole view is outlined. config: its drawn_level, marker_depth and marker_lifetime.
    """
    kinds = {
        "ellipses": Marker.TRIANGLE_LIST, "skeleton": Marker.LINE_LIST, "joints": Marker.SPHERE_LIST,
        "zones": Marker.LINE_LIST, "limbs": Marker.LINE_LIST, "volumes": Marker.LINE_LIST,
    }  # fmt: skip
    made = {name: Marker(id=i, ns=name, header=header, type=kind) for i, (name, kind) in enumerate(kinds.items())}
    own = [zone for zone in zones if zone.part == "person"]
    depths = [max(zone.near, NEAREST) if zone.source == RangeSource.DEPTH else config.marker_depth for zone in own]
    depths += [config.marker_depth] * (len(result.people) - len(own))  # LOST: no zones

    for person, depth in zip(result.people, depths):
        _add_person(made, person, camera, config.drawn_level, depth)
    next_depth, depth = iter(depths), config.marker_depth
    for zone in zones:
        if zone.part == "person":
            depth = next(next_depth)
        color = (STALE_COLOR if result.state == FrameState.STALE else ZONE_COLOR) if zone.valid else NOT_VALID_COLOR
        outline = _points(camera, zone.polygon, depth)
        if zone.part != "person":
            _add_lines(made["limbs"], outline, outline[1:] + outline[:1], color, 0.35)
            continue
        _add_lines(made["zones"], outline, outline[1:] + outline[:1], color, 0.9)
        corners = [Point(x=x, y=y, z=z) for x, y, z in zone.points.tolist()]
        near, far = corners[: len(corners) // 2], corners[len(corners) // 2 :]
        for face in (near, far):
            _add_lines(made["volumes"], face, face[1:] + face[:1], color, 0.5)
        _add_lines(made["volumes"], near, far, color, 0.5)
    if result.state == FrameState.UNKNOWN:
        view = _points(camera, view_corners(camera.width, camera.height), config.marker_depth)
        _add_lines(made["zones"], view, view[1:] + view[:1], NOT_VALID_COLOR, 0.9)

    pixel = float(np.median([config.marker_depth, *depths])) / camera.fx  # about the width of a pixel there, m
    widths = {"skeleton": 3, "joints": 8, "zones": 2, "limbs": 1, "volumes": 1}
    for name, marker in made.items():
        width = widths[name] * pixel if name in widths else 1.0
        marker.scale.x = marker.scale.y = marker.scale.z = width
        marker.pose.orientation.w = 1.0
        marker.color.a = 1.0  # RViz multiplies the corners' opacity by it
        marker.lifetime = Duration(seconds=config.marker_lifetime).to_msg()
        marker.action = Marker.ADD if marker.points else Marker.DELETE
    return MarkerArray(markers=list(made.values()))


def _points(camera: Camera, pixels: np.ndarray, depth: float) -> list[Point]:
    """(N, 2) image px -> points in metres in the optical frame, at z = depth."""
    return [Point(x=x, y=y, z=depth) for x, y in (camera.rays(pixels) * depth).tolist()]


def _add_lines(marker: Marker, starts: list[Point], ends: list[Point], color: tuple[float, ...], alpha: float) -> None:
    for start, end in zip(starts, ends):
        marker.points += [start, end]
    marker.colors += [_color(color, alpha)] * (2 * len(starts))


def _add_person(made: dict[str, Marker], person: Person, camera: Camera, level: float, depth: float) -> None:
    drawn = np.isfinite(person.keypoints).all(axis=1) & (person.states != KeypointState.OUT)
    pixels = np.where(drawn[:, None], person.keypoints, 0.0)
    joints = _points(camera, pixels, depth)
    colors = [_color(COLORS[KeypointState(state)], 1.0) for state in person.states.tolist()]
    for k in np.flatnonzero(drawn):
        made["joints"].points.append(joints[k])
        made["joints"].colors.append(colors[k])
    for a, b in EDGES:
        if drawn[a] and drawn[b]:
            made["skeleton"].points += [joints[a], joints[b]]
            made["skeleton"].colors += [colors[a], colors[b]]
    if person.regions is None:
        return
    ellipses = person.regions.ellipses[:, person.regions.nearest(level)]
    for k in np.flatnonzero(drawn & np.isfinite(ellipses).all(axis=1)):
        rim = _points(camera, ellipse_rim(ellipses[k]), depth)
        made["ellipses"].points += [rim[i] for i in FAN]
        made["ellipses"].colors += [_color(COLORS[KeypointState(person.states[k])], 0.25)] * len(FAN)


def ellipse_rim(ellipse: np.ndarray) -> np.ndarray:
    """(RIM, 2) px on the outline of an ellipse x, y, semi_major, semi_minor, theta."""
    x, y, major, minor, theta = ellipse.astype(float)
    angle = np.arange(RIM) * (2 * np.pi / RIM)
    along, across = major * np.cos(angle), minor * np.sin(angle)
    return np.column_stack(
        [x + along * np.cos(theta) - across * np.sin(theta), y + along * np.sin(theta) + across * np.cos(theta)]
    )


def _color(rgb: tuple[float, ...], alpha: float) -> Any:
    return ColorRGBA(r=rgb[0], g=rgb[1], b=rgb[2], a=alpha)
