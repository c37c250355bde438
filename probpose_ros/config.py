"""Every option of the pipeline and the node: default, allowed values, one sentence. ROS parameters are these fields."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    runtime: bool = False,
) -> Any:
    """A dataclass field that knows its help text and its range; ``runtime``: may change while the node runs."""
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "choices": choices, "runtime": runtime}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class ConfigError(ValueError):
    """A bad option: the message names the option, the value and what is allowed."""


def allowed(spec: Field) -> str:
    """What an option accepts, in words: ``a number from 0.0 to 1.0``."""
    meta = spec.metadata
    if meta["choices"]:
        return "one of " + ", ".join(choice or '""' for choice in meta["choices"])
    kind = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string"}.get(
        str(spec.type), "a list of numbers" if "float" in str(spec.type) else "a list of strings"
    )
    low, high = meta["minimum"], meta["maximum"]
    if low is not None and high is not None:
        return f"{kind} from {low} to {high}"
    if low is not None:
        return f"{kind} of at least {low}"
    if high is not None:
        return f"{kind} of at most {high}"
    return kind


def check_option(spec: Field, value: Any) -> Any:
    """The value in the option's type, or ConfigError."""
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}
    error = ConfigError(f"{spec.name} = {value!r}: must be {allowed(spec)}")
    items = value if str(spec.type).startswith("list") else [value]
    if not isinstance(items, (list, tuple)):
        raise error
    inner = str(spec.type)[5:-1] if str(spec.type).startswith("list") else str(spec.type)
    for item in items:
        if not isinstance(item, kinds[inner]) or (isinstance(item, bool) and inner != "bool"):
            raise error
        if isinstance(item, float) and not math.isfinite(item):
            raise error
        low, high, choices = (spec.metadata[key] for key in ("minimum", "maximum", "choices"))
        if (low is not None and item < low) or (high is not None and item > high) or (choices and item not in choices):
            raise error
    if inner == "float":
        converted = [float(item) for item in items]
    else:
        converted = list(items)
    return converted if str(spec.type).startswith("list") else converted[0]


class Options:
    """Base of the config dataclasses: checks every field when it is made."""

    def __post_init__(self) -> None:
        for spec in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, spec.name, check_option(spec, getattr(self, spec.name)))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Any:
        """Made from a mapping; an unknown name is refused with the names there are."""
        known = {spec.name for spec in fields(cls)}  # type: ignore[arg-type]
        for name in values:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}; the options are: {', '.join(sorted(known))}")
        return cls(**values)


BACKENDS = ("auto", "tensorrt", "onnxruntime", "openvino")


@dataclass(frozen=True)
class PipelineConfig(Options):
    """Image -> people."""

    detector: str = option("person_detector", "Person detector: name of a bundled model, or path of an ONNX file")
    model: str = option("probpose_small", "Pose model: name of a bundled model, or path of an ONNX file")
    backend: str = option("auto", "What runs the networks", choices=BACKENDS)
    allow_fallback: bool = option(
        False, "Let onnxruntime on the CPU take over, with an error in the log, where TensorRT is missing or fails"
    )
    threads: int = option(0, "CPU threads of the networks; 0: all cores", minimum=0, maximum=256)
    detector_threshold: float = option(0.4, "Lowest score of a detected person", minimum=0.0, maximum=1.0, runtime=True)
    detector_iou: float = option(
        0.5, "Overlap (IoU) above which the weaker of two boxes is dropped", minimum=0.0, maximum=1.0, runtime=True
    )
    max_people: int = option(8, "Most people per image, best first", minimum=1, maximum=100, runtime=True)
    presence_in: float = option(
        0.5, "Presence probability from which a keypoint is IN", minimum=0.0, maximum=1.0, runtime=True
    )
    presence_out: float = option(
        0.1, "Presence probability below which a keypoint is OUT", minimum=0.0, maximum=1.0, runtime=True
    )
    levels: list[float] = option([0.5, 0.95], "Levels of the uncertainty regions", minimum=0.01, maximum=0.999)
    calibration: str = option(
        "auto",
        "Calibration of the regions: name of a bundled one, or path of a .calibration.json file; "
        "auto: the one beside the pose model, if it was made for this detector and these levels; empty: none",
    )
    region_kind: str = option(
        "",
        "What calibrated regions promise: marginal and pac for each joint, simultaneous and simultaneous_pac for all "
        "joints of a person at once; empty: what the calibration was made for",
        choices=("", "marginal", "pac", "simultaneous", "simultaneous_pac"),
    )


_CAMERA = re.compile("[A-Za-z_][A-Za-z0-9_]*")  # a part of a topic's name


@dataclass(frozen=True)
class NodeConfig(Options):
    """Topics and behaviour of the ROS node; the pipeline's options stand beside these."""

    cameras: list[str] = option([], "Names of cameras served by this node; empty: one camera, topics without a prefix")
    autostart: bool = option(
        True, "Configure and activate at once; false: wait for lifecycle transitions (the launch file's way)"
    )
    compressed: bool = option(False, "Subscribe to sensor_msgs/CompressedImage instead of Image")
    cv_bridge: bool = option(
        False, "Convert images with cv_bridge, which must be installed, instead of NumPy and OpenCV (the same pixels)"
    )
    status_rate: float = option(10.0, "Heartbeat on the topic status, Hz", minimum=1.0, maximum=100.0)
    no_image_hint_after: float = option(
        3.0, "Seconds without an image after which the node logs what it could subscribe to", minimum=0.5, maximum=60.0
    )
    stale_after: float = option(
        0.1, "Seconds without a result after which the state is STALE (or three frame times, if longer)",
        minimum=0.02, maximum=10.0, runtime=True,
    )  # fmt: skip
    track_keep: float = option(
        1.0, "Seconds for which a person who is not found keeps the id, to get it back when found again",
        minimum=0.0, maximum=10.0, runtime=True,
    )  # fmt: skip
    detector_interval: int = option(
        1, "Run the detector on every n-th image; between, boxes follow the people, and no region or zone promises "
        "anything", minimum=1, maximum=10, runtime=True,
    )  # fmt: skip
    track_lost: bool = option(
        False, "Also list people who are not found in the image (LOST), where they are believed to be", runtime=True
    )
    frozen_after: float = option(
        0.2, "Seconds of identical images after which the camera counts as frozen and the state is UNKNOWN; 0: never",
        minimum=0.0, maximum=10.0, runtime=True,
    )  # fmt: skip
    min_contrast: float = option(
        16.0, "Levels of 255 between dark and bright pixels below which an image is black, saturated or covered and "
        "the state is UNKNOWN; 0: any image will do",
        minimum=0.0, maximum=255.0, runtime=True,
    )  # fmt: skip
    polygons: bool = option(
        False,
        "Fill in Region.polygon of the keypoints "
        "(ellipses and zones are always there; polygons cost about 1 ms a person)",
        runtime=True,
    )  # fmt: skip
    drawn_level: float = option(
        0.5,
        "Regions of the level nearest to this are drawn in overlay and markers",
        minimum=0.01,
        maximum=0.999,
        runtime=True,
    )
    marker_depth: float = option(
        1.0, "Distance in metres at which markers are drawn in the camera's frame",
        minimum=0.1, maximum=100.0, runtime=True,
    )  # fmt: skip
    rectified: bool = option(
        False, "The images are rectified (image_rect): camera_info's P holds; false: its K and distortion"
    )
    zone_limbs: bool = option(True, "Publish zones of head, trunk and limbs after each person's own", runtime=True)
    zone_arm_speed: float = option(
        2.0, "Speed assumed of arms, m/s relative to the camera (ISO 13855); zones grow by it",
        minimum=0.0, maximum=20.0, runtime=True,
    )  # fmt: skip
    zone_body_speed: float = option(
        1.6, "Speed assumed of all but the arms, m/s relative to the camera (ISO 13855)",
        minimum=0.0, maximum=20.0, runtime=True,
    )  # fmt: skip
    zone_lookahead: float = option(
        0.1, "Seconds after publication for which zones hold, and for which they are inflated beforehand",
        minimum=0.0, maximum=2.0, runtime=True,
    )  # fmt: skip
    shortest_person: float = option(
        1.4, "Stature of the shortest person expected, m; without depth it tells how near people can be",
        minimum=0.5, maximum=2.5, runtime=True,
    )  # fmt: skip
    tallest_person: float = option(
        2.0, "Stature of the tallest person expected, m; it tells how far unseen limbs reach",
        minimum=0.5, maximum=2.5, runtime=True,
    )  # fmt: skip
    assume_range: bool = option(
        False, "Without depth: derive the distance of zones from the apparent size of people", runtime=True
    )
    depth_max_age: float = option(
        0.05, "Largest difference between the stamps of a depth image and an image, s",
        minimum=0.0, maximum=1.0, runtime=True,
    )  # fmt: skip
    zone_range: float = option(
        5.0, "zone_cloud and zone_poses: zones at an unknown distance reach from the camera to here, m",
        minimum=0.5, maximum=50.0, runtime=True,
    )  # fmt: skip
    zone_spacing: float = option(
        0.2, "zone_cloud and zone_poses: distance between points, m", minimum=0.05, maximum=1.0, runtime=True
    )
    uncalibrated_zones: bool = option(
        False, "zone_cloud and zone_poses: use zones that promise nothing too; false: the whole view in their place",
        runtime=True,
    )  # fmt: skip
    hri: bool = option(
        False, "Publish REP 155's /humans/bodies/... too (needs hri_msgs); joints beyond the image are lost there"
    )
    marker_lifetime: float = option(
        0.3, "Seconds a marker stays without renewal", minimum=0.05, maximum=10.0, runtime=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortest_person > self.tallest_person:
            raise ConfigError(
                f"shortest_person = {self.shortest_person}: must not be above tallest_person = {self.tallest_person}"
            )
        if len(set(self.cameras)) < len(self.cameras) or not all(_CAMERA.fullmatch(name) for name in self.cameras):
            raise ConfigError(
                f"cameras = {self.cameras!r}: must be different names of letters, digits and _, no digit first"
            )
