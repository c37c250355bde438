"""`probpose evaluate` from end to end, with the real pipeline around a made-up network."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_calibration import example
from test_coco import coco, person
from tiny_models import person_image

from probpose_ros.calibration import CalibrationError, load_calibration
from probpose_ros.config import PipelineConfig
from probpose_ros.pipeline import Pipeline
from probpose_ros.types import Detections, RegionKind
from probpose_training import evaluate as evaluation
from probpose_training.coco import CocoError, parse_coco, read_coco
from probpose_training.commands import evaluate as command
from probpose_training.metrics.coco_ap import coco_ap

BOXES = {1: (40, 30, 100, 150), 2: (200, 60, 260, 200), 3: (30, 40, 120, 220), 4: (180, 20, 250, 120)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, tiny_pose_model: Path) -> tuple[Path, Path]:
    """Four images of one white "person" each, annotated with what the network says, one joint of each far off."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "images").mkdir()
    annotations = []
    config = PipelineConfig(model=str(tiny_pose_model))
    for image_id, box in BOXES.items():
        image = person_image(box)
        cv2.imwrite(str(folder / f"images/{image_id}.png"), image)
        given = evaluation.GivenBoxes({image_id: Detections(np.array([box], np.float32), np.ones(1, np.float32))})
        given.image_id = image_id
        found = Pipeline(config, given)(image).people[0]
        labels = np.column_stack([found.keypoints, np.full(17, 2)]).astype(float)
        labels[5, :2] += (60, 60)
        labels[6, 2] = 1
        labels[7] = 0
        x0, y0, x1, y1 = box
        annotations.append(
            person(image_id, image_id=image_id, bbox=[x0, y0, x1 - x0, y1 - y0], area=0.6 * (x1 - x0) * (y1 - y0),
                   keypoints=labels.ravel().tolist())
        )  # fmt: skip
    content = coco(*annotations)
    content["images"] = [{"id": i, "file_name": f"{i}.png", "width": 320, "height": 240} for i in BOXES]
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json", folder / "images"


@pytest.fixture(scope="module")
def run(
    dataset: tuple[Path, Path],
    tiny_pose_model: Path,
    tiny_detector_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
):
    """Runs the command; its metrics, results and page."""

    def call(*options: str, annotations: Path = dataset[0], images: Path = dataset[1]) -> tuple[dict, list[dict], str]:
        out = tmp_path_factory.mktemp("out")
        parser = argparse.ArgumentParser()
        command.register(parser.add_subparsers())
        args = parser.parse_args([
            "evaluate", "--annotations", str(annotations), "--images", str(images), "--out", str(out),
            "--model", str(tiny_pose_model), "--detector", str(tiny_detector_model), "--bootstrap", "20", *options,
        ])  # fmt: skip
        assert args.run(args) == 0
        return (
            json.loads((out / "metrics.json").read_text()),
            json.loads((out / "results.json").read_text()),
            (out / "report.html").read_text(),
        )

    return call


@pytest.fixture(scope="module")
def with_annotated_boxes(run) -> tuple[dict, list[dict], str]:
    return run()


def test_annotated_boxes(with_annotated_boxes, dataset: tuple[Path, Path]) -> None:
    metrics, results, page = with_annotated_boxes
    assert metrics["persons"] == metrics["persons_matched"] == metrics["predictions"] == 4
    assert metrics["skipped"] == "4 persons; skipped 0" and metrics["unknown_keypoints"] == 0
    for result in results:
        assert len(result["keypoints"]) == 51 and len(result["visibility"]) == len(result["quality"]) == 17
        x0, y0, x1, y1 = BOXES[result["image_id"]]
        assert result["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert len(result["regions"]) == 17
        region = result["regions"][0][0]
        assert set(region) == {"level", "kind", "valid", "x", "y", "semi_major", "semi_minor", "theta", "area"}
        assert region["level"] == 0.5 and region["valid"] is False and region["area"] > 0
    # The file on disk, scored by pycocotools alone, gives the figure of the report.
    content = read_coco(dataset[0]).for_evaluation(set(BOXES))
    assert metrics["coco"]["AP"]["value"] == pytest.approx(coco_ap(content, results)["AP"], abs=1e-6)
    assert f"<b>{100 * metrics['coco']['AP']['value']:.1f}</b>AP" in page


def test_joints(with_annotated_boxes) -> None:
    joints = {row["joint"]: row for row in with_annotated_boxes[0]["joints"]}
    assert joints["nose"]["oks"] == pytest.approx(1, abs=1e-3) and joints["nose"]["in"] == 4
    assert joints["left_shoulder"]["oks"] < 0.1  # the one that is annotated elsewhere
    assert joints["left_elbow"]["in"] == 0 and joints["left_elbow"]["oks"] is None  # unlabelled: nothing is said


def test_detected_boxes(run) -> None:
    metrics, results, _ = run("--boxes", "detector")
    assert metrics["persons_matched"] == 4
    assert all(result["score"] < 0.95 for result in results)  # the detector's score is in it


def test_boxes_of_a_file(run, tmp_path: Path) -> None:
    x0, y0, x1, y1 = BOXES[1]
    rows = [
        {"image_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": 0.25},
        {"image_id": 1, "bbox": [0, 0, 20, 20], "score": 0.5},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    metrics, results, _ = run("--boxes", str(tmp_path / "boxes.json"))
    assert metrics["predictions"] == 2 and metrics["persons"] == 4 and metrics["persons_matched"] == 1
    assert metrics["coco"]["AR"]["value"] < 0.3

    (tmp_path / "boxes.json").write_text('[{"image_id": 3, "bbox": [0, 0, 20, 20], "score": 0.5}]')
    metrics, _, page = run("--boxes", str(tmp_path / "boxes.json"))
    assert metrics["persons_matched"] == 0 and metrics["presence"]["auroc"]["value"] is None and ">nan" not in page

    (tmp_path / "boxes.json").write_text('[{"image_id": 9, "bbox": [0, 0, 20, 20], "score": 0.5}]')
    with pytest.raises(CocoError, match="image_id 9 is not among the images"):
        run("--boxes", str(tmp_path / "boxes.json"))
    for bad in ("{}", '[{"image_id": 1}]', '[{"image_id": 1, "score": 1, "bbox": [0, 0, 0, 5]}]', "["):
        (tmp_path / "boxes.json").write_text(bad)
        with pytest.raises(CocoError, match="boxes.json: must be a list of objects with image_id"):
            run("--boxes", str(tmp_path / "boxes.json"))


def test_regions_of_a_calibration(run, with_annotated_boxes, tiny_pose_model: Path, tmp_path: Path) -> None:
    subject = Pipeline(PipelineConfig(model=str(tiny_pose_model)), evaluation.GivenBoxes({})).subject
    path = tmp_path / "a.calibration.json"
    middle = float(np.median([result["quality"] for result in with_annotated_boxes[1]]))
    path.write_text(example(subject, quality_edges=((0.0, middle, 1.0),) * 9).to_json())
    metrics, results, _ = run("--calibration", str(path))
    assert metrics["calibration"] == load_calibration(path).sha256
    regions = [regions for result in results for regions in result["regions"]]
    assert all([region["level"] for region in its] == [0.5, 0.95] for its in regions)
    assert all(its[0]["kind"] == RegionKind.MARGINAL and its[0]["valid"] and its[0]["area"] > 0 for its in regions)
    # The made-up calibration has too few samples for the higher level in the lower quality bins.
    assert {its[1]["valid"] for its in regions} == {False, True}
    with pytest.raises(CalibrationError, match="calibrated for detector 'gt boxes'"):
        run("--calibration", str(path), "--boxes", "detector")


def test_report_has_everything_in_it(with_annotated_boxes) -> None:
    page = with_annotated_boxes[2]
    assert page.count("<svg") == 4 and page.count("data:image/jpeg;base64,") == 8  # four worst cases, four samples
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )  # nothing is loaded from elsewhere; the rest are names in SVG
    for word in ("CropCOCO val (paper)", "right ankle", "exococotools", "AUROC"):
        assert word in page


def test_unreadable_images_are_counted(run, dataset: tuple[Path, Path], tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("1.png", "2.png"):
        (images / name).write_bytes((dataset[1] / name).read_bytes())
    (images / "3.png").write_bytes(b"broken")
    metrics, _, _ = run(images=images)
    assert metrics["images"] == metrics["persons"] == 2
    assert metrics["skipped"] == "4 persons; skipped 2: image cannot be read 2"
    with pytest.raises(CocoError, match="none of the 4 images can be read"):
        run(images=tmp_path)


def test_nothing_to_evaluate(run, tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text(json.dumps(coco(person(bbox=[1, 1, 0, 0]))))
    with pytest.raises(CocoError, match="skipped 1: box without area 1; nothing to evaluate"):
        run(annotations=tmp_path / "empty.json")


def test_box_iou() -> None:
    a, b = np.array([[0, 0, 10, 10.0]]), np.array([[5, 0, 15, 10.0], [0, 0, 10, 10], [20, 20, 30, 30]])
    np.testing.assert_allclose(evaluation.box_iou(a, b), [[1 / 3, 1, 0]])


def test_threshold_of_a_split_never_saw_its_own_half() -> None:
    """Two kinds of photographs whose best thresholds differ: each half must get the other half's."""
    rng = np.random.default_rng(0)
    images, annotations, results = [], [], []
    names = [f"{i:02d}.jpg" for i in range(40)]
    folds = dict(zip(names, evaluation._folds(names), strict=True))
    for image_id, name in enumerate(names, 1):
        images.append({"id": image_id, "file_name": name, "width": 200, "height": 200})
        labels = np.column_stack([rng.uniform(60, 120, (17, 2)), np.full(17, 2)])
        out = rng.random(17) < 0.3
        labels[out] = (190, 190, 3)
        annotations.append(
            person(image_id, image_id=image_id, bbox=[50, 50, 80, 80], keypoints=labels.ravel().tolist())
        )
        border = 0.3 if folds[name] == 0 else 0.7
        labels[:, 2] = border + np.where(out, -0.05, 0.05)
        numbers = {"visibility": [0.5] * 17, "quality": [0.5] * 17}
        results.append(
            {"image_id": image_id, "category_id": 1, "bbox": [50, 50, 80, 80], "score": 0.5, **numbers,
             "keypoints": labels.ravel().tolist()}
        )  # fmt: skip
    dataset = parse_coco({"images": images, "annotations": annotations})
    metrics = evaluation.measure(dataset, [image["id"] for image in images], results, draws=5).metrics
    first, second = metrics["extended"]["paper_split"]["threshold"]
    assert 0.65 <= first < 0.75 and 0.25 <= second < 0.35
    assert metrics["presence"]["accuracy_split"]["value"] < metrics["presence"]["accuracy"]["value"]
    assert metrics["presence"]["out"] > 0 and math.isfinite(metrics["presence"]["auroc"]["value"])
