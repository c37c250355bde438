"""The figures of models/person_detector.md: a detector beside RTMDet-nano, same images, same run, same false positives.

    python -m probpose_training.detector.compare --annotations A.json --images DIR --peer rtmdet_nano_person.onnx

Recall is of the annotated persons at IoU 0.5. "False" is every detection that met none of them; persons that COCO did
not annotate count as false, for both detectors alike. Times are of one CPU core, with letterbox and NMS.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from probpose_ros.config import PipelineConfig
from probpose_ros.detector import Detector
from probpose_training.metrics.bootstrap import DRAWS, bootstrap

from .evaluation import CocoBoxes, rank
from .teacher import RTMDet

BUDGETS = (0.25, 0.5, 1.0, 2.0)  # false detections per image
OPERATING = 0.4  # the score from which the node takes a detection for a person


def of_model(model: str, iou: float) -> Callable[[np.ndarray], np.ndarray]:
    """A model file through the run time: image (H, W, 3) BGR -> (N, 5) xyxy image px, score."""
    detector = Detector(model, threshold=0.02, iou=iou, max_people=100, backend="onnxruntime", threads=1)
    print("ours at {} x {} px".format(*detector.info.input_size))

    def detect(image: np.ndarray) -> np.ndarray:
        found = detector([image])[0]
        return np.concatenate([found.boxes, found.scores[:, None]], axis=1)

    return detect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True, help="COCO file with boxes")
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", default="person_detector", help="bundled name or ONNX file (default: %(default)s)")
    parser.add_argument("--peer", required=True, help="rtmdet_nano_person.onnx")
    parser.add_argument("--iou", type=float, default=PipelineConfig.detector_iou, help="of NMS (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=DRAWS, help="of the bootstrap over images (default: %(default)s)")
    args = parser.parse_args()

    data = CocoBoxes(args.annotations, args.images)
    all_found = {}
    detectors: dict[str, Callable] = {"ours": of_model(args.model, args.iou), "RTMDet-nano at 320": RTMDet(args.peer)}
    for name, detect in detectors.items():
        start = time.perf_counter()
        all_found[name] = [detect(image) for image in data.images]
        milliseconds = 1e3 * (time.perf_counter() - start) / len(data.images)
        ap, ranked = data.average_precision(all_found[name]), rank(all_found[name], data.truth)
        print(f"{name}: AP {ap['ap']:.3f}, AP50 {ap['ap50']:.3f}, {milliseconds:.1f} ms an image")
        for score in (0.3, OPERATING, 0.5):
            print("  from score {}: recall {:.3f}, {} false".format(score, *ranked.at_score(score)))
        for budget in BUDGETS:
            print(f"  at {budget} false per image: recall {ranked.recall_at(round(budget * len(data.ids))):.3f}")

    def ratios(images: np.ndarray) -> dict[str, float]:
        truth = [data.truth[i] for i in images]
        ours, peer = (rank([found[i] for i in images], truth) for found in all_found.values())
        budgets = {f"{b} false per image": round(b * len(images)) for b in BUDGETS}
        budgets[f"as many false as the peer has from score {OPERATING}"] = peer.at_score(OPERATING)[1]
        return {name: ours.recall_at(false) / peer.recall_at(false) for name, false in budgets.items()}

    intervals = bootstrap(ratios, data.ids, args.draws)
    for name, ratio in ratios(np.arange(len(data.ids))).items():
        low, high = intervals[name]
        print(f"recall / peer's at {name}: {ratio:.3f} (95 % interval {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
