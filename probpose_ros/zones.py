"""Where a person may be in the image: a convex polygon around everything the pipeline says of that person.

Advisory, in image px. Without calibrated regions a zone promises nothing (``valid`` False).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from probpose_ros.types import KeypointState, Person, RegionKind

# A circle's circumscribed octagon: moving a convex polygon's corners by these and taking the hull contains the polygon
# grown by the circle.
_ANGLES = np.arange(8) * np.pi / 4
_OCTAGON = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)]) / np.cos(np.pi / 8)


@dataclass(frozen=True)
class Zone:
    """polygon: (V, 2) float32, convex, image px; may leave the image. level, kind: of its regions."""

    person_id: int
    polygon: np.ndarray
    level: float
    kind: RegionKind
    valid: bool


def person_zone(person: Person, inflate_px: float = 0.0) -> Zone:
    """The zone of a person: the bbox and the regions of the highest level, grown by ``inflate_px``.

    Where a keypoint is UNKNOWN, may be out of the window, or has no region, the whole activation window joins, and the
    zone is not valid: the joint may be anywhere, and nothing here bounds it.
    """
    regions = person.regions
    corners = [_corners(person.bbox)]
    everything_bounded = regions is not None and bool((person.states == KeypointState.IN).all())
    if regions is not None:
        top = int(np.argmax(regions.levels))
        corners += [polygons[top] for polygons in regions.polygons]
        everything_bounded = everything_bounded and bool(regions.valid[:, top].all())
    if not everything_bounded:
        corners.append(_corners(person.window))
    points = np.concatenate(corners).astype(np.float64)
    if inflate_px > 0:
        points = (points[:, None] + inflate_px * _OCTAGON).reshape(-1, 2)
    return Zone(
        person_id=person.id,
        polygon=cv2.convexHull(points.astype(np.float32))[:, 0],
        level=float("nan") if regions is None else float(regions.levels.max()),
        kind=RegionKind.UNKNOWN if regions is None else regions.kind,
        valid=everything_bounded,
    )


def _corners(box: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
