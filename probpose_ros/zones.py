"""Where people may be: advisory zones in the image and, with a camera, in metres.

A zone is convex and holds a part of a person: the regions of the part's joints, the flesh around the bones, and as far
as that part can have moved since the image was taken. A joint that may be out of the window is bounded by the length of
the bones between it and the nearest joint that is not. What rests on nothing is the whole view, and not valid.

Two steps: :func:`bodies` when a result comes, :func:`zones_at` for an age, as often as one likes. In the image a
movement is scaled by the distance, which is measured, or, without depth, follows from the size of the people
(:mod:`probpose_ros.body`; docs/zones.md says what is assumed).

Zones never depend on ids. Without calibrated regions a zone promises nothing (``valid`` False).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from probpose_ros import body
from probpose_ros.camera import Camera, view_corners
from probpose_ros.config import NodeConfig
from probpose_ros.depth import DepthImage
from probpose_ros.support import SIDES, polygons, support, supports_of
from probpose_ros.types import FrameResult, KeypointState, Person, RegionKind

# The size of a person is known when this many bones are seen. One of them is taken to be seen at least so long, a
# share of its length: not more than 45 degrees out of the image plane.
ENOUGH_BONES = 4
FORESHORTENED = 0.7
# What hides a body part is at most so far in front of it, m.
BEHIND = 0.5


class RangeSource(IntEnum):
    """What the distance of a zone rests on."""

    UNKNOWN = 0
    DEPTH = 1
    ASSUMED = 2


@dataclass(frozen=True)
class Zone:
    """polygon: (V, 2) float32, convex, image px; may leave the image. level, kind: of its regions.

    rays: (W, 2), the polygon as rays of the camera, None without one. near, far: m along the optical axis, NaN where
    not known.
    """

    person_id: int
    part: str
    polygon: np.ndarray
    level: float
    kind: RegionKind
    valid: bool
    rays: np.ndarray | None = None
    near: float = float("nan")
    far: float = float("nan")
    source: RangeSource = RangeSource.UNKNOWN

    @cached_property
    def points(self) -> np.ndarray:
        """(2 W, 3) float64 m in the optical frame: corners of the near face, then of the far one; empty if unknown."""
        if self.rays is None or self.source == RangeSource.UNKNOWN:
            return np.zeros((0, 3))
        face = np.column_stack([self.rays, np.ones(len(self.rays))])
        return np.concatenate([face * self.near, face * self.far])

    @property
    def distance(self) -> float:
        """m from the camera to the nearest point of the zone, NaN if unknown."""
        if self.rays is None or self.source == RangeSource.UNKNOWN:
            return float("nan")
        return self.near * float(np.sqrt(1 + _distance_from_origin(self.rays) ** 2))


@dataclass(frozen=True)
class Body:
    """What zones of a person are made of, in the moment of the image.

    supports: (2, K, SIDES) px, of the joint's own region, and of the region of the joint that bounds it; -inf: none.
    reach: (K,) m, how far the joint may be from the second.
    box: (SIDES,) px, of the bbox. limit: (SIDES,) px, of what stands for "anywhere".
    valid: (P,) of body.PARTS. bounded: False where the zone is the whole view.
    stature: m, supposed. angle: rad, the body's largest off the optical axis.
    distance: (P,) m, nothing that the supports hold of a part is nearer along the optical axis.
    near, far: (P,) m along the optical axis. slack: (P,) m, by which a part may be nearer or farther than that.
    """

    person_id: int
    level: float
    kind: RegionKind
    supports: np.ndarray
    reach: np.ndarray
    box: np.ndarray
    limit: np.ndarray
    valid: np.ndarray
    bounded: bool
    stature: float
    focal: float
    angle: float
    distance: np.ndarray
    near: np.ndarray
    far: np.ndarray
    slack: np.ndarray
    source: RangeSource


def bodies(
    result: FrameResult, config: NodeConfig, camera: Camera | None = None, depth: DepthImage | None = None,
    stamp: float = float("nan"),
) -> list[Body]:  # fmt: skip
    """One Body for each person of a result.

    Args:
        camera: of the images; without one, 90 degrees of view are assumed and there are no metres.
        depth: aligned to the image; not used where its stamp differs by more than ``config.depth_max_age``.
        stamp: of the image, s.
    """
    if depth is not None and not abs(depth.stamp - stamp) <= config.depth_max_age:
        depth = None
    late = 0.0 if depth is None else abs(depth.stamp - stamp) * config.zone_arm_speed
    view = view_corners(result.image_width, result.image_height)
    return [_body(person, view, config, camera, depth, late) for person in result.people]


def zones_at(people: Sequence[Body], age: float, config: NodeConfig, camera: Camera | None = None) -> list[Zone]:
    """Zones of people that hold until the image is ``age`` seconds old (NaN: not known). The person's own comes first,
    then, if the config says so, those of the parts."""
    return [zone for person in people for zone in _zones(person, age, config, camera)]


def whole_view(width: int, height: int) -> Zone:
    """What stands beside the zones of an image of which nothing is known; without corners if not even its size is."""
    corners = view_corners(width, height)[: 4 * bool(width and height)].astype(np.float32)
    return Zone(-1, "view", corners, float("nan"), RegionKind.UNKNOWN, False)


def _zones(person: Body, age: float, config: NodeConfig, camera: Camera | None) -> list[Zone]:
    speed = np.where(body.IS_ARM, config.zone_arm_speed, config.zone_body_speed)
    moved = speed * max(age, 0.0)  # (P,) m; NaN where the age is not known
    parts, bounded = _grown(person, body.FLESH * person.stature + moved)
    box = person.box + _pixels(person, config.zone_body_speed * max(age, 0.0), person.distance.min())
    whole = np.maximum(parts.max(axis=0), np.minimum(box, person.limit))
    supports = np.concatenate([whole[None], parts])
    numbers = np.isfinite(supports).all(axis=1)  # of a bbox that is none there are no numbers
    supports = np.where(numbers[:, None], supports, person.limit)
    valid = np.concatenate([[(person.valid & bounded).all()], person.valid & bounded]) & numbers
    near = np.maximum(person.near - person.slack - moved, 0.0)
    far = person.far + person.slack + moved
    near, far = np.concatenate([[near.min()], near]), np.concatenate([[far.max()], far])

    count = len(supports) if config.zone_limbs else 1
    outlines = polygons(supports[:count])
    rays = None if camera is None else camera.ray_polygons(outlines)
    # float32 has 24 bits: a last bit outwards of everything that the corners were made of.
    outlines = polygons(supports[:count] + 4 * np.spacing(np.abs(supports[:count]).max().astype(np.float32)))
    names = ["person", *(part.name for part in body.PARTS)]
    known = np.isfinite(near) & np.isfinite(far)
    return [
        Zone(
            person.person_id, names[i], outlines[i].astype(np.float32), person.level, person.kind, bool(valid[i]),
            None if rays is None else rays[i], float(near[i]), float(far[i]),
            person.source if known[i] else RangeSource.UNKNOWN,
        )
        for i in range(count)
    ]  # fmt: skip


def _grown(person: Body, growth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Supports (P, SIDES) of the parts grown by ``growth`` (P,) m, and whether they are within the limit (P,)."""
    metres = growth[:, None, None] + np.stack([np.zeros_like(person.reach), person.reach])  # (P, 2, K)
    used = body.MEMBERS[:, None] & np.isfinite(person.supports[..., 0])
    px = np.where(used, _pixels(person, metres, person.distance[:, None, None]), 0.0)
    shapes = np.where(used[..., None], person.supports + px[..., None], -np.inf).max(axis=(1, 2))
    bounded = np.asarray((shapes <= person.limit).all(axis=-1) & person.bounded)
    return np.where(bounded[:, None], shapes, person.limit), bounded


def _pixels(person: Body, metres: np.ndarray | float, distance: np.ndarray) -> np.ndarray:
    """How many px a point that far away can move in the image while it moves ``metres``; infinity: anywhere.

    The rays that touch a ball around the point differ from the point's own by asin(metres / distance).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        angle = person.angle + np.arcsin(metres * np.cos(person.angle) / distance)
    px = person.focal * (np.tan(angle) - np.tan(person.angle))
    return np.where((distance > metres) & (angle < np.pi / 2), px, np.inf)


def _body(
    person: Person, view: np.ndarray, config: NodeConfig,
    camera: Camera | None, depth: DepthImage | None, late: float,
) -> Body:  # fmt: skip
    supports, reach, holds = _joints(person)
    lens = camera or Camera.assumed(*(np.ptp(view, axis=0) + 1).astype(int).tolist())
    low, high = apparent_size(person, config)
    near, far, slack, distance = _measured(supports, reach, view, depth, config.tallest_person)
    source = RangeSource.DEPTH if np.isfinite(distance).all() else RangeSource.UNKNOWN
    if source == RangeSource.DEPTH:
        stature, distance, slack = config.tallest_person, distance - late, slack + late
    else:
        # The smaller a person, the nearer: in the image all that follows from the size is largest for the shortest.
        # Of no size, at an unknown distance.
        stature = config.shortest_person
        distance = np.full_like(near, lens.focal / high if high > 0 else np.nan)
        if config.assume_range and camera is not None and high > 0:
            source, slack = RangeSource.ASSUMED, slack + body.ARM * config.tallest_person
            near, far = np.full_like(near, min(camera.fx, camera.fy) / high), np.full_like(far, camera.focal / low)
    box, edge = support(_corners(person.bbox)), max(np.ptp(view, axis=0))
    shown = np.maximum(box, np.where(np.isfinite(supports), supports, box).max(axis=(0, 1)))
    return Body(
        person_id=person.id,
        level=float("nan") if person.regions is None else float(person.regions.levels.max()),
        kind=RegionKind.UNKNOWN if person.regions is None else person.regions.kind,
        supports=supports, reach=reach * stature, box=box,
        limit=support(view + edge * np.sign(view - view.mean(axis=0))),
        valid=(holds | ~body.MEMBERS).all(axis=1),
        bounded=bool((person.states == KeypointState.IN).any()),
        stature=stature, focal=lens.focal,
        angle=float(np.arctan(np.sqrt((lens.ray_polygons(polygons(shown)) ** 2).sum(axis=-1).max()))),
        distance=distance, near=near, far=far, slack=slack, source=source,
    )  # fmt: skip


def _joints(person: Person) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """supports of Body, its reach in statures, and whether each joint's place is promised (K,)."""
    states, regions = person.states, person.regions
    is_in, is_out, unknown = (states == s for s in (KeypointState.IN, KeypointState.OUT, KeypointState.UNKNOWN))
    found = safe = np.zeros(len(states), bool)
    supports = np.full((2, len(states), SIDES), -np.inf)
    if regions is not None:
        top = int(np.argmax(regions.levels))
        outlines = [by_level[top] for by_level in regions.polygons]
        found = np.array([len(outline) > 0 for outline in outlines]) & ~is_out
        safe = found & regions.valid[:, top]
        if found.any():
            supports[0, found] = supports_of([outlines[k] for k in np.flatnonzero(found)])
    # The activation window stands for a region that should be there and is not.
    lost = (~found & ~is_out) | unknown
    supports[0, lost] = np.maximum(supports[0, lost], support(_corners(person.window)))

    # A joint that may be out of the window is bounded by the joint nearest on the skeleton that is not.
    anchor, reach = np.arange(len(states)), np.zeros(len(states))
    if is_in.any():
        anchors, others = np.flatnonzero(is_in), np.flatnonzero(~is_in)
        anchor[others] = anchors[body.REACH[np.ix_(others, anchors)].argmin(axis=1)]
        supports[1, others] = supports[0, anchor[others]]
        reach[others] = body.REACH[others, anchor[others]]
    return supports, reach, (safe | is_out) & safe[anchor] & ~unknown


def apparent_size(person: Person, config: NodeConfig) -> tuple[float, float]:
    """Fewest and most px per metre at the person's distance, as the bones seen tell; NaN where too few are seen."""
    seen = (person.states != KeypointState.OUT) & (person.states != KeypointState.UNKNOWN)
    bones = body.BONES[seen[body.BONES].all(axis=1)]
    if len(bones) < ENOUGH_BONES:
        return float("nan"), float("nan")
    lengths = body.BONE_LENGTHS[seen[body.BONES].all(axis=1)]
    ends = person.keypoints[bones].astype(np.float64)
    relative = float((np.hypot(*(ends[:, 1] - ends[:, 0]).T) / lengths).max())  # px per stature
    box = float((person.bbox[2:] - person.bbox[:2]).max()) / body.EXTENT
    low = max(relative / (1 + body.TOLERANCE), box) / config.tallest_person
    return low, max(relative / (1 - body.TOLERANCE) / FORESHORTENED / config.shortest_person, low)


def _measured(
    supports: np.ndarray, reach: np.ndarray, view: np.ndarray, depth: DepthImage | None, stature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """near, far, slack and distance of Body, from depth; all but slack are NaN if nothing of the body is measured."""
    near, far = np.full(len(body.PARTS), np.nan), np.full(len(body.PARTS), np.nan)
    slack = np.where(body.MEMBERS, reach, 0).max(axis=1) * stature
    if depth is None:
        return near, far, slack, near
    own = np.where(body.MEMBERS[..., None], supports[0], -np.inf).max(axis=1)  # (P, SIDES)
    placed = np.flatnonzero(np.isfinite(own[:, 0]))
    for p, outline in zip(placed, polygons(own[placed])):
        if (interval := depth.interval(outline)) is not None:
            near[p], far[p] = interval[0], interval[1] + BEHIND
    measured = np.isfinite(near)
    if not measured.any():
        return near, far, slack, near
    # Bones bound how much nearer than a measured part another one is.
    apart = body.REACH[:, body.MEMBERS[measured].any(axis=0)].min(axis=1) * stature  # (K,)
    beyond = np.where(body.MEMBERS, apart, 0).max(axis=1)[~measured]
    near[~measured], far[~measured] = near[measured].min() - beyond, far[measured].max() + beyond
    # What reaches out of the image may come nearer there, unseen.
    unseen = np.where((own > support(view) + 1).any(axis=1), body.SPAN * stature, 0)
    distance = near - unseen
    distance[~np.isfinite(own[:, 0])] = distance[placed].min()  # only bounded by joints of other parts
    return near, far, slack + unseen, distance


def _corners(box: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = box.astype(np.float64)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _distance_from_origin(polygon: np.ndarray) -> float:
    """0 inside; polygon (V, 2) convex, counter-clockwise."""
    start, edge = polygon, np.roll(polygon, -1, axis=0) - polygon
    if (edge[:, 0] * -start[:, 1] + edge[:, 1] * start[:, 0] >= -1e-9).all():
        return 0.0
    along = -(start * edge).sum(axis=1) / np.maximum((edge**2).sum(axis=1), 1e-300)
    return float(np.hypot(*(start + np.clip(along, 0, 1)[:, None] * edge).T).min())
