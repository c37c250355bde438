"""Where the time of a frame goes: the pipeline's stages, and how they grow with people. Ratios of one run.

``python bench/pipeline.py [--runs 50] [--threads 0] [--people 1 2 4 8] [--json FILE]``

The picture is scikit-image's astronaut, pasted as often as there are people. Stages are timed inside whole frames, so
each is measured next to the others; medians over the runs are printed, and each also as a share of the frame.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path

import cv2
import numpy as np

from probpose_ros import Pipeline
from probpose_ros.config import PipelineConfig
from probpose_ros.types import Detections


def picture(people: int) -> tuple[np.ndarray, Detections]:
    """A 1280 x 720 picture of that many equal people, and their boxes."""
    import skimage.data

    person = cv2.resize(skimage.data.astronaut()[:, :, ::-1], (300, 340))
    canvas = np.full((720, 1280, 3), 90, np.uint8)
    boxes = []
    for n in range(people):
        x, y = 10 + 315 * (n % 4), 10 + 350 * (n // 4)
        canvas[y : y + 340, x : x + 300] = person
        boxes.append([x, y, x + 299, y + 339])
    return canvas, Detections(np.array(boxes, np.float32).reshape(-1, 4), np.ones(people, np.float32))


class KnownBoxes:
    """Runs the detector for its time and then says what is known, so that the number of people is the wanted one."""

    def __init__(self, detector, boxes: Detections) -> None:
        self.detector, self.boxes = detector, boxes

    def __call__(self, images) -> list[Detections]:
        self.detector(images)
        return [self.boxes] * len(images)


def measure(config: PipelineConfig, people: int, runs: int) -> dict[str, float]:
    """Median milliseconds by stage."""
    pipeline = Pipeline(config)
    image, boxes = picture(people)
    pipeline.detector = KnownBoxes(pipeline.detector, boxes)
    frames = [pipeline(image).stage_ms for _ in range(runs + 3)][3:]
    stages = {name: statistics.median(frame[name] for frame in frames) for name in frames[0]}
    return {**stages, "frame": statistics.median(sum(frame.values()) for frame in frames)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--threads", type=int, default=0, help="of the networks; 0: all cores")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--json", type=Path, help="write the table here too")
    args = parser.parse_args()
    if args.runs < 1 or not all(1 <= n <= 8 for n in args.people):
        parser.error("--runs must be at least 1 and --people from 1 to 8")
    config = PipelineConfig(threads=args.threads)
    rows = {n: measure(config, n, args.runs) for n in args.people}
    print(
        f"{platform.processor() or platform.machine()}, threads {args.threads or 'all'}, 1280 x 720, {args.runs} runs"
    )
    print("people  " + "".join(f"{name:>18}" for name in rows[args.people[0]]) + "   frames/s")
    for n, stages in rows.items():
        cells = (f"{value:8.2f} ms ({value / stages['frame']:4.0%})" for value in stages.values())
        print(f"{n:6}  " + "".join(f"{cell:>18}" for cell in cells) + f"{1000 / stages['frame']:11.1f}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"threads": args.threads, "runs": args.runs, "median_ms": rows}, indent=1))


if __name__ == "__main__":
    main()
