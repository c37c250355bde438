"""Pseudo-labels: RTMDet-nano at several scales and mirrored, fused into one set of boxes per image.

    python -m probpose_training.detector.teacher --model rtmdet_nano_person.onnx --images DIR --out boxes.json

A box that all passes agree on keeps its score; one that only a single pass sees loses most of it. The fused boxes are
better than those of one pass, so the student can learn more than the teacher shows in one look.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from tqdm import tqdm

from .boxes import box_iou
from .data import read_image

MEAN = np.array([103.53, 116.28, 123.675], np.float32)  # BGR, of RTMDet's own preprocessing
STD = np.array([57.375, 57.12, 58.395], np.float32)
FUSE_IOU = 0.6


class RTMDet:
    """RTMDet-nano with its NMS inside the graph."""

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, image: np.ndarray, size: int = 320) -> np.ndarray:
        """(N, 5) float32 x_min, y_min, x_max, y_max in px of the BGR image, score; letterboxed to size x size."""
        height, width = image.shape[:2]
        scale = size / max(height, width)
        new = max(1, round(width * scale)), max(1, round(height * scale))
        canvas = np.full((size, size, 3), 114, np.uint8)
        canvas[: new[1], : new[0]] = cv2.resize(image, new)
        tensor = ((canvas - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)
        dets, labels = self.session.run(None, {"input": tensor})
        found = dets[0][labels[0] == 0].copy()
        found[:, :4] /= scale
        found[:, 0:4:2] = found[:, 0:4:2].clip(0, width)
        found[:, 1:4:2] = found[:, 1:4:2].clip(0, height)
        return found

    def fused(self, image: np.ndarray, sizes: tuple[int, ...] = (320, 448)) -> np.ndarray:
        """(N, 5) as above: passes at each size, plain and mirrored, fused by `fuse`."""
        passes = []
        for size in sizes:
            passes.append(self(image, size))
            mirrored = self(np.ascontiguousarray(image[:, ::-1]), size)
            mirrored[:, [0, 2]] = image.shape[1] - mirrored[:, [2, 0]]
            passes.append(mirrored)
        return fuse(passes)


def fuse(passes: list[np.ndarray]) -> np.ndarray:
    """Boxes of several passes over one image -> (N, 5): boxes averaged by score, scores averaged over all passes."""
    index = np.concatenate([np.full(len(found), i) for i, found in enumerate(passes)])
    rest = np.concatenate(passes)
    keep = rest[:, 4] > 0.05
    index, rest = index[keep], rest[keep]
    fused = []
    while len(rest):
        best = int(rest[:, 4].argmax())
        group = box_iou(rest[best : best + 1, :4], rest[:, :4])[0] > FUSE_IOU
        group[best] = True
        score = sum(rest[group & (index == i), 4].max(initial=0.0) for i in range(len(passes))) / len(passes)
        fused.append([*np.average(rest[group, :4], axis=0, weights=rest[group, 4]), score])
        index, rest = index[~group], rest[~group]
    fused.sort(key=lambda box: -box[4])
    return np.array(fused, np.float32).reshape(-1, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="rtmdet_nano_person.onnx")
    parser.add_argument("--images", required=True, type=Path, help="folder of jpg images")
    parser.add_argument("--out", required=True, type=Path, help="JSON: file name -> list of [x1, y1, x2, y2, score]")
    args = parser.parse_args()
    teacher = RTMDet(args.model)
    boxes = {}
    for path in tqdm(sorted(args.images.glob("*.jpg"))):
        fused = teacher.fused(read_image(path))
        boxes[path.name] = [[round(float(v), 3) for v in box] for box in fused if box[4] > 0.1]
    args.out.write_text(json.dumps(boxes))


if __name__ == "__main__":
    main()
