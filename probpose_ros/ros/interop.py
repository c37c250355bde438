"""People in the messages of other projects: vision_msgs and, after REP 155, hri_msgs. Both packages are optional.

What these messages cannot hold is left out: regions, states, and joints beyond the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Header

from probpose_ros.ros import qos
from probpose_ros.skeleton import KEYPOINT_NAMES
from probpose_ros.types import FrameResult, KeypointState, Person

try:
    from vision_msgs.msg import BoundingBox2D, Detection2D, Detection2DArray, ObjectHypothesisWithPose
except ImportError:
    Detection2DArray = None
try:
    from hri_msgs.msg import IdsList, NormalizedPointOfInterest2D, NormalizedRegionOfInterest2D, Skeleton2D
except ImportError:
    Skeleton2D = None

# The 18 points of OpenPose's COCO model; the neck, in the second place, lies between the shoulders.
_OPENPOSE = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "left_eye", "right_eye", "left_ear", "right_ear",
)  # fmt: skip
NECK = _OPENPOSE.index("neck")
OPENPOSE = [KEYPOINT_NAMES.index("nose" if name == "neck" else name) for name in _OPENPOSE]
SHOULDERS = [KEYPOINT_NAMES.index("left_shoulder"), KEYPOINT_NAMES.index("right_shoulder")]


def detections_message(result: FrameResult, header: Header) -> Any:
    """vision_msgs/Detection2DArray: class "person" with the detection's bbox, px; id empty where nobody is tracked."""
    made = Detection2DArray(header=header)
    for person in result.people:
        x0, y0, x1, y1 = (float(value) for value in person.bbox)
        box = BoundingBox2D(size_x=x1 - x0, size_y=y1 - y0)
        box.center.position.x, box.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
        found = ObjectHypothesisWithPose()
        found.hypothesis.class_id, found.hypothesis.score = "person", float(person.score)
        identity = str(person.id) if person.id >= 0 else ""
        made.detections.append(Detection2D(header=header, results=[found], bbox=box, id=identity))
    return made


def skeleton2d_message(person: Person, width: int, height: int, header: Header) -> Any:
    """hri_msgs/Skeleton2D: coordinates over the image's size, confidence = presence.

    Coordinates must lie in [0, 1]: a joint beyond the image, OUT or unknown is put at the border, with confidence 0.
    """
    places = (person.keypoints[OPENPOSE] + 0.5) / (width, height)
    places[NECK] = (person.keypoints[SHOULDERS].mean(axis=0) + 0.5) / (width, height)
    presence = person.presence[OPENPOSE]
    presence[NECK] = person.presence[SHOULDERS].min()
    told = np.isin(person.states, (KeypointState.IN, KeypointState.IN_OR_OUT))
    known = told[OPENPOSE]
    known[NECK] = told[SHOULDERS].all()
    known &= ((places >= 0) & (places <= 1)).all(axis=1) & np.isfinite(presence)
    places = np.clip(np.nan_to_num(places), 0, 1)
    confidence = np.where(known, presence, 0)
    return Skeleton2D(
        header=header,
        skeleton=[
            NormalizedPointOfInterest2D(x=x, y=y, c=c) for (x, y), c in zip(places.tolist(), confidence.tolist())
        ],
    )


def roi_message(person: Person, width: int, height: int, header: Header) -> Any:
    """hri_msgs/NormalizedRegionOfInterest2D of the detection's bbox, cut at the image's border."""
    size = np.array([width, height])
    (x0, y0), (x1, y1) = (np.clip((corner + 0.5) / size, 0, 1).tolist() for corner in person.bbox.reshape(2, 2))
    return NormalizedRegionOfInterest2D(
        header=header, xmin=x0, ymin=y0, xmax=x1, ymax=y1, c=float(np.clip(person.score, 0, 1))
    )


class Bodies:
    """REP 155's topics under /humans/bodies, for the people of all cameras of a node who have an id."""

    def __init__(self, node: Node) -> None:
        if Skeleton2D is None:
            raise ImportError("hri is on, but hri_msgs is not installed: sudo apt install ros-$ROS_DISTRO-hri-msgs")
        self.node = node
        self.tracked = node.create_publisher(IdsList, "/humans/bodies/tracked", qos.OUTPUT)
        self._of_camera: dict[str, set[str]] = {}
        self._publishers: dict[str, tuple[Any, Any]] = {}

    def publish(self, camera: str, result: FrameResult, header: Header) -> None:
        people = {f"b{person.id}": person for person in result.people if person.id >= 0}
        self._of_camera[camera] = set(people)
        present = set().union(*self._of_camera.values())
        for name in set(self._publishers) - present:
            self._forget(name)
        for name, person in people.items():
            if name not in self._publishers:
                topic, create = f"/humans/bodies/{name}/", self.node.create_publisher
                self._publishers[name] = (
                    create(Skeleton2D, topic + "skeleton2d", qos.OUTPUT),
                    create(NormalizedRegionOfInterest2D, topic + "roi", qos.OUTPUT),
                )
            size = result.image_width, result.image_height
            skeleton, roi = self._publishers[name]
            skeleton.publish(skeleton2d_message(person, *size, header))
            roi.publish(roi_message(person, *size, header))
        self.tracked.publish(IdsList(header=header, ids=sorted(present)))

    def destroy(self) -> None:
        for name in list(self._publishers):
            self._forget(name)
        self.node.destroy_publisher(self.tracked)

    def _forget(self, name: str) -> None:
        for publisher in self._publishers.pop(name):
            self.node.destroy_publisher(publisher)
