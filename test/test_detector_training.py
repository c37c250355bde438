"""Training of the detector: assignment by hand, losses, labels, augmentation, metrics, learning, export."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training tests need torch")

from probpose_ros.detector import Detector  # noqa: E402
from probpose_ros.model_info import DetectorInfo  # noqa: E402
from probpose_training.detector.assign import assign, pairwise_iou  # noqa: E402
from probpose_training.detector.boxes import box_iou, drop_contained  # noqa: E402
from probpose_training.detector.checkpoint import DetectorConfig, load_detector, save_detector  # noqa: E402
from probpose_training.detector.data import (  # noqa: E402
    IGNORE,
    MAX_BOXES,
    PERSON,
    DetectorAugmentation,
    DetectorDataset,
    pad,
)
from probpose_training.detector.evaluation import CocoBoxes, rank  # noqa: E402
from probpose_training.detector.export import export_detector  # noqa: E402
from probpose_training.detector.labels import LabelledImage, combine  # noqa: E402
from probpose_training.detector.loss import detection_loss, giou  # noqa: E402
from probpose_training.detector.network import all_centers, prepare  # noqa: E402
from probpose_training.detector.task import Predictor  # noqa: E402
from probpose_training.detector.teacher import fuse  # noqa: E402

SMALL = DetectorConfig((64, 64), widths=(8, 8, 16, 16), depths=(0, 1, 1, 1), neck=8)


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_iou_by_hand():
    a, b = boxes([0, 0, 10, 10]), boxes([5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10])
    expected = [1 / 3, 0, 1]
    np.testing.assert_allclose(pairwise_iou(a, b)[0], expected, atol=1e-6)
    np.testing.assert_allclose(box_iou(a.numpy(), b.numpy())[0], expected, atol=1e-6)
    # Disjoint: the hull is 30 x 30, the union 200.
    np.testing.assert_allclose(giou(a.expand(3, 4), b), [1 / 3, -700 / 900, 1], atol=1e-6)


def test_assignment_by_hand():
    """Three cells in a row; the box holds the first two. The better predictor gets its IoU as target."""
    centers = torch.tensor([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0]])
    predicted = boxes([0, 0, 16, 8], [0, 0, 8, 8], [0, 0, 16, 8])
    index, target, weight = assign(torch.full((3,), 0.25), predicted, centers, boxes([0, 0, 16, 8]), boxes())
    assert index.tolist() == [0, 0, -1]  # the third predicts the box exactly, but lies outside
    np.testing.assert_allclose(target, [1.0, 0.5**4, 0.0], atol=1e-5)
    assert weight.tolist() == [1, 1, 1]


def test_a_cell_learns_one_box_and_ignored_cells_learn_nothing():
    centers = torch.tensor([[4.0, 4.0], [12.0, 4.0]])
    predicted = boxes([0, 0, 8, 8], [8, 0, 16, 8])
    truth, ignore = boxes([0, 0, 9, 8], [0, 0, 16, 8]), boxes([8, 0, 16, 8])
    index, target, weight = assign(torch.full((2,), 0.5), predicted, centers, truth, ignore)
    assert index.tolist() == [0, 1] and weight.tolist() == [1, 1]  # a person in an ignored region is still learned
    index, target, weight = assign(torch.full((2,), 0.5), predicted, centers, truth[:1], ignore)
    assert index.tolist() == [0, -1] and weight.tolist() == [1, 0]


def test_a_box_between_the_centers_teaches_the_nearest_cell():
    centers = torch.tensor([[4.0, 4.0], [12.0, 4.0]])
    index, _, _ = assign(
        torch.full((2,), 0.5), boxes([0, 0, 8, 8], [8, 0, 16, 8]), centers, boxes([9, 6, 11, 8]), boxes()
    )
    assert index.tolist() == [-1, 0]


def test_loss_is_smaller_for_the_right_answer_and_blind_in_ignored_regions():
    centers = torch.tensor([[4.0, 4.0], [12.0, 4.0]])
    truth = boxes([0, 0, 8, 8])
    predicted = boxes([0, 0, 8, 8], [8, 0, 16, 8])[None]

    def total(logits, ignore):
        return float(detection_loss(torch.tensor([logits]), predicted, centers, [truth], [ignore])["total"])

    assert total([4.0, -4.0], boxes()) < total([-4.0, -4.0], boxes())
    assert total([4.0, -4.0], boxes()) < total([4.0, 4.0], boxes()) - 0.1
    assert total([4.0, -4.0], boxes([8, 0, 16, 8])) == total([4.0, 4.0], boxes([8, 0, 16, 8]))


def test_network_centers_match_its_boxes():
    model = SMALL.make().eval()
    with torch.no_grad():
        logits, found = model(torch.rand(2, 3, 64, 96))
    centers = all_centers(64, 96)
    assert logits.shape == (2, len(centers)) and found.shape == (2, len(centers), 4)
    assert ((found[..., :2] < centers) & (centers < found[..., 2:])).all()


def test_annotations_win_and_doubt_is_ignored():
    annotation = {"bbox": [0, 0, 10, 20]}
    teacher = [[0, 0, 10, 19, 0.9], [30, 0, 40, 20, 0.8], [60, 0, 70, 20, 0.3], [1, 1, 5, 6, 0.3], [80, 0, 90, 9, 0.1]]
    persons, ignore = combine([annotation], teacher, person_score=0.4, ignore_score=0.2)
    assert persons.tolist() == [[0, 0, 10, 20], [30, 0, 40, 20]]  # the annotated one once
    assert ignore.tolist() == [[60, 0, 70, 20]]  # not the doubtful part of the annotated person, not the improbable one
    persons, _ = combine([{**annotation, "bbox_from_keypoints": True}], teacher, 0.4, 0.2)
    assert persons[0].tolist() == [0, 0, 10, 19]


def test_contained_boxes_are_dropped():
    found = np.array([[0, 0, 10, 20], [2, 2, 8, 10], [12, 0, 20, 20]], float)
    assert drop_contained(found, np.array([0.9, 0.5, 0.4])).tolist() == [True, False, True]
    assert drop_contained(found, np.array([0.5, 0.9, 0.4])).tolist() == [True, True, True]


def test_fused_score_is_the_share_of_passes_that_agree():
    passes = [
        np.array([[0, 0, 10, 10, 0.8]], np.float32),
        np.array([[0, 0, 10, 12, 0.8], [50, 0, 60, 9, 0.6]], np.float32),
    ]
    np.testing.assert_allclose(fuse(passes), [[0, 0, 10, 11, 0.8], [50, 0, 60, 9, 0.3]], atol=1e-6)


@pytest.fixture
def photograph(tmp_path):
    """A white person-shaped rectangle on black."""
    image = np.zeros((90, 120, 3), np.uint8)
    image[20:70, 40:60] = 255
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    return LabelledImage(tmp_path / "photo.png", np.array([[40, 20, 60, 70]], np.float32))


def test_boxes_follow_the_pixels_and_examples_repeat(photograph, monkeypatch):
    monkeypatch.setattr("probpose_training.detector.data.photometric", lambda image, config, rng: image)
    dataset = DetectorDataset([photograph], DetectorAugmentation(mosaic=(1.0,)), sizes=[(0, 128), (3, 160)])
    assert dataset.size == 128
    checked = 0
    for epoch in range(3):
        dataset.epoch = epoch
        example = dataset[0]
        again = dataset[0]
        assert all(torch.equal(example[name], again[name]) for name in example)
        person = example["boxes"][example["kinds"] == PERSON].numpy()
        ys, xs = np.nonzero((example["image"].numpy() > 250).all(-1))
        for box in person:
            checked += 1
            np.testing.assert_allclose(box, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=2.5)
    assert checked
    dataset.epoch = 3
    assert dataset[0]["image"].shape == (160, 160, 3)


def test_a_person_cut_to_a_sliver_is_ignored(photograph):
    config = DetectorAugmentation(mosaic=(1.0,), keep_share=1.1, keep_cover=1.1)
    example = DetectorDataset([photograph], config, sizes=[(0, 128)])[0]
    assert set(example["kinds"].tolist()) <= {0, IGNORE}


def test_recall_at_false_positives_by_hand():
    truth = [np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)]
    found = [np.array([[0, 0, 10, 10, 0.9], [0, 0, 10, 9, 0.8], [50, 0, 60, 9, 0.7], [20, 0, 30, 9, 0.6]], np.float32)]
    ranked = rank(found, truth)
    assert ranked.true.tolist() == [True, False, False, True]  # the second look at a found person is false
    assert [ranked.recall_at(n) for n in (0, 1, 2)] == [0.5, 0.5, 1.0]
    assert ranked.at_score(0.75) == (0.5, 1)


def test_learns_four_images_exports_what_it_learned_and_the_run_time_finds_it(tmp_path):
    rng = np.random.default_rng(0)
    images, wanted = [], []
    for _ in range(4):
        image = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8)
        x, y = rng.integers(4, 24, 2)
        w, h = rng.integers(14, 34, 2)
        image[y : y + h, x : x + w] = 220
        images.append(image)
        wanted.append(np.array([[x, y, x + w, y + h]], np.float32))
    torch.manual_seed(0)
    model = SMALL.make()
    batch = prepare(torch.from_numpy(np.stack(images)))
    targets = [torch.from_numpy(box) for box in wanted]
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    losses = []
    for _ in range(120):
        loss = detection_loss(*model(batch), all_centers(64, 64), targets, [boxes()] * 4)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.25 * losses[0]

    info = DetectorInfo(kind="detector", name="squares", input_size=(64, 64))
    save_detector(tmp_path / "squares.pt", model, SMALL, info)
    content = torch.load(tmp_path / "squares.pt", weights_only=True)
    again, info = load_detector(content, tmp_path / "squares.pt")
    differences = export_detector(again, info, tmp_path / "squares.onnx", precision="fp16")
    assert differences["boxes"] < 1e-3 and differences["scores"] < 1e-4
    found = Detector(tmp_path / "squares.onnx", threshold=0.3, backend="onnxruntime", threads=1)(images)
    predictor = Predictor(again, (64, 64), threshold=0.3)
    for image, detections, box in zip(images, found, wanted, strict=True):
        assert len(detections) >= 1 and box_iou(detections.boxes[:1], box)[0, 0] > 0.5
        np.testing.assert_allclose(detections.boxes[0], predictor(image)[0, :4].clip(0, 63), atol=0.5)


def test_average_precision_of_the_truth_is_one(tmp_path):
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, box in enumerate([[5.0, 5.0, 20.0, 30.0], [40.0, 5.0, 15.0, 40.0]])
    ]
    coco = {"images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}], "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}], "info": {}}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(coco))
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    data = CocoBoxes(str(tmp_path / "a.json"), str(tmp_path))
    truth = np.concatenate([data.truth[0], [[0.9], [0.8]]], axis=1).astype(np.float32)
    values = data.measure(lambda image: truth, false_positives=0)
    assert values["ap"] == pytest.approx(1) and values["recall_peer_fp"] == 1 and values["false_04"] == 0


def test_padding_keeps_the_largest_boxes():
    many = np.array([[0, 0, i + 1, 1] for i in range(MAX_BOXES + 5)], np.float32)
    kept = pad(many, np.full(len(many), PERSON))["boxes"]
    assert len(kept) == MAX_BOXES and kept[:, 2].min() == 6
