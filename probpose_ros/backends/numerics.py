"""Two sessions of one model, compared on real images: does a faster engine still say the same?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from probpose_ros.backends import Session
from probpose_ros.detector import Detector, letterbox
from probpose_ros.geometry import CropTransform, cut_crops
from probpose_ros.model_info import METADATA_KEY, ModelInfo, PoseInfo, from_json

# What an engine may change at most, beside onnxruntime in fp32. Keypoints: crop px, on the keypoints with presence >=
# CONFIDENT; boxes: canvas px, on the boxes scored >= SEEN. Eight bits move answers about: where two places are nearly
# as likely the other one may win, so there the bulk is held and not the tail.
CONFIDENT, SEEN = 0.5, 0.3
_HALF = {
    "pose": {"keypoints_p99": 0.25, "presence": 0.01, "visibility": 0.02, "quality": 0.02},
    "detector": {"scores": 0.02, "boxes_p99": 1.0},
}
LIMITS = {
    "fp32": _HALF,
    "fp16": _HALF,
    "int8": {
        "pose": {
            "keypoints_p90": 2.0, "keypoints_p95": 4.0, "presence_p99": 0.1, "visibility_p99": 0.1, "quality_p99": 0.05,
        },
        "detector": {"scores_p99": 0.1, "boxes_p90": 5.0},
    },
}  # fmt: skip
_QUANTILES = (0.5, 0.9, 0.95, 0.99)


def read_images(folder: Path, limit: int = 32) -> list[np.ndarray]:
    """The folder's images (png, jpg), evenly chosen, uint8 BGR."""
    files = sorted(f for f in Path(folder).iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise FileNotFoundError(f"{folder}: no .jpg or .png images to compare on")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, limit).astype(int))]
    return [image for image in map(cv2.imread, map(str, chosen)) if image is not None]


def inputs_of(info: ModelInfo, images: Sequence[np.ndarray], detector: Detector | None = None) -> np.ndarray:
    """(N, H, W, 3) uint8 inputs of a model: letterboxed images for a detector, crops for a pose network.

    The crops are those of the persons that ``detector`` finds; of an image without any, and without a detector, the
    whole and its quarters, as persons of any size and cut off anywhere.
    """
    if not isinstance(info, PoseInfo):
        return np.stack([letterbox(image, info.input_size)[0] for image in images])
    windows = []
    for image in images:
        found = detector([image])[0].boxes if detector else ()
        boxes = found if len(found) else _quarters(image)
        windows.append([CropTransform.from_bbox(box, info.input_size, info.padding) for box in boxes])
    return cut_crops(images, windows, info.input_size)


def _quarters(image: np.ndarray) -> np.ndarray:
    """(5, 4) boxes: the whole image and its quarters."""
    h, w = image.shape[:2]
    places = [(0, 0, 1), (0, 0, 2), (w / 2, 0, 2), (0, h / 2, 2), (w / 2, h / 2, 2)]
    return np.array([[x, y, x + w / side - 1, y + h / side - 1] for x, y, side in places], np.float32)


def model_info(session: Session, path: Path | str) -> ModelInfo:
    """The info of a model of either kind."""
    text = session.metadata.get(METADATA_KEY)
    return from_json(text, "detector" if '"kind": "detector"' in (text or "") else "pose", str(path))


def compare(reference: Session, other: Session, inputs: np.ndarray, kind: str, batch: int = 4) -> dict[str, float]:
    """Differences between two sessions on the same inputs, batch by batch.

    Returns:
        compared: how many keypoints or boxes. ``keypoints_p50`` ... ``p99``, ``boxes_p50`` ...: quantiles of their
        distances. ``presence``, ``scores`` ...: the largest difference, and with ``_p99`` the quantile. Infinite where
        the other session gives a number that is not finite.
    """
    true, found = (_outputs(session, inputs, batch) for session in (reference, other))
    names: tuple[str, ...]
    if kind == "detector":
        chosen = true["scores"] >= SEEN
        places, names, distance = "boxes", ("scores",), np.abs(true["boxes"] - found["boxes"]).max(-1)
        # Below a tenth no score matters to anybody, and there are hundreds of them.
        counted = {"scores": (true["scores"] >= 0.1) | (found["scores"] >= 0.1)}
    else:
        chosen = true["presence"] >= CONFIDENT
        places, names = "keypoints", ("presence", "visibility", "quality")
        distance = np.linalg.norm(true["keypoints"] - found["keypoints"], axis=-1)
        counted = {name: np.ones_like(chosen) for name in names}
    report: dict[str, float] = {"compared": int(chosen.sum())}
    for q in _QUANTILES:
        report[f"{places}_p{100 * q:.0f}"] = _quantile(distance[chosen], q)
    for name in names:
        difference = np.abs(true[name] - found[name])
        report[f"{name}_p99"] = _quantile(difference[counted[name]], 0.99)
        report[name] = float(difference.max())
    finite = all(np.isfinite(value).all() for value in found.values())
    return report if finite else dict.fromkeys(report, float("inf"))


def beyond_limits(report: dict[str, float], kind: str, precision: str = "fp16") -> list[str]:
    """What is worse than allowed in a precision, in words; empty if all is well."""
    return [
        f"{name} differ by {report[name]:.3g} (at most {limit})"
        for name, limit in LIMITS[precision][kind].items()
        if not report[name] <= limit
    ]


def _outputs(session: Session, inputs: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    results = [session.run(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
    return {name: np.concatenate([result[name] for result in results]) for name in session.outputs}


def _quantile(values: np.ndarray, q: float) -> float:
    return float(np.quantile(values, q)) if len(values) else 0.0
