"""The COCO person skeleton: the one table of names, sigmas, flip pairs and edges."""

from __future__ import annotations

import numpy as np

KEYPOINT_NAMES: tuple[str, ...] = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
NUM_KEYPOINTS = len(KEYPOINT_NAMES)

# Per-keypoint OKS sigmas of the COCO keypoint task (relative to the square root of the person's area).
SIGMAS = np.array(
    [0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
     0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089]
)  # fmt: skip
SIGMAS.setflags(write=False)

# FLIP_INDEX[k] is the keypoint that keypoint k becomes in a mirrored image.
FLIP_INDEX = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15])
FLIP_INDEX.setflags(write=False)

EDGES: tuple[tuple[int, int], ...] = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12),
    (5, 11), (6, 12), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10),
    (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip

UPPER_BODY: tuple[int, ...] = tuple(range(11))
LOWER_BODY: tuple[int, ...] = tuple(range(11, NUM_KEYPOINTS))

# Left and right pooled: what a joint is, whatever its side. JOINT_TYPE[k] is the index of keypoint k's type.
JOINT_TYPES: tuple[str, ...] = tuple(dict.fromkeys(name.split("_")[-1] for name in KEYPOINT_NAMES))
JOINT_TYPE = np.array([JOINT_TYPES.index(name.split("_")[-1]) for name in KEYPOINT_NAMES])
JOINT_TYPE.setflags(write=False)
