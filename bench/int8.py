"""What 8 bits cost in accuracy and save in time: the bundled models and their int8 variants, fitted and then evaluated.

``python bench/int8.py --annotations VAL.json --images DIR --fit-annotations TRAIN.json --fit-images DIR``

Prints a Markdown table and writes it to bench/results/int8.md; times are of one thread, in turns, in processor time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from probpose_ros.backends import load
from probpose_ros.config import PipelineConfig
from probpose_ros.models import find_model
from probpose_training.bench.timing import interleave, ratio
from probpose_training.coco import read_coco
from probpose_training.commands import export
from probpose_training.evaluate import measure, predict, true_boxes

FIGURES = {"AP": ("coco", "AP"), "Ex-AP, split": ("extended", "paper_split", "AP"), "AUROC": ("presence", "auroc")}


def quantised(name: str, args: argparse.Namespace, folder: Path) -> Path:
    out = folder / f"{name}_int8.onnx"
    parser = argparse.ArgumentParser()
    export.register(parser.add_subparsers())
    command = ["export", str(find_model(name)), "--precision", "int8", "--out", str(out)]
    command += ["--images", str(args.fit_images), "--annotations", str(args.fit_annotations)]
    parsed = parser.parse_args(command)
    parsed.run(parsed)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("annotations", "images", "fit-annotations", "fit-images"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    dataset, defaults = read_coco(args.annotations), PipelineConfig()
    lines = ["| | boxes | " + " | ".join(FIGURES) + " | time / fp32 |", "|---" * (len(FIGURES) + 3) + "|"]
    for name in (defaults.model, "probpose_small_192x256", defaults.detector):
        small = quantised(name, args, args.out)
        sessions = [load(path, "onnxruntime", 1) for path in (find_model(name), small)]
        image = np.zeros((1, *sessions[0].inputs["image"].shape[1:]), np.uint8)
        cases = {key: lambda s=s, image=image: s.run(image) for key, s in zip(("fp32", "int8"), sessions)}
        saved = ratio(interleave(cases, 5, threads=1), "int8", "fp32")["median"]
        for model, time in ((name, 1.0), (str(small), saved)):
            pose = name != defaults.detector
            config = PipelineConfig(**{"model" if pose else "detector": model}, threads=1)
            predictions = predict(dataset, args.images, config, true_boxes(dataset) if pose else None)
            found = measure(dataset, list(predictions.frames), predictions.results, 200).metrics
            cells = []
            for path in FIGURES.values():
                entry = found
                for key in path:
                    entry = entry[key]
                low, high = entry["ci95"]
                cells.append(f"{100 * entry['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})")
            boxes = "annotated" if pose else "detected"
            lines.append(f"| {Path(model).stem} | {boxes} | " + " | ".join(cells) + f" | {time:.2f} |")
        small.unlink()
    table = "\n".join(lines) + "\n"
    (args.out / "int8.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
