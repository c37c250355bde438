"""What a model file says about itself: one JSON object in the ONNX metadata, written by the exporter, read strictly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

METADATA_KEY = "probpose"
FORMAT_VERSION = 1


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
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ModelInfoError(f"{path}: the {METADATA_KEY!r} metadata is not JSON ({error})") from None
    if not isinstance(values, dict):
        found = type(values).__name__
        raise ModelInfoError(f"{path}: the {METADATA_KEY!r} metadata must be a JSON object, got {found}")
    if values.get("format_version") != FORMAT_VERSION:
        raise ModelInfoError(
            f"{path}: format_version {values.get('format_version')!r}; this version reads {FORMAT_VERSION}"
        )
    if values.get("kind") != kind:
        raise ModelInfoError(f"{path}: this is a {values.get('kind')!r} model; a {kind!r} model is needed here")
    cls = {"pose": PoseInfo, "detector": DetectorInfo}[kind]
    known = {spec.name for spec in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ModelInfoError(f"{path}: unknown metadata {', '.join(unknown)}")
    for name in ("input_size", "map_size"):
        if name in values:
            size = values[name]
            if not (isinstance(size, list) and len(size) == 2 and all(isinstance(v, int) and v > 0 for v in size)):
                raise ModelInfoError(f"{path}: {name} must be [width, height] in px, got {size!r}")
            values[name] = tuple(size)
    if values.get("map_window") is not None:
        window = values["map_window"]
        if not (isinstance(window, list) and len(window) == 4 and all(isinstance(v, (int, float)) for v in window)):
            raise ModelInfoError(f"{path}: map_window must be [x_min, y_min, x_max, y_max] in crop px, got {window!r}")
        values["map_window"] = tuple(window)
    kinds: dict[str, Any] = {"str": str, "float": (int, float), "dict[str, Any]": dict}
    for spec in fields(cls):
        if spec.name in values and not isinstance(values[spec.name], kinds.get(str(spec.type), object)):
            raise ModelInfoError(f"{path}: {spec.name} must be of type {spec.type}, got {values[spec.name]!r}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ModelInfoError(f"{path}: incomplete metadata ({error})") from None
