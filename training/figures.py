"""A model's figures are written once: from ``probpose evaluate`` into the model file, and from there into the pages.

    python -m probpose_training.figures add models/probpose_small.onnx "66 COCO val images" out/val/metrics.json
    python -m probpose_training.figures write

``add`` changes the file and so its sha256: calibrate afterwards. ``write`` fills the places between the comments
``figures of NAME`` and ``end of figures`` in README.md, docs and model cards of the repository, which is the current
folder; ``test/test_figures.py`` holds the two together.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from probpose_ros.model_info import METADATA_KEY, ModelInfo, PoseInfo, from_json

PLACE = re.compile(r"(<!-- figures of (\w+) -->\n).*?(\n<!-- end of figures -->)", re.S)
# What is kept: the name in the table -> where it stands in metrics.json
KEPT = {
    "OKS AP": ("coco", "AP"),
    "OKS AP at 0.5": ("coco", "AP .5"),
    "Ex-AP, threshold from the other half of the photographs": ("extended", "paper_split", "AP"),
    "presence AUROC": ("presence", "auroc"),
}


def kept(metrics: Mapping[str, Any]) -> dict[str, list[float]]:
    """name -> [value, low, high] of the 95 % interval, in percent with one digit."""
    found = {}
    for name, path in KEPT.items():
        entry: Any = metrics
        for key in path:
            entry = entry[key]
        found[name] = [round(100 * value, 1) for value in (entry["value"], *entry["ci95"])]
    return found


def add(model: Path, name: str, metrics: Path) -> None:
    """The figures of one evaluation into the metadata of an ONNX file, under the name of the set."""
    import onnx

    content = onnx.load(str(model))
    entry = next((entry for entry in content.metadata_props if entry.key == METADATA_KEY), None)
    info: PoseInfo = from_json(entry.value if entry else None, "pose", str(model))
    measured = json.loads(metrics.read_text())
    if Path(measured["model"]).stem not in (info.name, model.stem):
        raise ValueError(f"{metrics}: measures {measured['model']}, not {model}")
    row = {"persons": measured["persons"], "boxes": measured["boxes"], **kept(measured)}
    entry.value = replace(info, metrics={**info.metrics, name: row}).to_json()  # type: ignore[union-attr]
    onnx.save(content, str(model))


def table(info: ModelInfo) -> str:
    """Markdown: a column for each set, a row for each figure."""
    if not info.metrics:
        return f"The file of `{info.name}` carries no figures yet."
    sets = list(info.metrics)
    heads = [f"{name}, {info.metrics[name]['persons']} persons" for name in sets]
    lines = [f"| `{info.name}` | " + " | ".join(heads) + " |", "|---" * (len(sets) + 1) + "|"]
    for name in KEPT:
        cells = ["{:.1f} ({:.1f} to {:.1f})".format(*info.metrics[each][name]) for each in sets]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    boxes = {info.metrics[name]["boxes"] for name in sets}
    return "\n".join(lines) + f"\n\nPercent, with 95 % intervals over photographs; boxes: {', '.join(sorted(boxes))}."


def filled(text: str) -> str:
    """The page with the figures of the models that it names."""
    from probpose_ros.backends import load
    from probpose_ros.backends.numerics import model_info
    from probpose_ros.models import find_model

    def fill(match: re.Match[str]) -> str:
        path = find_model(match[2])
        return match[1] + table(model_info(load(path, "onnxruntime"), path)) + match[3]

    return PLACE.sub(fill, text)


def pages(repository: Path) -> list[Path]:
    """Those with such a place."""
    found = [repository / "README.md", *repository.glob("docs/*.md"), *repository.glob("models/*.md")]
    return [page for page in found if PLACE.search(page.read_text(encoding="utf-8"))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="probpose_training.figures", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="figures of one evaluation into the metadata of a model file")
    adding.add_argument("model", type=Path)
    adding.add_argument("name", help="of the set, as the table's head shows it")
    adding.add_argument("metrics", type=Path, help="metrics.json of probpose evaluate")
    commands.add_parser(
        "write", help="the figures of the bundled models into README, docs and cards of the current folder"
    )
    args = parser.parse_args(argv)
    try:
        if args.command == "add":
            add(args.model, args.name, args.metrics)
        else:
            for page in pages(Path()):
                page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
                print(page)
    except (ValueError, OSError, KeyError) as error:
        print(f"figures: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
