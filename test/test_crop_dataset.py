"""The crop augmentation, and CropCOCO-style sets made with it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_coco import coco, person

from probpose_ros.skeleton import KEYPOINT_NAMES
from probpose_training.coco import CocoError, read_coco, read_image
from probpose_training.commands import crop_dataset as command
from probpose_training.crop_augmentation import CONTEXT, KEPT, apply_crop, clip_bbox, crop_augment, outside
from probpose_training.crop_dataset import IMAGE_UNREADABLE, TOO_LITTLE_LEFT, CropPolicy, crop_dataset
from probpose_training.domain import PAPER_DOMAINS, domain
from probpose_training.metrics.exoks import min_padding

DATA = Path(__file__).parents[1] / "../shared/data/coco_val.tar"


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_rectangle_lies_in_the_context_box_and_keeps_its_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(60, 400, 2)
    low = rng.uniform(-10, [width - 40, height - 40])
    bbox = np.concatenate([low, low + rng.uniform(30, 200, 2)])
    x0, y0, x1, y1 = rectangle = crop_augment((height, width, 3), bbox, rng)
    center, half = (bbox[:2] + bbox[2:]) / 2, (bbox[2:] - bbox[:2]) / 2 * CONTEXT
    context = np.clip(np.concatenate([center - half, center + half]), 0, [width, height] * 2)
    assert context[0] - 1 <= x0 < x1 <= context[2] and context[1] - 1 <= y0 < y1 <= context[3]
    share = np.array([x1 - x0, y1 - y0]) / (context[2:] - context[:2])
    slack = 2 / (context[2:] - context[:2])  # whole pixels
    assert (share > KEPT[0] - slack).all() and (share < KEPT[1] + slack).all()
    assert all(isinstance(v, int) for v in rectangle)


def test_rectangle_is_anywhere_in_the_context_box() -> None:
    rng = np.random.default_rng(0)
    rectangles = np.array([crop_augment((200, 200), np.array([50, 50, 130, 130]), rng) for _ in range(2000)])
    assert rectangles[:, :2].min() == 40 and rectangles[:, 2:].max() == 140
    size = rectangles[:, 2:] - rectangles[:, :2]
    np.testing.assert_allclose(size.mean(axis=0), 80, atol=1)
    assert abs(np.corrcoef(size.T)[0, 1]) < 0.1  # drawn for x and y on their own


def test_apply_crop() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    keypoints = np.array([[10.0, 10.0], [30.0, 20.0], [31.0, 20.0], [0.0, 0.0], [29.9, 29.9]])
    visibility = np.array([2, 2, 1, 0, 2])
    shown, bbox, v = apply_crop(image, np.array([0.0, 0.0, 50.0, 40.0]), keypoints, visibility, (5, 10, 30, 30))
    assert (shown[10:30, 5:30] == 200).all() and shown.astype(int).sum() == 200 * 3 * 20 * 25
    assert bbox.tolist() == [5.0, 10.0, 30.0, 30.0]
    assert v.tolist() == [2, 3, 3, 0, 2]  # cut off: still annotated, no longer visible; unlabelled stays unlabelled
    assert (image == 200).all() and visibility.tolist() == [2, 2, 1, 0, 2]


def test_no_pixel_to_keep_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no pixel in an image of 50 x 40 px"):
        crop_augment((40, 50), np.array([60.0, 0.0, 70.0, 10.0]), np.random.default_rng(0))
    with pytest.raises(ValueError, match="kept must be"):
        crop_augment((40, 50), np.array([0.0, 0.0, 10.0, 10.0]), np.random.default_rng(0), kept=(0.9, 0.7))
    assert clip_bbox(np.array([0, 0, 5, 5]), (10, 10, 20, 20)).tolist() == [10, 10, 5, 5]


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, Path]:
    """Two photographs whose pixel (x, y) says where it was, two persons; a third image that is broken."""
    images = tmp_path / "images"
    images.mkdir()
    y, x = np.mgrid[:80, :100].astype(np.uint8)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(images / name), np.dstack([x, y, 0 * x]))
    (images / "c.png").write_bytes(b"broken")
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(10, 60, 17), rng.uniform(10, 70, 17), np.full(17, 2)])
    points[3] = 0
    content = coco(
        *(person(i, image_id=i, bbox=[10, 10, 50, 60], keypoints=points.ravel().tolist()) for i in (1, 2, 3))
    )
    content["images"] = [
        {"id": i, "file_name": f"{n}.png", "width": 100, "height": 80} for i, n in ((1, "a"), (2, "b"), (3, "c"))
    ]
    (tmp_path / "a.json").write_text(json.dumps(content))
    return tmp_path / "a.json", images


def test_labels_move_with_the_pixels(source: tuple[Path, Path], tmp_path: Path) -> None:
    before = read_coco(source[0])
    after, skipped = crop_dataset(*source, tmp_path / "out", seed=1)
    assert skipped == {IMAGE_UNREADABLE: 1}
    assert len(after.images) == len(after) == 2
    again = read_coco(tmp_path / "out/annotations.json")
    np.testing.assert_array_equal(again.keypoints, after.keypoints)
    for p, image_id in enumerate(again.image_ids):
        entry = again.raw["images"][p]
        x0, y0, x1, y1 = entry["crop"]
        image = read_image(tmp_path / "out/images", again.images[image_id])
        assert image.shape == (y1 - y0, x1 - x0, 3)
        assert np.abs(image[5, 5, :2].astype(int) - (x0 + 5, y0 + 5)).max() <= 4  # JPEG
        labelled = again.visibility[p] > 0
        assert labelled.sum() == 16
        np.testing.assert_allclose(again.keypoints[p][labelled] + (x0, y0), before.keypoints[0][labelled], atol=0.01)
        away = outside(again.keypoints[p], (0, 0, x1 - x0, y1 - y0))
        np.testing.assert_array_equal((again.visibility[p] == 3)[labelled], away[labelled])
        box = again.bboxes[p]
        assert (box >= 0).all() and (box[2:] <= (x1 - x0, y1 - y0)).all()
        expected = min_padding(np.concatenate([box[:2], box[2:] - box[:2]]), again.keypoints[p], again.visibility[p])
        np.testing.assert_allclose(again.pad_to_contain[p], expected, atol=2e-3)
    assert (again.visibility == 3).any()


def test_same_seed_same_set(source: tuple[Path, Path], tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        crop_dataset(*source, tmp_path / name, seed)
    files = {name: {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.*")} for name in ("one", "two", "three")}
    assert files["one"] == files["two"] and files["one"] != files["three"]


def test_nothing_left_is_an_error(source: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CocoError, match=f"no person is left.*{TOO_LITTLE_LEFT} 2"):
        crop_dataset(*source, tmp_path / "out", 0, CropPolicy(min_keypoints=17))
    with pytest.raises(ValueError, match="crops must be at least 1, got 0"):
        CropPolicy(crops=0)


def test_command(source: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    common = ["crop-dataset", "--annotations", str(source[0]), "--images", str(source[1]), "--out", str(tmp_path / "o")]
    args = parser.parse_args([*common, "--seed", "3"])
    assert args.run(args) == 0
    printed = capsys.readouterr().out
    assert "2 images, 2 persons; skipped 1: image cannot be read 1" in printed and "CropCOCO val (paper)" in printed
    with pytest.raises(ValueError, match="--seed must be at least 0"):
        args.run(parser.parse_args([*common, "--seed", "-1"]))


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_file(), reason="the data folder ../shared is not there")
def test_default_policy_comes_near_cropcoco(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(DATA) as archive:
        archive.extractall(tmp_path)
    annotations = next(tmp_path.rglob("person_keypoints_val.json"))
    shares = []
    for seed in range(3):
        dataset, _ = crop_dataset(annotations, annotations.parent / "images", tmp_path / f"out{seed}", seed)
        shares.append(list(domain(dataset).values()))
        assert list(dataset.raw["categories"][0]["keypoints"]) == list(KEYPOINT_NAMES)
    np.testing.assert_allclose(np.mean(shares, axis=0), PAPER_DOMAINS["CropCOCO val"], atol=5)
