"""Another person in the crop: in front of the one to find, or behind. Crowds are where small networks fail most.

No set here has masks, so a person is cut out along its joints: limbs as thick strokes, the torso filled, a disc for the
head. Joints that come to lie under the other person are occluded; their place is still known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from probpose_ros.geometry import in_window
from probpose_ros.skeleton import EDGES, KEYPOINT_NAMES

if TYPE_CHECKING:
    from probpose_training.augmentation import Sample

SHOULDERS_HIPS = [KEYPOINT_NAMES.index(f"{side}_{part}") for part in ("shoulder", "hip") for side in ("left", "right")]
FACE = range(5)
LIMB, HEAD = 0.28, 0.38  # width of a limb and radius of the head, in lengths of the torso
LEAST_JOINTS = 6


def body_mask(keypoints: np.ndarray, labelled: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width) uint8, 1 on the body of keypoints (17, 2) in px; nothing without all of shoulders and hips."""
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    if not labelled[SHOULDERS_HIPS].all():
        return mask
    corners = keypoints[SHOULDERS_HIPS]
    sides = (corners[0] + corners[1] - corners[2] - corners[3]) / 2, corners[0] - corners[1]
    torso = max(2.0, *(float(np.hypot(*side)) for side in sides))
    points = np.round(keypoints).astype(np.int32)
    thickness = max(1, round(LIMB * torso))
    hull = cv2.convexHull(points[SHOULDERS_HIPS])
    cv2.fillConvexPoly(mask, hull, 1)
    cv2.polylines(mask, [hull], True, 1, thickness)
    for a, b in EDGES:
        if labelled[a] and labelled[b]:
            cv2.line(mask, points[a].tolist(), points[b].tolist(), 1, thickness)
    face = [k for k in FACE if labelled[k]]
    if face:
        cv2.circle(mask, np.round(keypoints[face].mean(0)).astype(int).tolist(), max(1, round(HEAD * torso)), 1, -1)
    return mask


def paste(
    crop: np.ndarray, keypoints: np.ndarray, labelled: np.ndarray, other: Sample, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A crop with another person, and which keypoints are now covered.

    Args:
        crop: (height, width, 3) uint8; black where there is no image: nothing is pasted there.
        keypoints: (17, 2) of the person to find, crop px. labelled: (17,) bool.
        other: the person to paste, as annotated in an image of its own.

    Returns:
        the new crop, and (17,) bool: labelled and covered. Half the time the other one stands behind, and always where
        it would cover more than half of the labelled keypoints in the crop.
    """
    height, width = crop.shape[:2]
    nothing = np.zeros(len(keypoints), bool)
    theirs = other.weight > 0
    if theirs.sum() < LEAST_JOINTS:
        return crop, nothing
    low, high = other.bbox[:2], other.bbox[2:]
    scale = rng.uniform(0.4, 1.0) * height / max(high[1] - low[1], (high[0] - low[0]) * height / width, 1)
    place = rng.uniform((0.0, 0.2), (1.0, 0.8)) * (width, height)
    offset = place - scale * (low + high) / 2
    mask = body_mask(other.keypoints * scale + offset, theirs, (width, height))
    mask &= cv2.morphologyEx(crop.max(axis=2), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8)) > 0
    covered = labelled & _at(mask, keypoints)
    present = labelled & in_window(keypoints, (width, height))
    if rng.random() < 0.5 or 2 * covered.sum() > present.sum():
        mask &= body_mask(keypoints, labelled, (width, height)) == 0
        covered = labelled & _at(mask, keypoints)
    if 2 * covered.sum() > present.sum():  # too little is known of the person's shape to put anyone behind
        return crop, nothing
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    picture = cv2.warpAffine(other.image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8)[:, :, None]
    return (crop + soft * (picture.astype(np.float32) - crop)).round().astype(np.uint8), covered


def _at(mask: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Whether the mask is set at keypoints (17, 2); False outside of it."""
    height, width = mask.shape
    x, y = np.clip(np.round(keypoints), 0, (width - 1, height - 1)).astype(int).T
    return in_window(keypoints, (width, height)) & (mask[y, x] > 0)
