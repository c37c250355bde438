"""Results -> plain dicts with the field names of probpose_msgs/PersonPoseArray, and JSON lines of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from probpose_ros.skeleton import EDGES, KEYPOINT_NAMES, SIGMAS
from probpose_ros.types import FrameResult, Person, Regions


def frame_to_dict(
    frame: FrameResult,
    *,
    levels: Sequence[float],
    model: str,
    stamp: float | Fraction = 0.0,
    frame_id: str = "",
    sequence: int = 0,
    calibration_id: str = "",
    age_ms: float = math.nan,
) -> dict[str, Any]:
    """One image's result as a PersonPoseArray dict; enums are their numbers, unknown numbers NaN.

    Args:
        levels: of the regions. model: its name. stamp: seconds, exact if a Fraction. sequence: number of the message.
    """
    return {
        "header": {"stamp": _stamp(stamp), "frame_id": frame_id},
        "sequence": sequence,
        "state": int(frame.state),
        "image_width": frame.image_width,
        "image_height": frame.image_height,
        "model": model,
        "calibration_id": calibration_id,
        "processing_ms": sum(frame.stage_ms.values()) if frame.stage_ms else math.nan,
        "age_ms": age_ms,
        "levels": list(levels),
        "people": [person_to_dict(person) for person in frame.people],
    }


def person_to_dict(person: Person) -> dict[str, Any]:
    """A PersonPose dict. ``peak`` is not in the message and stands beside its fields."""
    columns = (person.presence, person.visibility, person.quality, person.peak)
    unknown = [[math.nan] * 3] * len(person.keypoints)
    covariances = unknown if person.regions is None else person.regions.covariances.tolist()
    keypoints = []
    for k, (x, y) in enumerate(person.keypoints.tolist()):
        presence, visibility, quality, peak = (float(column[k]) for column in columns)
        keypoints.append({
            "id": k, "x": x, "y": y, "presence": presence, "visibility": visibility, "quality": quality, "peak": peak,
            "covariance": covariances[k], "state": int(person.states[k]),
            "regions": [] if person.regions is None else _regions_to_dicts(person.regions, k),
        })  # fmt: skip
    return {
        "id": person.id,
        "track_state": int(person.track_state),
        "score": person.score,
        "bbox": person.bbox.tolist(),
        "window": person.window.tolist(),
        "keypoints": keypoints,
    }


def skeleton_to_dict(model: str, calibration_id: str = "") -> dict[str, Any]:
    """A SkeletonInfo dict; ``edges`` flat: from, to, from, to, ..."""
    return {
        "names": list(KEYPOINT_NAMES),
        "edges": [end for edge in EDGES for end in edge],
        "sigmas": [float(sigma) for sigma in SIGMAS],
        "model": model,
        "calibration_id": calibration_id,
    }


def to_json(values: Any) -> str:
    """One line of JSON; NaN and infinity, which JSON lacks, become null. Floats keep float32's seven digits."""
    return json.dumps(_jsonable(values), allow_nan=False, separators=(",", ":"))


def _regions_to_dicts(regions: Regions, k: int) -> list[dict[str, Any]]:
    result = []
    for j, level in enumerate(regions.levels.tolist()):
        x, y, major, minor, theta = regions.ellipses[k, j].tolist()
        result.append({
            "level": level, "kind": int(regions.kind), "valid": bool(regions.valid[k, j]),
            "x": x, "y": y, "semi_major": major, "semi_minor": minor, "theta": theta,
            "area": float(regions.areas[k, j]),
            "polygon": [{"x": px, "y": py, "z": 0.0} for px, py in regions.polygons[k][j].tolist()],
        })  # fmt: skip
    return result


def _jsonable(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _jsonable(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_jsonable(value) for value in values]
    if isinstance(values, (float, np.floating)):
        return float(f"{values:.7g}") if math.isfinite(values) else None
    return values


def _stamp(seconds: float | Fraction) -> dict[str, int]:
    nanoseconds = round(seconds * 10**9)
    return {"sec": nanoseconds // 10**9, "nanosec": nanoseconds % 10**9}
