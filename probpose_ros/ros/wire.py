"""People and zones as the bytes that go over the wire (CDR): arrays filled by NumPy.

rclpy makes a Python object of every keypoint, region and corner and takes each apart again: several times as long. Here
the order and types of fields come from the message classes, so there is no second definition of the messages.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message

from probpose_msgs.msg import PersonPose
from probpose_msgs.msg import Zone as ZoneMessage
from probpose_ros.types import Person
from probpose_ros.zones import Zone

_TYPES = {"boolean": "?", "uint8": "u1", "int32": "i4", "uint32": "u4", "float": "f4"}


def message_bytes(head: Any, count: int, items: bytes) -> bytes:
    """``head``, a message whose last field is a list, empty yet, with that many items in it: to publish."""
    return serialize_message(head)[:-4] + count.to_bytes(4, sys.byteorder) + items


@lru_cache(maxsize=64)
def layout(kind: type, **counts: int) -> np.dtype:
    """How a message lies in memory if its lists and strings, and those of messages in it, have ``counts`` items.

    Before a list stands a field ``#name``, its length. CDR aligns as C does, but pads no end: every message used here
    ends with four bytes that belong together, so nothing is padded there.
    """
    fields: list[tuple[Any, ...]] = []
    for name, type_name in kind.get_fields_and_field_types().items():  # type: ignore[attr-defined]
        base, size = re.fullmatch(r"(?:sequence<)?([\w/]+)>?(?:\[(\d+)\])?", type_name).groups()  # type: ignore[union-attr]
        if base == "string":
            item: Any = f"S{counts[name]}"
        else:
            item = _TYPES.get(base) or layout(_class(base), **counts)
        if type_name.startswith("sequence"):
            size = counts[name]
        if name in counts:
            fields.append((f"#{name}", "u4"))
        fields.append((name, item) if size is None else (name, item, (int(size),)))
    return np.dtype(fields, align=True)


def _class(name: str) -> type:
    package, message = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), message)


def people_items(people: Sequence[Person], polygons: bool) -> bytes:
    """PersonPose of each; ``polygons``: with Region.polygon, of any number of corners."""
    if not people:
        return b""
    has = np.array([person.regions is not None for person in people])
    known = [person.regions for person in people if person.regions is not None]
    levels = len(known[0].levels) if known else 0
    shapes = [shape for regions in known for joint in regions.polygons for shape in joint] if polygons else []
    corners = max(map(len, shapes), default=0)
    rows = np.zeros(len(people), layout(PersonPose, regions=levels, polygon=corners))
    for name in ("id", "track_state", "score", "bbox", "window"):
        rows[name] = [getattr(person, name) for person in people]
    joints = rows["keypoints"]
    joints["id"] = np.arange(joints.shape[1])
    joints["x"], joints["y"] = np.array([person.keypoints for person in people]).transpose(2, 0, 1)
    for name in ("presence", "visibility", "quality"):
        joints[name] = [getattr(person, name) for person in people]
    joints["state"] = [person.states for person in people]
    joints["covariance"], joints["#regions"] = np.nan, np.where(has, levels, 0)[:, None]
    if not levels:
        return rows.tobytes()

    joints["covariance"][has] = [regions.covariances for regions in known]
    cells = np.zeros((len(known), *joints["regions"].shape[1:]), joints["regions"].dtype)
    cells["level"] = known[0].levels
    cells["kind"] = np.array([regions.kind for regions in known])[:, None, None]
    cells["valid"], cells["area"] = [regions.valid for regions in known], [regions.areas for regions in known]
    ellipses = np.array([regions.ellipses for regions in known])
    for i, name in enumerate(("x", "y", "semi_major", "semi_minor", "theta")):
        cells[name] = ellipses[..., i]
    filled = np.zeros((*cells.shape, 0), bool)
    if corners:
        cells["#polygon"] = np.array([len(shape) for shape in shapes]).reshape(cells.shape)
        filled = np.arange(corners) < cells["#polygon"][..., None]
        cells["polygon"]["x"][filled], cells["polygon"]["y"][filled] = np.concatenate(shapes).T
    joints["regions"][has] = cells
    return rows.tobytes() if has.all() and filled.all() else _shortened(rows, has, filled)


def _shortened(rows: np.ndarray, has: np.ndarray, filled: np.ndarray) -> bytes:
    """has: (P,), who has regions; the others' are left out. filled: (N, K, L, V), which corners theirs have."""
    kept = np.ones((len(rows), rows.dtype.itemsize), bool)
    regions = _last(_last(kept, rows.dtype), rows["keypoints"].dtype)
    regions[~has] = False
    corners = _last(regions, rows["keypoints"]["regions"].dtype)
    corners[has] &= filled[..., None]
    return rows.view(np.uint8).reshape(kept.shape)[kept].tobytes()


def _last(of_bytes: np.ndarray, kind: np.dtype) -> np.ndarray:
    """(..., itemsize) of a message -> (..., items, itemsize) of its last field, a list; the same memory."""
    name = kind.names[-1]  # type: ignore[index]
    items, start = kind.fields[name][:2]  # type: ignore[index]
    return of_bytes[..., start:].reshape(*of_bytes.shape[:-1], *items.shape, items.base.itemsize)


def zone_items(zones: Sequence[Zone], state: int) -> bytes:
    """Zone of each; ``state`` of those that are valid."""
    return b"".join(_zone(zone, state if zone.valid else ZoneMessage.UNKNOWN) for zone in zones)


def _zone(zone: Zone, state: int) -> bytes:
    part, points = zone.part.encode(), zone.points
    row = np.zeros(1, layout(ZoneMessage, part=len(part) + 1, polygon=len(zone.polygon), points=len(points)))
    row["#part"], row["#polygon"], row["#points"] = len(part) + 1, len(zone.polygon), len(points)
    row["person_id"], row["part"], row["state"], row["valid"] = zone.person_id, part, state, zone.valid
    row["polygon"]["x"], row["polygon"]["y"] = zone.polygon.T
    row["range_source"], row["distance"] = zone.source, zone.distance
    if len(points):
        row["points"]["x"], row["points"]["y"], row["points"]["z"] = points.T
    return row.tobytes()
