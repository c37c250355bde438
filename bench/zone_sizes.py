"""How large zones are, for docs/zones.md: python bench/zone_sizes.py

Somebody 1.7 m tall stands upright and faces the camera (640 x 480 px, f = 600 px, regions of 9 px around the joints).
"""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))
from world_person import CAMERA, person_in_view, posed

from probpose_ros.config import NodeConfig
from probpose_ros.depth import DepthImage
from probpose_ros.types import FrameResult, FrameState, KeypointState
from probpose_ros.zones import bodies, zones_at

CONFIG = NodeConfig()


def main() -> None:
    print("| distance | seen | depth | until age, ms | person, m x m | left forearm | from the camera, m |")
    print("|---|---|---|---|---|---|---|")
    for z in (2.0, 3.0, 5.0):
        for legs in (True, False):
            picture = person_in_view(posed(z=z))
            if not legs:
                states = picture.states.copy()
                states[13:] = KeypointState.OUT
                picture = replace(picture, states=states)
            result = FrameResult((picture,), 640, 480, FrameState.OK)
            for depth in (DepthImage(np.full((480, 640), z - 0.1, np.float32), 0.0), None):
                people = bodies(result, CONFIG, CAMERA, depth, 0.0)
                for age in (0.0, 0.15):
                    zones = {zone.part: zone for zone in zones_at(people, age, CONFIG, CAMERA)}
                    own, arm = zones["person"], zones["left_forearm"]
                    size = " x ".join(f"{side * z / CAMERA.fx:.2f}" for side in cv2.boundingRect(own.polygon)[2:])
                    wide = f"{cv2.boundingRect(arm.polygon)[2] * z / CAMERA.fx:.2f} m" if arm.valid else "whole view"
                    print(
                        f"| {z:g} m | {'all' if legs else 'no legs'} | {'yes' if depth else 'no'} | {1e3 * age:.0f} "
                        f"| {size if own.valid else 'whole view'} | {wide} "
                        f"| {'' if np.isnan(own.distance) else f'{own.distance:.2f}'} |"
                    )


if __name__ == "__main__":
    main()
