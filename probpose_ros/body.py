"""What is assumed of human bodies: proportions, parts, speeds. Advisory zones rest on these numbers and say so.

Lengths are shares of stature, after the segment table of Drillis and Contini (1966), as every textbook of biomechanics
has it; the people in view are taken to differ from it by at most TOLERANCE.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probpose_ros.skeleton import EDGES, NUM_KEYPOINTS

TOLERANCE = 0.15
_LENGTHS = {
    (11, 12): 0.191, (5, 6): 0.259, (5, 11): 0.288, (5, 7): 0.186, (7, 9): 0.146, (11, 13): 0.245, (13, 15): 0.246,
    (1, 2): 0.036, (0, 1): 0.030, (1, 3): 0.070, (3, 5): 0.150,
}  # fmt: skip
_LENGTHS.update({(6, 12): 0.288, (6, 8): 0.186, (8, 10): 0.146, (12, 14): 0.245, (14, 16): 0.246})
_LENGTHS.update({(0, 2): 0.030, (2, 4): 0.070, (4, 6): 0.150})

# Length of every edge of the skeleton, and the edges that tell how large a person looks: all but the head's.
LENGTHS = np.array([_LENGTHS[min(edge), max(edge)] for edge in EDGES])
BONES = np.array([edge for edge in EDGES if min(edge) >= 5])
BONE_LENGTHS = np.array([_LENGTHS[min(edge), max(edge)] for edge in EDGES if min(edge) >= 5])


def _reach() -> np.ndarray:
    """(K, K): no joint is farther from another than the bones on the shortest way between them."""
    reach = np.full((NUM_KEYPOINTS, NUM_KEYPOINTS), np.inf)
    np.fill_diagonal(reach, 0)
    for (a, b), length in zip(EDGES, LENGTHS):
        reach[a, b] = reach[b, a] = length * (1 + TOLERANCE)
    for via in range(NUM_KEYPOINTS):
        reach = np.minimum(reach, reach[:, via, None] + reach[via])
    return reach


REACH = _reach()
ARM = 0.45  # shoulder to fingertips
EXTENT = 1.3  # longest side of the box around a person, arms raised


@dataclass(frozen=True)
class Part:
    """A part of the body: the convex hull of its joints and ``flesh``, a share of stature, around it on every side.

    arm: moves with the speed assumed of arms.
    """

    name: str
    joints: tuple[int, ...]
    flesh: float
    arm: bool = False


# Bones are straight, so a hull of joints holds what lies between. Hands and feet go beyond the last joint.
PARTS = (
    Part("head", (0, 1, 2, 3, 4), 0.13),
    Part("trunk", (5, 6, 11, 12), 0.10),
    Part("left_upper_arm", (5, 7), 0.06, arm=True),
    Part("right_upper_arm", (6, 8), 0.06, arm=True),
    Part("left_forearm", (7, 9), 0.12, arm=True),
    Part("right_forearm", (8, 10), 0.12, arm=True),
    Part("left_thigh", (11, 13), 0.08),
    Part("right_thigh", (12, 14), 0.08),
    Part("left_shin", (13, 15), 0.13),
    Part("right_shin", (14, 16), 0.13),
)
# (P, K) whether a joint belongs to a part.
MEMBERS = np.array([[k in part.joints for k in range(NUM_KEYPOINTS)] for part in PARTS])
FLESH = np.array([part.flesh for part in PARTS])
IS_ARM = np.array([part.arm for part in PARTS])
# How far the joints of a part can be apart.
SPAN = np.array([REACH[np.ix_(part.joints, part.joints)].max() for part in PARTS])
