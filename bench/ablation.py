"""The paper's Table 2 in small: crop augmentation and probability maps, each with and without, at the same budget;
then the double heatmap, and what fewer photographs would have given in as many steps.

``python bench/ablation.py --data DIR --pretrained FILE.pth --out DIR [--epochs 5] [--input 96 128]``

DIR holds the sets of training/configs/probpose_small.yaml and coco_val/. Every variant is trained by `probpose train`
on the same examples in the same order, exported, and scored by `probpose evaluate` on the validation set and a cropped
version of it, with annotated boxes. Started again, it goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "training/configs/probpose_small.yaml"
OKS_MAPS = ["loss.fenchel_young=0", "loss.target_profile=codec"]  # the paper's loss (Eq. 3 and 4) alone
# A squared error over all cells is small: weighed until it counts as much as the loss on maps does in the recipe.
HEATMAPS = ["loss.map_loss=mse", "network.map_activation=heatmap", "loss.fenchel_young=0", "loss.map_weight=3000"]
NO_CROPS = ["augmentation.crop=0"]
VARIANTS = {
    "heatmaps (MSE)": HEATMAPS + NO_CROPS,
    "heatmaps (MSE), crops": HEATMAPS,
    "probability maps": OKS_MAPS + NO_CROPS,
    "probability maps, crops": OKS_MAPS,
    "probability maps + sparsemax loss": NO_CROPS,
    "probability maps + sparsemax loss, crops": [],
    "the same with a double heatmap": ["network.double_heatmap=true"],
    "the same, half of the photographs": ["data.share=0.5"],
    "the same, a quarter of the photographs": ["data.share=0.25"],
    "the same, an eighth of the photographs": ["data.share=0.125"],
}
# Title: set, path in metrics.json. The presence threshold of Ex-AP comes from the other half of the photographs.
FIGURES = {
    "val AP": ("val", "coco", "AP"),
    "val Ex-AP": ("val", "extended", "paper_split", "AP"),
    "cropped AP": ("crop", "coco", "AP"),
    "cropped Ex-AP": ("crop", "extended", "paper_split", "AP"),
    "cropped presence AUROC": ("crop", "presence", "auroc"),
}


def probpose(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "probpose_ros.cli", *map(str, arguments)], check=True)


def measure(name: str, overrides: list[str], args: argparse.Namespace) -> dict:
    """metrics.json by set."""
    folder = args.out / name.replace(" ", "_").replace("(", "").replace(")", "").replace(",", "")
    size = list(args.input)
    settings = [f"data.root={args.data}", f"pretrained={args.pretrained}", f"network.input_size={size}"]
    share = next((float(s.split("=")[1]) for s in overrides if s.startswith("data.share=")), 1.0)
    settings += [f"train.epochs={round(args.epochs / share)}"]  # as many steps
    # A short run from ImageNet weights: a short average, larger steps.
    settings += ["train.ema=0.99", "train.validate_every=1000", "train.learning_rate=0.001", *overrides]
    if not (folder / "pose.onnx").is_file():
        probpose("train", "--config", RECIPE, "--out", folder, *(part for s in settings for part in ("--set", s)))
        probpose("export", folder / "model.pt", "--out", folder / "pose.onnx")
    metrics = {}
    sets = {"val": (args.data / "coco_val/person_keypoints_val.json", args.data / "coco_val/images")}
    sets["crop"] = (args.out / "crop/annotations.json", args.out / "crop/images")
    for label, (truth, images) in sets.items():
        report = folder / label
        if not (report / "metrics.json").is_file():
            where = ("--annotations", truth, "--images", images, "--model", folder / "pose.onnx")
            probpose("evaluate", *where, "--boxes", "gt", "--out", report)
        metrics[label] = json.loads((report / "metrics.json").read_text())
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, required=True, help="ImageNet weights, see the recipe")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--input", type=int, nargs=2, default=[96, 128], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME", help="of these")
    args = parser.parse_args()
    if not (args.out / "crop/annotations.json").is_file():
        val = args.data / "coco_val"
        source = ("--annotations", val / "person_keypoints_val.json", "--images", val / "images")
        probpose("crop-dataset", *source, "--out", args.out / "crop", "--seed", 0)
    results = {name: measure(name, overrides, args) for name, overrides in VARIANTS.items() if name in args.only}
    print(table(results))


def table(results: dict) -> str:
    """Markdown: points with 95 % intervals over photographs."""
    lines = ["| training | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for name, metrics in results.items():
        cells = []
        for path in FIGURES.values():
            entry = metrics
            for key in path:
                entry = entry[key]
            low, high = entry["ci95"]
            cells.append(f"{100 * entry['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
