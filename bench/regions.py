"""Time of regions: probability maps -> polygons, ellipses, areas and covariances at two levels.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python bench/regions.py [--repeats 2000]

Prints the least, the median and the 99th percentile over the repeats of the processor's time, beside a yardstick of
the same run: reading and writing a person's maps once. As in the pipeline, the crops' transforms are there already and
which maps are distributions is known: it looks once at all that a network gives, and that has a row of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import cv2
import numpy as np

from probpose_ros.calibration import KINDS, QUALITY_BINS, Calibration, Group, Knots, Presence, Subject
from probpose_ros.codec import Codec
from probpose_ros.geometry import CropTransform
from probpose_ros.predictive import Mixture
from probpose_ros.regions import is_distribution, regions_from_maps
from probpose_ros.skeleton import JOINT_TYPES, NUM_KEYPOINTS

LEVELS = (0.5, 0.95)
DIFFERENT = 40  # persons, so that no map is still in the processor's nearest memory


def example_calibration() -> Calibration:
    """Typical values; the time does not depend on them."""
    everything = tuple((joint, b) for joint in JOINT_TYPES for b in range(QUALITY_BINS))
    group = Group(everything, 900, 80, **dict.fromkeys(KINDS, LEVELS))
    mixtures = tuple(Mixture(0.05, 0.1, scale) for scale in (4.0, 2.8, 2.0, 1.0))
    knots = Knots((0.0, 1.0), (0.0, 1.0))
    return Calibration(
        Subject("none", "", "fp32", (1, 1), ""), "marginal", 0.05, LEVELS, ((0.25, 0.5, 0.75),) * len(JOINT_TYPES),
        (mixtures,) * len(JOINT_TYPES), (group,), 90, 80, Presence(0.05, 0.0, (), (), knots), knots, {},
    )  # fmt: skip


def example_maps(rng: np.random.Generator, people: int, w: int, h: int) -> np.ndarray:
    """(people, K, h, w) float32: blobs cut off at 0, as sparsemax makes them; one cell in ten is not 0."""
    y, x = np.mgrid[:h, :w]
    maps = np.zeros((people, NUM_KEYPOINTS, h, w))
    for probmap in maps.reshape(-1, h, w):
        for _ in range(2):
            centre, width = rng.uniform(0.1, 0.9, 2) * (w, h), rng.uniform(0.04, 0.14) * w
            probmap += rng.random() * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2))
        probmap -= 0.3 * probmap.max()
    maps = np.maximum(maps, 0)
    return (maps / maps.sum(axis=(2, 3), keepdims=True)).astype(np.float32)


def timed(call: Callable[[int], object], repeats: int, people: int) -> np.ndarray:
    """Microseconds of the processor a person of each repeat."""
    for i in range(20):
        call(i)
    times = np.empty(repeats)
    for i in range(repeats):
        start = time.process_time()
        call(i)
        times[i] = time.process_time() - start
    return times * 1e6 / people


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rng, calibration = np.random.default_rng(0), example_calibration()
    load = f", load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
    print(
        f"NumPy {np.__version__}, OpenCV {cv2.__version__}, Python {platform.python_version()}{load}; "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')}"
    )
    print(f"{'us a person':42s}{'least':>9s}{'median':>9s}{'p99':>9s}{'a keypoint':>12s}")
    for w, h in ((36, 48), (48, 64)):
        codec = Codec((4 * w, 4 * h), (w, h))
        maps = example_maps(rng, DIFFERENT, w, h)
        quality, presence = rng.random((2, DIFFERENT, NUM_KEYPOINTS))
        states, known = np.ones((DIFFERENT, NUM_KEYPOINTS), np.uint8), is_distribution(maps)
        boxes = np.column_stack([rng.uniform(0, 900, (DIFFERENT, 2)), rng.uniform(1000, 1200, (DIFFERENT, 2))])
        transforms = [CropTransform.from_bbox(box, codec.crop_size) for box in boxes]

        def some(i: int, people: int) -> slice:
            first = i * people % (DIFFERENT - people + 1)  # noqa: B023
            return slice(first, first + people)

        def calibrated(i: int, people: int) -> object:
            its = some(i, people)
            numbers = maps[its], quality[its], presence[its], states[its], transforms[its]  # noqa: B023
            return calibration.regions(*numbers, codec, LEVELS, known=known[its])  # noqa: B023

        def uncalibrated(i: int, people: int) -> object:
            its = some(i, people)
            return regions_from_maps(maps[its], transforms[its], codec, LEVELS, known[its])  # noqa: B023

        def looked_at(i: int, people: int) -> object:
            return is_distribution(maps[some(i, people)])  # noqa: B023

        def copy(i: int, people: int) -> object:
            return maps[some(i, people)] * np.float32(2)  # noqa: B023

        for name, call, counts in (
            ("calibrated", calibrated, (1, 2, 8)), ("not calibrated", uncalibrated, (1, 8)),
            ("the maps looked at", looked_at, (1,)), ("yardstick: one pass", copy, (1,)),
        ):  # fmt: skip
            for people in counts:
                times = timed(lambda i: call(i, people), args.repeats // people, people)  # noqa: B023
                least, median, p99 = times.min(), np.median(times), np.quantile(times, 0.99)
                label = f"{w} x {h} cells, {people} people: {name}"
                print(f"{label:42s}{least:9.0f}{median:9.0f}{p99:9.0f}{median / NUM_KEYPOINTS:12.1f}")


if __name__ == "__main__":
    main()
