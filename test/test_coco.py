"""Reading COCO-format annotations: what is refused, what is skipped and counted."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from probpose_ros.skeleton import KEYPOINT_NAMES
from probpose_training.coco import (
    BOX_OUTSIDE,
    CROWD,
    EMPTY_BOX,
    NO_KEYPOINTS,
    OTHER_CATEGORY,
    CocoError,
    ImageEntry,
    parse_coco,
    read_coco,
    read_image,
    skip_report,
)


def person(id: int = 1, **changes: object) -> dict:
    keypoints = [v for k in range(17) for v in (10.0 + k, 20.0 + k, 2)]
    return {
        "id": id, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 300.0,
        "bbox": [5.0, 6.0, 30.0, 40.0], "keypoints": keypoints, **changes,
    }  # fmt: skip


def coco(*annotations: dict) -> dict:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "person", "keypoints": list(KEYPOINT_NAMES)}, {"id": 2, "name": "dog"}],
    }


def test_arrays() -> None:
    dataset = parse_coco(coco(person(7)))
    assert len(dataset) == 1 and not dataset.left_out
    assert dataset.ids.tolist() == [7] and dataset.image_ids.tolist() == [1]
    assert dataset.bboxes.tolist() == [[5.0, 6.0, 35.0, 46.0]]
    assert dataset.keypoints[0, 3].tolist() == [13.0, 23.0]
    assert dataset.visibility.tolist() == [[2] * 17] and dataset.weights.tolist() == [[1.0] * 17]
    assert np.isnan(dataset.pad_to_contain).all()


def test_optional_keys() -> None:
    keypoints = person()["keypoints"]
    keypoints[2], keypoints[5] = 0, 3
    annotation = person(keypoints=keypoints, keypoint_weights=[0.5] * 17, pad_to_contain=[1.5] * 17)
    del annotation["area"]
    dataset = parse_coco(coco(annotation))
    assert dataset.visibility[0, :3].tolist() == [0, 3, 2]
    assert dataset.weights[0, :2].tolist() == [0.0, 0.5]  # unlabelled never counts, whatever its weight
    assert dataset.pad_to_contain[0, 0] == 1.5
    assert dataset.areas[0] == pytest.approx(0.53 * 30 * 40)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iscrowd": 1}, CROWD),
        ({"category_id": 2}, OTHER_CATEGORY),
        ({"keypoints": None}, NO_KEYPOINTS),
        ({"keypoints": [0] * 51}, NO_KEYPOINTS),
        ({"bbox": [5, 6, 0, 40]}, EMPTY_BOX),
        ({"bbox": [5, 6, 30, -1]}, EMPTY_BOX),
        ({"bbox": [100, 6, 30, 40]}, BOX_OUTSIDE),
        ({"bbox": [-30, 6, 30, 40]}, BOX_OUTSIDE),
    ],
)
def test_skips_are_counted(changes: dict, reason: str) -> None:
    dataset = parse_coco(coco(person(1), person(2, **changes)))
    assert dataset.ids.tolist() == [1]
    assert dataset.left_out == {2: reason} and dataset.skipped == {reason: 1}
    assert skip_report(len(dataset), dataset.skipped) == f"1 persons; skipped 1: {reason} 1"


def test_annotation_without_keypoints_is_skipped() -> None:
    bare = person(2)
    del bare["keypoints"]
    assert parse_coco(coco(person(1), bare)).left_out == {2: NO_KEYPOINTS}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [1, 2, 3]}, "annotation 2: bbox must be 4 finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "annotation 2: bbox must be 4 finite numbers"),
        ({"keypoints": [1.0] * 50}, "annotation 2: keypoints must be 51 finite numbers"),
        ({"keypoints": ["x"] * 51}, "annotation 2: keypoints must be 51 finite numbers"),
        ({"keypoints": [1, 1, 4] * 17}, "visibility must be 0, 1, 2 or 3"),
        ({"keypoints": [1, 1, 0.5] * 17}, "visibility must be 0, 1, 2 or 3"),
        ({"area": -1}, "area must be a number >= 0"),
        ({"image_id": 9}, "image_id 9 is not among the images"),
        ({"id": 1}, "annotation 1: this id occurs twice"),
        ({"id": "x"}, "annotation 1 has no whole number 'id'"),
        ({"keypoint_weights": [2.0] * 17}, "keypoint_weights must lie in 0 .. 1"),
        ({"pad_to_contain": [1.0]}, "pad_to_contain must be 17 finite numbers"),
    ],
)
def test_errors_name_the_entry(changes: dict, message: str) -> None:
    with pytest.raises(CocoError, match=message.replace("(", r"\(")):
        parse_coco(coco(person(1), {**person(2), **changes}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "must hold the lists"),
        (lambda c: c["images"][0].pop("width"), "image 0: width must be int"),
        (lambda c: c["images"][0].update(height=0), "at least 1 x 1"),
        (lambda c: c["images"].append(c["images"][0]), "image id 1 occurs twice"),
        (lambda c: c["categories"].pop(0), "no category 'person'"),
        (lambda c: c["categories"][0]["keypoints"].reverse(), "the 17 of COCO in COCO's order"),
    ],
)
def test_broken_files(change, message: str) -> None:
    content = copy.deepcopy(coco(person()))
    change(content)
    with pytest.raises(CocoError, match=message):
        parse_coco(content)


def test_not_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(CocoError, match="a.json: not JSON"):
        read_coco(path)
    path.write_text(json.dumps([1]))
    with pytest.raises(CocoError, match="not a COCO annotation file"):
        read_coco(path)


def test_for_evaluation_keeps_what_is_ignored_and_drops_what_is_broken() -> None:
    bare = person(3)
    del bare["keypoints"]
    dataset = parse_coco(
        coco(person(1), person(2, iscrowd=1), bare, person(4, bbox=[1, 1, 0, 0]), person(5, category_id=2))
    )
    content = dataset.for_evaluation({1})
    assert [annotation["id"] for annotation in content["annotations"]] == [1, 2, 3]
    assert [annotation["num_keypoints"] for annotation in content["annotations"]] == [17, 17, 0]
    assert dataset.for_evaluation(set())["annotations"] == []


def test_images(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "good.png"), np.full((20, 30, 3), 7, np.uint8))
    (tmp_path / "bad.png").write_bytes(b"not an image")
    assert read_image(tmp_path, ImageEntry(1, "good.png", 30, 20)).shape == (20, 30, 3)
    for entry, message in [
        (ImageEntry(1, "good.png", 31, 20), "is 30 x 20 px, the annotations say 31 x 20"),
        (ImageEntry(1, "bad.png", 30, 20), "does not decode"),
        (ImageEntry(1, "none.png", 30, 20), "no such image"),
    ]:
        with pytest.raises(CocoError, match=message):
            read_image(tmp_path, entry)
