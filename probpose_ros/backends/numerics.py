"""Two sessions of one model, compared on real images: does a faster engine still say the same?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from probpose_ros.backends import Session
from probpose_ros.detector import letterbox
from probpose_ros.geometry import CropTransform
from probpose_ros.model_info import METADATA_KEY, ModelInfo, PoseInfo, from_json

# What half precision may change at most. Keypoints: crop px on 99 % of the keypoints with presence >= CONFIDENT.
CONFIDENT = 0.5
LIMITS = {
    "pose": {"keypoints_p99": 0.25, "presence": 0.01, "visibility": 0.02, "quality": 0.02},
    "detector": {"scores": 0.02, "boxes_p99": 1.0},
}


def read_images(folder: Path, limit: int = 32) -> list[np.ndarray]:
    """The folder's images (png, jpg), evenly chosen, uint8 BGR."""
    files = sorted(f for f in Path(folder).iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise FileNotFoundError(f"{folder}: no .jpg or .png images to compare on")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, limit).astype(int))]
    return [image for image in map(cv2.imread, map(str, chosen)) if image is not None]


def inputs_of(info: ModelInfo, images: Sequence[np.ndarray]) -> np.ndarray:
    """(N, H, W, 3) uint8 inputs of a model: letterboxed images for a detector; for a pose network five crops of each
    image, the whole and its quarters, as persons of any size and cut off anywhere."""
    if not isinstance(info, PoseInfo):
        return np.stack([letterbox(image, info.input_size)[0] for image in images])
    crops = []
    for image in images:
        h, w = image.shape[:2]
        for x, y, side in [(0, 0, 1), (0, 0, 2), (w / 2, 0, 2), (0, h / 2, 2), (w / 2, h / 2, 2)]:
            box = np.array([x, y, x + w / side - 1, y + h / side - 1], np.float32)
            transform = CropTransform.from_bbox(box, info.input_size, info.padding)
            crop = np.empty((info.input_size[1], info.input_size[0], 3), np.uint8)
            transform.warp(image, out=crop)
            crops.append(crop)
    return np.stack(crops)


def model_info(session: Session, path: Path | str) -> ModelInfo:
    """The info of a model of either kind."""
    text = session.metadata.get(METADATA_KEY)
    return from_json(text, "detector" if '"kind": "detector"' in (text or "") else "pose", str(path))


def compare(reference: Session, other: Session, inputs: np.ndarray, kind: str, batch: int = 4) -> dict[str, float]:
    """Largest differences (p99: 99 % quantile) between two sessions on the same inputs, batch by batch."""
    true, found = (_outputs(session, inputs, batch) for session in (reference, other))
    if not all(np.isfinite(value).all() for value in found.values()):
        return dict.fromkeys(LIMITS[kind], float("inf"))
    if kind == "detector":
        # A box matters where the score is near or above the threshold that anybody sets.
        seen = true["scores"] >= 0.3
        boxes = np.abs(true["boxes"] - found["boxes"]).max(-1)[seen]
        return {
            "compared": int(seen.sum()),
            "scores": float(np.abs(true["scores"] - found["scores"]).max()),
            "boxes_p99": _quantile(boxes),
        }
    confident = true["presence"] >= CONFIDENT
    distance = np.linalg.norm(true["keypoints"] - found["keypoints"], axis=-1)[confident]
    scalars = {n: float(np.abs(true[n] - found[n]).max()) for n in ("presence", "visibility", "quality")}
    return {"compared": int(confident.sum()), "keypoints_p99": _quantile(distance), **scalars}


def beyond_limits(report: dict[str, float], kind: str) -> list[str]:
    """What is worse than allowed, in words; empty if all is well."""
    return [
        f"{name} differ by {report[name]:.3g} (at most {limit})"
        for name, limit in LIMITS[kind].items()
        if not report[name] <= limit
    ]


def _outputs(session: Session, inputs: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    results = [session.run(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
    return {name: np.concatenate([result[name] for result in results]) for name in session.outputs}


def _quantile(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.99)) if len(values) else 0.0
