"""The arrays that pass between the stages, and the state enums of the messages.

All pixel coordinates: x right, y down, pixel centres at integers. K = 17 COCO keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np


class KeypointState(IntEnum):
    """Where a keypoint is, as far as the presence probability allows to say."""

    UNKNOWN = 0
    IN = 1
    IN_OR_OUT = 2
    OUT = 3


class TrackState(IntEnum):
    UNKNOWN = 0
    NEW = 1
    TRACKED = 2
    LOST = 3


class FrameState(IntEnum):
    UNKNOWN = 0
    OK = 1
    NO_PERSON_DETECTED = 2
    STALE = 3


class RegionKind(IntEnum):
    """What a region promises; UNKNOWN means that it is not calibrated and promises nothing.

    SIMULTANEOUS: the level holds for all joints of a person at once, not for each.
    """

    UNKNOWN = 0
    MARGINAL = 1
    PAC = 2
    SIMULTANEOUS = 3
    SIMULTANEOUS_PAC = 4


@dataclass(frozen=True)
class Detections:
    """Persons found in one image.

    boxes: (N, 4) float32, x_min, y_min, x_max, y_max in image px.
    scores: (N,) float32 in [0, 1], descending.
    """

    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class PoseOutput:
    """What the pose network says of N crops.

    keypoints: (N, K, 2) float32, crop px.
    presence, visibility, quality: (N, K) float32 in [0, 1]; quality is the expected OKS.
    peak: (N, K) float32, the probability map's value at the decoded cell.
    probmap: (N, K, h, w) float32, each map sums to 1; None when the model file does not give it.
    """

    keypoints: np.ndarray
    presence: np.ndarray
    visibility: np.ndarray
    quality: np.ndarray
    peak: np.ndarray
    probmap: np.ndarray | None = None


@dataclass(frozen=True)
class Regions:
    """Regions of one person at L levels, in image px.

    levels: (L,) float32 in (0, 1).
    kind: what every region here promises.
    valid: (K, L) bool; False means: do not rely on it.
    ellipses: (K, L, 5) float32: x, y, semi_major, semi_minor, theta (radians, x axis towards y axis); each contains its
        region.
    areas: (K, L) float32, px^2, of the region itself.
    polygons: polygons[k][l] is (V, 2) float32, convex, contains the region; empty where there is none.
    covariances: (K, 3) float32, xx, xy, yy in px^2, of the probability map.
    Unknown numbers are NaN.
    """

    levels: np.ndarray
    kind: RegionKind
    valid: np.ndarray
    ellipses: np.ndarray
    areas: np.ndarray
    polygons: tuple[tuple[np.ndarray, ...], ...]
    covariances: np.ndarray

    def nearest(self, level: float) -> int:
        """Index of the level nearest to this one."""
        return int(np.abs(self.levels - level).argmin())


@dataclass(frozen=True)
class Person:
    """One person, in image px.

    bbox: (4,) float32, the detection. window: (4,) float32, the activation window; may leave the image.
    keypoints: (K, 2) float32; may lie outside the image. states: (K,) uint8 of KeypointState.
    presence, visibility, quality, peak: (K,) float32, NaN where unknown.
    """

    score: float
    bbox: np.ndarray
    window: np.ndarray
    keypoints: np.ndarray
    presence: np.ndarray
    visibility: np.ndarray
    quality: np.ndarray
    peak: np.ndarray
    states: np.ndarray
    regions: Regions | None = None
    id: int = -1
    track_state: TrackState = TrackState.UNKNOWN


@dataclass(frozen=True)
class FrameResult:
    """All people of one image, best first. doubt: why its state is UNKNOWN, in one line.

    detected: False where the boxes came from earlier images, not from a detector; then no region promises anything.
    """

    people: tuple[Person, ...]
    image_width: int
    image_height: int
    state: FrameState
    stage_ms: dict[str, float] = field(default_factory=dict)
    doubt: str = ""
    detected: bool = True
