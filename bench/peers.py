"""Our networks beside published ones: the same persons, annotated boxes, no flip, one evaluator, one run, one thread.

``python bench/peers.py --peers DIR --annotations A.json --images DIR [--model M ...] [--out F.json]``

DIR holds tinypose_256x192.param and .bin (PP-TinyPose, ncnn), ultralight_simplepose_256x192.onnx (Gluon's Ultralight
SimplePose) and movenet_single_pose_lightning_ptq.tflite (needs ``ai-edge-litert``); what is missing is left out and
named. Peers have no presence; their confidence stands for it, thresholded where it does best.

ms: median CPU time of the network alone, crop in and maps or keypoints out, the networks taking turns; ours decodes
inside its graph, the peers' decoding on the CPU is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from probpose_ros.config import PipelineConfig
from probpose_ros.geometry import CropTransform
from probpose_ros.pipeline import keypoint_states, mean_quality
from probpose_ros.pose import PoseModel
from probpose_training.coco import read_coco, read_image
from probpose_training.evaluate import measure
from probpose_training.teacher import CELL, TinyPoseTeacher, classic_crop, dark_decode, network_input

CONFIDENT = 0.2  # joints that count for a peer's score
Pose = tuple[np.ndarray, np.ndarray, float, float]  # keypoints (17, 2) image px, presence (17,), score, seconds


def clocked(function: Callable, *values: object) -> tuple:
    start = time.thread_time()
    result = function(*values)
    return result, time.thread_time() - start


class Ours:
    def __init__(self, model: str) -> None:
        self.model = PoseModel(model, "onnxruntime", threads=1)

    def __call__(self, image: np.ndarray, bbox: np.ndarray) -> Pose:
        transform = CropTransform.from_bbox(bbox, self.model.info.input_size, self.model.info.padding)
        output, seconds = clocked(self.model, transform.warp(image)[None])
        presence = output.presence[0]
        score = mean_quality(output.quality[0], keypoint_states(presence, PipelineConfig()))
        return transform.to_image(output.keypoints[0]), presence, score, seconds


class Heatmaps:
    """A network from a (256, 192, 3) crop to maps (17, 64, 48)."""

    def __init__(self, forward: Callable[[np.ndarray], np.ndarray]) -> None:
        self.forward = forward

    def __call__(self, image: np.ndarray, bbox: np.ndarray) -> Pose:
        crop, scale, origin = classic_crop(image, bbox, 1.25)
        maps, seconds = clocked(self.forward, crop)
        xy, peak = dark_decode(np.ascontiguousarray(maps))
        return xy * CELL / scale + origin, np.clip(peak, 0, 1), confidence_score(peak), seconds


class MoveNet:
    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.net = Interpreter(str(path), num_threads=1)
        self.net.allocate_tensors()
        self.input, self.output = self.net.get_input_details()[0], self.net.get_output_details()[0]

    def __call__(self, image: np.ndarray, bbox: np.ndarray) -> Pose:
        transform = CropTransform.from_bbox(bbox, (192, 192), 1.25)
        crop = transform.warp(image)[None, :, :, ::-1].astype(self.input["dtype"])
        self.net.set_tensor(self.input["index"], crop)
        _, seconds = clocked(self.net.invoke)
        values = self.net.get_tensor(self.output["index"]).reshape(17, 3)
        xy = transform.to_image(values[:, [1, 0]] * 192 - 0.5)
        return xy, np.clip(values[:, 2], 0, 1), confidence_score(values[:, 2]), seconds


def confidence_score(confidence: np.ndarray) -> float:
    sure = confidence > CONFIDENT
    return float(confidence[sure].mean() if sure.any() else confidence.mean())


def networks(args: argparse.Namespace) -> dict[str, Callable[[np.ndarray, np.ndarray], Pose]]:
    found: dict[str, Callable[[np.ndarray, np.ndarray], Pose]] = {Path(name).stem: Ours(name) for name in args.model}

    def ultralight() -> Heatmaps:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(args.peers / "ultralight_simplepose_256x192.onnx"), options)
        name = session.get_inputs()[0].name
        return Heatmaps(lambda crop: session.run(None, {name: network_input(crop)[None]})[0][0])

    def tinypose() -> Heatmaps:
        name = args.peers / "tinypose_256x192"
        return Heatmaps(TinyPoseTeacher(name.with_suffix(".param"), name.with_suffix(".bin")).forward)

    def movenet() -> MoveNet:
        return MoveNet(args.peers / "movenet_single_pose_lightning_ptq.tflite")

    for title, make in (
        ("PP-TinyPose", tinypose),
        ("Ultralight SimplePose", ultralight),
        ("MoveNet Lightning", movenet),
    ):
        try:
            found[title] = make()
        except Exception as error:  # every library says "no such file" in its own words
            print(f"left out: {title} ({str(error).splitlines()[0]})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", action="append", default=[], help="ours (default: the bundled one)")
    parser.add_argument("--out", type=Path, help="JSON with all metrics")
    args = parser.parse_args()
    args.model = args.model or ["probpose_small"]
    cv2.setNumThreads(1)
    dataset = read_coco(args.annotations)
    results: dict[str, list[dict]] = {}
    seconds: dict[str, list[float]] = {}
    nets = networks(args)
    for p in tqdm(range(len(dataset)), unit="person"):
        entry, bbox = dataset.images[int(dataset.image_ids[p])], dataset.bboxes[p]
        image = read_image(args.images, entry)
        x0, y0, x1, y1 = bbox.tolist()
        for name, net in nets.items():
            xy, presence, score, spent = net(image, bbox)
            seconds.setdefault(name, []).append(spent)
            results.setdefault(name, []).append(
                {
                    "image_id": entry.id, "category_id": 1, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "keypoints": np.column_stack([xy, presence]).ravel().tolist(),
                    "visibility": [float("nan")] * 17, "quality": [float("nan")] * 17,
                }
            )  # fmt: skip
    metrics = {name: measure(dataset, list(dataset.images), rows).metrics for name, rows in results.items()}
    for name, spent in seconds.items():
        metrics[name]["ms"] = 1e3 * float(np.median(spent))
    print(table(metrics))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(metrics, indent=1))


def table(metrics: dict[str, dict]) -> str:
    """Markdown, in points; 95 % intervals over photographs."""
    lines = [
        "| network | AP | Ex-AP | presence AUROC | in/out error, balanced | ms a person |", "|---|---|---|---|---|---|"
    ]  # fmt: skip
    for name, values in metrics.items():
        cells = []
        for path in (("coco", "AP"), ("extended", "paper_split", "AP"), ("presence", "auroc")):
            entry: dict = values
            for key in path:
                entry = entry[key]
            low, high = entry["ci95"]
            cells.append(f"{100 * entry['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        cells += [f"{100 * (1 - values['presence']['balanced_accuracy']['value']):.1f}", f"{values['ms']:.1f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
