"""What running the detector on every n-th image only does to coverage: photographs as clips with known motion.

``python bench/detector_interval.py --annotations A.json --images DIR [--calibration C]``

A clip pans and zooms over a photograph, so every joint's place is known in every image. People are followed as the node
does it (Tracker.boxes). Coverage: share of the labelled joints of found people that lie in the region's ellipse.
Writes bench/results/detector_interval.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from probpose_ros.config import PipelineConfig
from probpose_ros.pipeline import Pipeline
from probpose_ros.tracking import Tracker
from probpose_ros.types import Detections, Regions
from probpose_training.coco import read_coco, read_image
from probpose_training.evaluate import match_boxes

FRAMES, FPS, INTERVALS = 8, 15, (1, 2, 3, 5)


def motion(t: int, random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(2, 3) affine of image t: a pan of up to 1.5 % of the width an image, and a zoom of up to 1 %."""
    zoom, pan = 1.01 ** (t * random.uniform(-1, 1)), t * 0.015 * size[0] * random.uniform(-1, 1, 2)
    centre = np.array(size) / 2
    return np.column_stack([zoom * np.eye(2), centre - zoom * centre + pan])


def inside(regions: Regions, level: int, points: np.ndarray) -> np.ndarray:
    """(K,) bool: points in the ellipses of a level."""
    x, y, major, minor, theta = regions.ellipses[:, level].astype(float).T
    dx, dy = points[:, 0] - x, points[:, 1] - y
    along, across = dx * np.cos(theta) + dy * np.sin(theta), dy * np.cos(theta) - dx * np.sin(theta)
    return (along / major) ** 2 + (across / minor) ** 2 <= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--calibration", default="")
    parser.add_argument("--most", type=int, default=1000, help="photographs")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    dataset = read_coco(args.annotations)
    pipeline = Pipeline(PipelineConfig(calibration=args.calibration, threads=1))
    levels = pipeline.config.levels
    # interval -> image has a detection -> [persons, found, labelled joints, covered at each level]
    counts = {n: {kind: np.zeros(3 + len(levels)) for kind in (True, False)} for n in INTERVALS}
    for entry in tqdm(list(dataset.images.values())[: args.most], unit="photograph"):
        photo, rows = read_image(args.images, entry), np.flatnonzero(dataset.image_ids == entry.id)
        size = photo.shape[1], photo.shape[0]
        clip = []
        for t in range(FRAMES):
            move = motion(t, np.random.default_rng(entry.id), size)
            corners = dataset.bboxes[rows].reshape(-1, 2, 2) @ move[:, :2].T + move[:, 2]
            joints = dataset.keypoints[rows] @ move[:, :2].T + move[:, 2]
            clip.append((cv2.warpAffine(photo, move, size), corners.reshape(-1, 4), joints))
        for interval, its in counts.items():
            tracker = Tracker()
            for t, (image, boxes, joints) in enumerate(clip):
                given = None
                if t % interval and len(known := tracker.boxes(t / FPS)):
                    given = Detections(known, np.ones(len(known), np.float32))
                (frame,) = pipeline.process([image], [given])
                people = tracker.track(frame, t / FPS).people
                count = its[given is None]
                count[0] += len(rows)
                found = np.array([person.bbox for person in people]).reshape(-1, 4)
                for row, p in match_boxes(boxes, found):
                    labelled = dataset.visibility[rows[row]] > 0
                    count[1] += 1
                    count[2] += labelled.sum()
                    for level in range(len(levels)):
                        count[3 + level] += (inside(people[p].regions, level, joints[row]) & labelled).sum()
    lines = ["| detector on | image | people found | " + " | ".join(f"coverage at {v:g}" for v in levels) + " |"]
    lines.append("|---" * (3 + len(levels)) + "|")
    for interval, its in counts.items():
        for detected, (persons, matched, joints, *covered) in its.items():
            if persons:
                cells = " | ".join(f"{value / max(joints, 1):.3f}" for value in covered)
                kind = "with a detection" if detected else "between"
                lines.append(f"| 1 image in {interval} | {kind} | {matched / persons:.3f} of {persons:.0f} | {cells} |")
    table = "\n".join(lines) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "detector_interval.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
