"""Augmentation keeps the labels on the body: truth comes from a picture whose joints can be found again by colour."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training tests need torch")

from probpose_ros.skeleton import FLIP_INDEX, NUM_KEYPOINTS  # noqa: E402
from probpose_training.augmentation import NO_AUGMENTATION, AugmentationConfig, Sample, augment, crop, flip, half_body  # noqa: E402
from probpose_training.data import PoseDataset, Source  # noqa: E402
from probpose_training.paste import body_mask, paste  # noqa: E402

SIZE = (144, 192)
GREY = 40
CATEGORIES = [{"id": 1, "name": "person"}]


def painted() -> Sample:
    """A grey picture with one bright dot per keypoint; keypoint k has grey value 100 + 9 k."""
    rng = np.random.default_rng(0)
    image = np.full((240, 200, 3), GREY, np.uint8)
    keypoints = np.array([(40 + 35 * (k % 4), 40 + 35 * (k // 4)) for k in range(NUM_KEYPOINTS)], float)
    keypoints += rng.uniform(-3, 3, keypoints.shape)
    for k, (x, y) in enumerate(keypoints):
        cv2.circle(image, (round(x * 16), round(y * 16)), 6 * 16, (100 + 9 * k,) * 3, -1, cv2.LINE_AA, shift=4)
    ones = np.ones(NUM_KEYPOINTS)
    return Sample(image, np.array([25.0, 25.0, 160.0, 200.0]), keypoints, 2 * ones, ones)


def found(crop_image: np.ndarray, k: int) -> np.ndarray | None:
    """Centre of the dot of keypoint k in a crop, None when it is not (wholly) there."""
    mask = np.abs(crop_image[:, :, 0].astype(int) - (100 + 9 * k)) <= 2
    # The rims of brighter dots pass through this grey value too: the dot is the largest blob.
    _, _, statistics, centers = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if len(statistics) < 2:
        return None
    largest = 1 + statistics[1:, cv2.CC_STAT_AREA].argmax()
    return centers[largest] if statistics[largest, cv2.CC_STAT_AREA] > 25 else None


@pytest.mark.parametrize("seed", range(12))
def test_keypoints_move_with_the_picture(seed):
    config = AugmentationConfig(crop=0.5, half_body=0.3)
    image, transform, sample = augment(painted(), config, np.random.default_rng(seed), SIZE)
    points = transform.to_crop(sample.keypoints)
    checked = 0
    flipped = sample.keypoints[1, 0] < sample.keypoints[0, 0]
    for k in range(NUM_KEYPOINTS):
        dot = found(image, FLIP_INDEX[k] if flipped else k)
        inside = (points[k] > 15).all() and (points[k] < np.array(SIZE) - 15).all()
        if dot is not None and inside and sample.visibility[k] == 2:
            assert np.linalg.norm(dot - points[k]) < 1.5, (k, dot, points[k])
            checked += 1
    assert checked >= 3


def standing(x: float, color: int, size: tuple[int, int] = (200, 240)) -> Sample:
    """A person of one colour on grey, upright, its middle at x."""
    offsets = [(0, 30), (4, 26), (-4, 26), (8, 28), (-8, 28), (18, 60), (-18, 60), (22, 95), (-22, 95), (24, 125),
               (-24, 125), (12, 125), (-12, 125), (12, 170), (-12, 170), (12, 212), (-12, 212)]  # fmt: skip
    keypoints = np.array([(x + dx, y) for dx, y in offsets], float)
    image = np.full((size[1], size[0], 3), GREY, np.uint8)
    ones = np.ones(NUM_KEYPOINTS)
    image[body_mask(keypoints, ones > 0, size) > 0] = color
    return Sample(image, np.array([x - 35, 15.0, x + 35, 225.0]), keypoints, 2 * ones, ones)


def test_a_pasted_person_covers_or_stands_behind():
    me = standing(100, 200)
    everyone = np.ones(NUM_KEYPOINTS, bool)
    occluded = behind = 0
    for seed in range(60):
        image, covered = paste(me.image, me.keypoints, everyone, standing(90, 120), np.random.default_rng(seed))
        assert covered.sum() <= NUM_KEYPOINTS // 2
        values = np.array([image[round(y), round(x), 0] for x, y in me.keypoints])
        for k in range(NUM_KEYPOINTS):  # rims are soft
            assert values[k] < 170 if covered[k] else values[k] > 150, (seed, k, values[k])
        occluded += covered.any()
        behind += not covered.any() and (image == 120).any()
    assert occluded > 10 and behind > 10


def test_nothing_is_pasted_where_there_is_no_image():
    me = standing(100, 200)
    me.image[:, :100] = 0
    for seed in range(20):
        image, _ = paste(me.image, me.keypoints, np.ones(17, bool), standing(90, 120), np.random.default_rng(seed))
        assert image[:, :97].max() == 0


def test_nobody_is_cut_out_along_too_few_joints():
    me, other = standing(100, 200), standing(90, 120)
    other.weight[5] = 0  # a shoulder
    assert not body_mask(other.keypoints, other.weight > 0, (200, 240)).any()
    image, covered = paste(me.image, me.keypoints, np.ones(17, bool), other, np.random.default_rng(0))
    np.testing.assert_array_equal(image, me.image)
    assert not covered.any()


def test_covered_joints_are_occluded_and_keep_their_place():
    config = AugmentationConfig(**{**vars(NO_AUGMENTATION), "paste": 1.0})
    changed = 0
    for seed in range(20):
        _, _, sample = augment(standing(100, 200), config, np.random.default_rng(seed), SIZE, lambda: standing(90, 120))
        np.testing.assert_array_equal(sample.keypoints, standing(100, 200).keypoints)
        assert set(sample.visibility) <= {1, 2} and (sample.weight == 1).all()
        changed += (sample.visibility == 1).any()
    assert 0 < changed < 20


def test_flip_twice_is_nothing():
    sample = painted()
    twice = flip(flip(sample))
    np.testing.assert_array_equal(twice.image, sample.image)
    np.testing.assert_allclose(twice.keypoints, sample.keypoints)
    np.testing.assert_allclose(twice.bbox, sample.bbox)


def test_crop_hides_but_keeps_what_it_cuts_away():
    sample = painted()
    seen = 0
    for seed in range(20):
        cut = crop(sample, np.random.default_rng(seed), (0.4, 0.7))
        np.testing.assert_array_equal(cut.keypoints, sample.keypoints)
        np.testing.assert_array_equal(cut.weight, sample.weight)
        hidden = cut.visibility == 3
        seen += hidden.sum()
        for x, y in cut.keypoints[hidden].astype(int):
            assert not cut.image[y, x].any()
    assert seen > 50


def test_half_body_shrinks_the_box_only():
    sample = painted()
    half = half_body(sample, np.random.default_rng(0))
    assert np.prod(half.bbox[2:] - half.bbox[:2]) < np.prod(sample.bbox[2:] - sample.bbox[:2])
    assert half.keypoints is sample.keypoints


def test_photometric_leaves_black_black():
    config = AugmentationConfig(crop=1.0, crop_kept=(0.4, 0.5), photometric=1.0, gray=0.5, rotate=0)
    image, _, _ = augment(painted(), config, np.random.default_rng(1), SIZE)
    assert (image == 0).all(axis=-1).mean() > 0.2


@pytest.fixture
def coco(tmp_path):
    sample = painted()
    cv2.imwrite(str(tmp_path / "a.png"), sample.image)
    keypoints = np.column_stack([sample.keypoints, sample.visibility])
    keypoints[3] = 0  # unlabelled
    box = [25, 25, 135, 175]
    person = {"image_id": 1, "category_id": 1, "iscrowd": 0, "area": 12000.0, "bbox": box}
    annotations = [
        {**person, "id": 1, "keypoints": keypoints.ravel().tolist()},
        {**person, "id": 2, "keypoints": [0] * 51},
        {**person, "id": 3, "keypoints": keypoints.ravel().tolist(), "bbox": [3, 3, 0, 40]},
        {**person, "id": 4, "keypoints": keypoints.ravel().tolist(), "iscrowd": 1},
    ]
    path = tmp_path / "set.json"
    image = {"id": 1, "file_name": "a.png", "width": 200, "height": 240}
    path.write_text(
        json.dumps({"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "person"}]})
    )
    return Source(str(path), str(tmp_path), repeat=2)


def test_dataset_counts_what_it_skips_and_repeats(coco):
    dataset = PoseDataset([coco], SIZE)
    assert len(dataset) == 2
    assert dataset.skipped == {"no labelled keypoint": 1, "box without area": 1, "crowd": 1}


def test_unlabelled_is_never_absent(coco):
    dataset = PoseDataset([coco], SIZE, AugmentationConfig(crop=1.0, crop_kept=(0.4, 0.6)))
    for epoch in range(10):
        dataset.epoch = epoch
        example = dataset[0]
        unlabelled = [k for k in range(NUM_KEYPOINTS) if example["annotated"][k] == 0]
        assert unlabelled in ([3], [FLIP_INDEX[3]])
        assert example["visible_weight"][unlabelled].item() == 0
        assert not torch.isnan(example["keypoints"]).any()


def test_an_example_depends_on_seed_epoch_and_index_alone(coco):
    def picture(seed, epoch):
        dataset = PoseDataset([coco], SIZE, AugmentationConfig(photometric=1.0), seed)
        dataset.epoch = epoch
        return dataset[1]["image"]

    assert torch.equal(picture(0, 4), picture(0, 4))
    assert not torch.equal(picture(0, 4), picture(0, 5))
    assert not torch.equal(picture(0, 4), picture(1, 4))


def test_no_augmentation_is_the_plain_window(coco):
    example = PoseDataset([coco], SIZE, NO_AUGMENTATION)[0]
    labelled = example["annotated"] > 0
    assert bool(example["in_window"][labelled].all()) and bool(example["visible"][labelled].all())


def test_bad_images_and_sets_are_named(coco, tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="a.png: does not decode"):
        PoseDataset([coco], SIZE)[0]
    (tmp_path / "empty.json").write_text(json.dumps({"images": [], "annotations": [], "categories": CATEGORIES}))
    with pytest.raises(ValueError, match="no usable person in"):
        PoseDataset([Source(str(tmp_path / "empty.json"), str(tmp_path))], SIZE)
