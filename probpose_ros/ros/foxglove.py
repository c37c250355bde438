"""People as foxglove_msgs/ImageAnnotations: drawn by Foxglove over the image itself, in pixels, without camera_info.

foxglove_msgs is optional: without it ``ImageAnnotations`` is None and the node has no topic for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from std_msgs.msg import Header

from probpose_ros.ros.markers import COLORS, ZONE_COLOR, ellipse_rim
from probpose_ros.skeleton import EDGES
from probpose_ros.types import FrameResult, KeypointState, Person

try:
    from foxglove_msgs.msg import Color, ImageAnnotations, Point2, PointsAnnotation
except ImportError:
    ImageAnnotations = None

CENTRE = 0.5  # Foxglove's origin is the corner of the first pixel, ours is its centre


def image_annotations(result: FrameResult, zones: list[np.ndarray], header: Header, level: float) -> Any:
    """Filled ellipses of the regions nearest to ``level``, skeleton, joints, and zone outlines.

    zones: one polygon (V, 2) in image px per person. Nothing is drawn of a joint that is OUT or has no place.
    """
    shapes = []
    for polygon in zones:
        shapes.append(_shape(header, PointsAnnotation.LINE_LOOP, polygon, [ZONE_COLOR], 2.0))
    for person in result.people:
        shapes += _person(person, header, level)
    return ImageAnnotations(points=shapes)


def _person(person: Person, header: Header, level: float) -> list[Any]:
    drawn = np.isfinite(person.keypoints).all(axis=1) & (person.states != KeypointState.OUT)
    colors = [COLORS[KeypointState(state)] for state in person.states.tolist()]
    shapes = []
    if person.regions is not None:
        ellipses = person.regions.ellipses[:, person.regions.nearest(level)]
        for k in np.flatnonzero(drawn & np.isfinite(ellipses).all(axis=1)):
            shape = _shape(header, PointsAnnotation.LINE_LOOP, ellipse_rim(ellipses[k]), [colors[k]], 1.0)
            shape.fill_color = _color(colors[k], 0.25)
            shapes.append(shape)
    edges = [(a, b) for a, b in EDGES if drawn[a] and drawn[b]]
    if edges:
        ends = person.keypoints[np.array(edges).ravel()]
        shapes.append(_shape(header, PointsAnnotation.LINE_LIST, ends, [colors[a] for a, _ in edges], 2.0))
    joints = np.flatnonzero(drawn)
    if len(joints):
        shapes.append(
            _shape(header, PointsAnnotation.POINTS, person.keypoints[joints], [colors[k] for k in joints], 6.0)
        )
    return shapes


def _shape(header: Header, kind: int, points: np.ndarray, colors: list[tuple[float, ...]], thickness: float) -> Any:
    """points: (N, 2) image px. colors: one for all, or one per point (POINTS) or segment (LINE_LIST)."""
    return PointsAnnotation(
        timestamp=header.stamp,
        type=kind,
        points=[Point2(x=x, y=y) for x, y in (points.astype(float) + CENTRE).tolist()],
        outline_color=_color(colors[0], 1.0),
        outline_colors=[_color(color, 1.0) for color in colors] if len(colors) > 1 else [],
        thickness=thickness,
    )


def _color(rgb: tuple[float, ...], alpha: float) -> Any:
    return Color(r=float(rgb[0]), g=float(rgb[1]), b=float(rgb[2]), a=alpha)
