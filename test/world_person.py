"""People whose joints are known in metres, and the pictures that a perfect network would make of them."""

from __future__ import annotations

import cv2
import numpy as np

from probpose_ros.camera import Camera
from probpose_ros.skeleton import KEYPOINT_NAMES
from probpose_ros.types import KeypointState, Person, RegionKind, Regions

CAMERA = Camera(600.0, 600.0, 319.5, 239.5, 640, 480)
# A standing person of stature 1, the hips at the origin; x right, y down, z away from the camera.
_SHAPE = {
    "nose": (0, -0.43), "eye": (0.018, -0.45), "ear": (0.04, -0.44), "shoulder": (0.12, -0.285), "elbow": (0.14, -0.1),
    "wrist": (0.145, 0.045), "hip": (0.09, 0.0), "knee": (0.09, 0.245), "ankle": (0.09, 0.49),
}  # fmt: skip


def posed(x: float = 0.0, y: float = 0.0, z: float = 3.0, stature: float = 1.7) -> np.ndarray:
    """(17, 3) m in the optical frame: standing upright and facing the camera, the hips at x, y, z."""
    points = []
    for name in KEYPOINT_NAMES:
        side = 1.0 if name.startswith("left") else -1.0
        right, down = _SHAPE[name.split("_")[-1]]
        points.append((side * right * stature + x, down * stature + y, z))
    return np.array(points)


def random_body(rng: np.random.Generator) -> np.ndarray:
    """Somebody of a stature from 1.4 to 2.0 m, turned by up to 40 degrees, with arms and legs in any direction."""
    stature = rng.uniform(1.4, 2.0)
    joints = posed(stature=stature)
    turn, tilt = rng.uniform(-0.7, 0.7), rng.uniform(-0.2, 0.2)
    around = cv2.Rodrigues(np.array([tilt, turn, 0.0]))[0]
    for chain, lengths in (((5, 7, 9), (0.186, 0.146)), ((6, 8, 10), (0.186, 0.146)),
                           ((11, 13, 15), (0.245, 0.246)), ((12, 14, 16), (0.245, 0.246))):  # fmt: skip
        for start, end, length in zip(chain, chain[1:], lengths):
            direction = rng.normal(size=3) + (0, 1, 0)
            joints[end] = joints[start] + length * stature * direction / np.linalg.norm(direction)
    centre = joints[[11, 12]].mean(axis=0)
    place = np.array([rng.uniform(-0.4, 0.4), rng.uniform(-0.1, 0.3), rng.uniform(2.8, 4.5)])
    return (joints - centre) @ around.T + place


def person_in_view(joints: np.ndarray, camera: Camera = CAMERA, radius: float = 9.0) -> Person:
    """The calibrated picture of joints (17, 3): every region a circle of that many px around its joint, all IN."""
    distortion = np.array(camera.distortion or [0.0] * 4)
    pixels = cv2.projectPoints(joints, np.zeros(3), np.zeros(3), camera.matrix, distortion)[0][:, 0]
    angle = np.arange(12) * (2 * np.pi / 12)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    polygons = tuple(
        tuple((pixel + scale * radius * circle).astype(np.float32) for scale in (0.5, 1.0)) for pixel in pixels
    )
    low, high = pixels.min(axis=0) - radius, pixels.max(axis=0) + radius
    middle, half = (low + high) / 2, (high - low) / 2 * 1.25
    unknown = np.full((17, 2), np.nan, np.float32)
    regions = Regions(
        levels=np.array([0.5, 0.95], np.float32), kind=RegionKind.PAC, valid=np.ones((17, 2), bool),
        ellipses=np.stack([np.column_stack([pixels, np.full((17, 2), r), np.zeros(17)]) for r in (radius / 2, radius)],
                          axis=1).astype(np.float32),
        areas=unknown, polygons=polygons, covariances=np.full((17, 3), np.nan, np.float32),
    )  # fmt: skip
    ones = np.ones(17, np.float32)
    return Person(
        score=0.9, bbox=np.concatenate([low, high]).astype(np.float32),
        window=np.concatenate([middle - half, middle + half]).astype(np.float32), keypoints=pixels.astype(np.float32),
        presence=ones, visibility=ones, quality=ones, peak=ones,
        states=np.full(17, KeypointState.IN, np.uint8), regions=regions,
    )  # fmt: skip
