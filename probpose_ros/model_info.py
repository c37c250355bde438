"""What a model file says about itself: one JSON object in the ONNX metadata, written by the exporter, read strictly."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from probpose_ros.untrusted import parse_json

METADATA_KEY = "probpose"
FORMAT_VERSION = 1
MAX_SIDE = 4096  # px, of an input or a map
MAX_NAME = 200  # characters; the name goes into every message


class ModelInfoError(ValueError):
    """The file is not a model of this package; the message says what was found and what is expected."""


@dataclass(frozen=True)
class ModelInfo:
    """Common to all models.

    kind: ``pose`` or ``detector``. name: for messages and logs. input_size: (width, height) of the network's input, px.
    precision: ``fp32``, ``fp16`` (weights stored so), ``fp16-typed`` (computed so) or ``int8``. trained_on, licence:
    free text. metrics: of the card.
    """

    kind: str
    name: str
    input_size: tuple[int, int]
    precision: str = "fp32"
    trained_on: str = ""
    licence: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class PoseInfo(ModelInfo):
    """A pose network.

    map_size: (width, height) of the probability maps. padding: of the activation window. decode_profile: of the codec.
    temperature: the logits were divided by it before sparsemax. skeleton: always ``coco17``.
    map_window: of the codec; None where the maps cover the crop.
    """

    map_size: tuple[int, int] = (48, 64)
    padding: float = 1.25
    decode_profile: str = "oks"
    temperature: float = 0.5
    skeleton: str = "coco17"
    map_window: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class DetectorInfo(ModelInfo):
    """A person detector; outputs ``boxes`` (B, N, 4) xyxy input px and ``scores`` (B, N), before suppression (NMS)."""


def from_json(text: str | None, kind: str, path: str) -> Any:
    """PoseInfo or DetectorInfo of a model file.

    Args:
        text: the metadata entry, None when the file has none.
        kind: what the caller needs, ``pose`` or ``detector``.
        path: named in errors.
    """
    if text is None:
        raise ModelInfoError(f"{path}: no {METADATA_KEY!r} metadata; make the file with 'probpose export'")
    try:
        values = parse_json(text, nan=True)  # a metric of the card may be NaN
    except ValueError as error:
        raise ModelInfoError(f"{path}: the {METADATA_KEY!r} metadata is {error}") from None
    if not isinstance(values, dict):
        found = type(values).__name__
        raise ModelInfoError(f"{path}: the {METADATA_KEY!r} metadata must be a JSON object, got {found}")
    if values.get("format_version") != FORMAT_VERSION:
        raise ModelInfoError(
            f"{path}: format_version {_short(values.get('format_version'))}; this version reads {FORMAT_VERSION}"
        )
    if values.get("kind") != kind:
        raise ModelInfoError(f"{path}: this is a {_short(values.get('kind'))} model; a {kind!r} model is needed here")
    cls = {"pose": PoseInfo, "detector": DetectorInfo}[kind]
    known = {spec.name for spec in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ModelInfoError(f"{path}: unknown metadata {' '.join(', '.join(unknown).split())[:80]}")
    for name in ("input_size", "map_size"):
        if name in values:
            size = values[name]
            sides = size if isinstance(size, list) and len(size) == 2 else [None]
            if not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
                raise ModelInfoError(f"{path}: {name} must be [width, height] in px, got {_short(size)}")
            values[name] = tuple(size)
    if values.get("map_window") is not None:
        window = values["map_window"]
        corners: list[Any] = window if isinstance(window, list) and len(window) == 4 else [None]
        if not all(_is_number(corner) and abs(corner) <= 10 * MAX_SIDE for corner in corners):
            raise ModelInfoError(
                f"{path}: map_window must be [x_min, y_min, x_max, y_max] in crop px, got {_short(window)}"
            )
        values["map_window"] = tuple(window)
    kinds: dict[str, Any] = {"str": str, "float": (int, float), "dict[str, Any]": dict}
    for spec in fields(cls):
        if spec.name in values and not isinstance(values[spec.name], kinds.get(str(spec.type), object)):
            raise ModelInfoError(f"{path}: {spec.name} must be of type {spec.type}, got {_short(values[spec.name])}")
        if spec.type == "float" and spec.name in values and not (_is_number(v := values[spec.name]) and 0 < v <= 100):
            raise ModelInfoError(f"{path}: {spec.name} must be a number above 0 and at most 100, got {_short(v)}")
    if not (name := values.get("name", "")).isprintable() or len(name) > MAX_NAME:
        raise ModelInfoError(f"{path}: name must be at most {MAX_NAME} printable characters, got {_short(name)}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ModelInfoError(f"{path}: incomplete metadata ({error})") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
