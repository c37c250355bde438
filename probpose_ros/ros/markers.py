"""Markers for RViz: few batched markers with fixed ids, in the camera's optical frame.

A pixel (u, v) becomes ((u-cx)/fx Z, (v-cy)/fy Z, Z) at one fixed depth Z: exactly on the body in RViz's Camera display
(which knows no distortion: give it a rectified image), and at that distance in the 3D view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from rclpy.duration import Duration
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from probpose_ros import draw
from probpose_ros.config import NodeConfig
from probpose_ros.skeleton import EDGES
from probpose_ros.types import FrameResult, KeypointState, Person

RIM = 12  # corners of a drawn ellipse
# An ellipse cut into triangles that share its first corner.
FAN = [corner for i in range(1, RIM - 1) for corner in (0, i, i + 1)]
COLORS = {state: tuple(value / 255 for value in reversed(bgr)) for state, bgr in draw.COLORS.items()}
ZONE_COLOR = (1.0, 0.85, 0.1)


@dataclass(frozen=True)
class Pinhole:
    """Rectified projection of a camera, px. width, height: of the images it holds for."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    @classmethod
    def from_camera_info(cls, info: CameraInfo) -> Pinhole:
        """P where it is filled in, else K. ValueError when neither is a camera: no matrix is ever made up."""
        p, k = list(info.p), list(info.k)
        fx, fy, cx, cy = (p[0], p[5], p[2], p[6]) if p[0] else (k[0], k[4], k[2], k[5])
        if not (all(map(math.isfinite, (fx, fy, cx, cy))) and fx > 0 and fy > 0):
            raise ValueError(f"camera_info has focal lengths {fx}, {fy} px: must be above 0 (calibrate the camera)")
        return cls(fx, fy, cx, cy, info.width, info.height)

    def points(self, pixels: np.ndarray, depth: float) -> list[Point]:
        """(N, 2) image px -> points in metres in the optical frame, at z = depth."""
        xy = (pixels - (self.cx, self.cy)) / (self.fx, self.fy) * depth
        return [Point(x=x, y=y, z=depth) for x, y in xy.tolist()]


def people_markers(
    result: FrameResult, zones: list[np.ndarray], header: Header, camera: Pinhole, config: NodeConfig
) -> MarkerArray:
    """Ellipses of the drawn level, skeleton, joints and zone outlines; each kind one marker, DELETE when it is empty.

    zones: one polygon (V, 2) in image px per person. config: its drawn_level, marker_depth and marker_lifetime.
    """
    depth = config.marker_depth
    pixel = depth / camera.fx  # metres a pixel is wide at that depth
    made = {
        "ellipses": Marker(id=0, type=Marker.TRIANGLE_LIST),
        "skeleton": Marker(id=1, type=Marker.LINE_LIST),
        "joints": Marker(id=2, type=Marker.SPHERE_LIST),
        "zones": Marker(id=3, type=Marker.LINE_LIST),
    }
    made["ellipses"].scale.x = made["ellipses"].scale.y = made["ellipses"].scale.z = 1.0
    made["skeleton"].scale.x = 3 * pixel
    made["joints"].scale.x = made["joints"].scale.y = made["joints"].scale.z = 8 * pixel
    made["zones"].scale.x = 2 * pixel
    for person in result.people:
        _add_person(made, person, camera, config)
    for polygon in zones:
        corners = camera.points(polygon, depth)
        for start, end in zip(corners, corners[1:] + corners[:1]):
            made["zones"].points += [start, end]
        made["zones"].colors += [_color(ZONE_COLOR, 0.9)] * (2 * len(corners))
    for name, marker in made.items():
        marker.header, marker.ns = header, name
        marker.pose.orientation.w = 1.0
        marker.color.a = 1.0  # RViz multiplies the corners' opacity by it
        marker.lifetime = Duration(seconds=config.marker_lifetime).to_msg()
        marker.action = Marker.ADD if marker.points else Marker.DELETE
    return MarkerArray(markers=list(made.values()))


def _add_person(made: dict[str, Marker], person: Person, camera: Pinhole, config: NodeConfig) -> None:
    depth = config.marker_depth
    drawn = np.isfinite(person.keypoints).all(axis=1) & (person.states != KeypointState.OUT)
    pixels = np.where(drawn[:, None], person.keypoints, 0.0)
    joints = camera.points(pixels, depth)
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
    ellipses = person.regions.ellipses[:, person.regions.nearest(config.drawn_level)]
    for k in np.flatnonzero(drawn & np.isfinite(ellipses).all(axis=1)):
        rim = camera.points(ellipse_rim(ellipses[k]), depth)
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
