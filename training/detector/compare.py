"""The figures of models/person_detector.md: a detector beside RTMDet-nano, same images, same run, same false positives.

    python -m probpose_training.detector.compare --annotations A.json --images DIR --peer rtmdet_nano_person.onnx

Recall is of the annotated persons at IoU 0.5. "False" is every detection that met none of them; persons that COCO did
not annotate count as false, for both detectors alike. Times are of one CPU core, the network alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from probpose_ros.detector import Detector

from .evaluation import CocoBoxes, Ranked, rank
from .teacher import RTMDet

BUDGETS = (0.25, 0.5, 1.0, 2.0)  # false positives per image


def bundled(model: str) -> Callable[[np.ndarray], np.ndarray]:
    """A model file through the run time: image (H, W, 3) BGR -> (N, 5) xyxy image px, score."""
    detector = Detector(model, threshold=0.02, max_people=100, backend="onnxruntime", threads=1)

    def detect(image: np.ndarray) -> np.ndarray:
        found = detector([image])[0]
        return np.concatenate([found.boxes, found.scores[:, None]], axis=1)

    return detect


def recall_ratio(ours: Ranked, peer: Ranked) -> dict[float, float]:
    return {
        budget: ours.recall_at(round(budget * ours.images)) / max(peer.recall_at(round(budget * ours.images)), 1e-9)
        for budget in BUDGETS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True, help="COCO file with boxes")
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", default="person_detector", help="bundled name or ONNX file (default: %(default)s)")
    parser.add_argument("--peer", required=True, help="rtmdet_nano_person.onnx")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap over images (default: %(default)s)")
    args = parser.parse_args()

    data = CocoBoxes(args.annotations, args.images)
    ranked, per_image = {}, {}
    for name, detect in {"ours": bundled(args.model), "RTMDet-nano 320": RTMDet(args.peer)}.items():
        start = time.perf_counter()
        found = [detect(image) for image in data.images]
        seconds = (time.perf_counter() - start) / len(found)
        ranked[name], per_image[name] = rank(found, data.truth), found
        ap = data.average_precision(found)
        recalls = "  ".join(f"{ranked[name].recall_at(round(b * len(found))):.3f}" for b in BUDGETS)
        recall, false = ranked[name].at_score(0.4)
        print(
            f"{name:16} AP {ap['ap']:.3f}  AP50 {ap['ap50']:.3f}  recall at {'/'.join(map(str, BUDGETS))} false per image: "
            f"{recalls}  at score 0.4: recall {recall:.3f}, {false} false  {1e3 * seconds:.1f} ms an image"
        )
    ours, peer = ranked.values()
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(args.draws):
        pick = rng.integers(0, len(data.truth), len(data.truth))
        truth = [data.truth[i] for i in pick]
        draws.append([list(recall_ratio(*(rank([f[i] for i in pick], truth) for f in per_image.values())).values())])
    low, high = np.percentile(np.concatenate(draws), [2.5, 97.5], axis=0)
    for (budget, ratio), a, b in zip(recall_ratio(ours, peer).items(), low, high, strict=True):
        print(
            f"recall relative to the peer at {budget} false per image: {ratio:.3f} (95 % of draws: {a:.3f} to {b:.3f})"
        )


if __name__ == "__main__":
    main()
