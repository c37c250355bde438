"""A model's figures are typed nowhere: pages show what the model file carries."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from tiny_models import write_tiny_pose

from probpose_ros.model_info import METADATA_KEY, from_json

ROOT = Path(__file__).parents[1]


def metrics(ap: float, model: str = "tiny_pose") -> dict:
    def figure(value: float) -> dict:
        return {"value": value, "ci95": [value - 0.05, value + 0.05]}

    return {
        "model": model, "boxes": "gt", "persons": 12, "coco": {"AP": figure(ap), "AP .5": figure(0.5)},
        "extended": {"paper_split": {"AP": figure(0.2)}}, "presence": {"auroc": figure(0.9)},
    }  # fmt: skip


def test_pages_show_the_figures_of_the_model_files() -> None:
    pytest.importorskip("probpose_training", reason="training is not installed")
    from probpose_training.figures import filled, pages

    assert ROOT / "README.md" in pages(ROOT)
    for page in pages(ROOT):
        text = page.read_text(encoding="utf-8")
        assert text == filled(text), f"{page}: python -m probpose_training.figures write"


def test_figures_travel_from_the_evaluation_into_the_file_and_the_table(tmp_path: Path) -> None:
    pytest.importorskip("probpose_training", reason="training is not installed")
    from probpose_training.figures import add, main, table

    model, result = write_tiny_pose(tmp_path / "tiny_pose.onnx"), tmp_path / "metrics.json"
    for name, ap in (("first set", 0.25), ("second set", 0.3456)):
        result.write_text(json.dumps(metrics(ap)))
        add(model, name, result)
    content = onnx.load(str(model))
    onnx.checker.check_model(content)
    (entry,) = [entry for entry in content.metadata_props if entry.key == METADATA_KEY]
    info = from_json(entry.value, "pose", "tiny")
    text = table(info)
    assert "| first set, 12 persons | second set, 12 persons |" in text
    assert "| OKS AP | 25.0 (20.0 to 30.0) | 34.6 (29.6 to 39.6) |" in text

    result.write_text(json.dumps(metrics(0.3, model="another.onnx")))
    assert main(["add", str(model), "x", str(result)]) == 2
