"""`probpose train` on a tiny set of painted people, from the recipe to a network that is exported and used."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training tests need torch")
pytest.importorskip("lightning_fabric", reason="training tests need lightning-fabric")

from probpose_ros.cli import main  # noqa: E402
from probpose_ros.skeleton import EDGES  # noqa: E402
from probpose_training.checkpoint import load_checkpoint  # noqa: E402
from probpose_training.configuration import build, load  # noqa: E402
from probpose_training.pose_task import PoseTask  # noqa: E402
from probpose_training.trainer import TrainConfig, fit  # noqa: E402


def paint_people(folder, count):
    """Stick figures on noise, each limb in a colour of its own, with COCO-format labels."""
    rng = np.random.default_rng(0)
    pose = [(0, -40), (-4, -44), (4, -44), (-9, -42), (9, -42), (-16, -26), (16, -26), (-24, -6), (24, -6), (-28, 12),
            (28, 12), (-10, 14), (10, 14), (-12, 38), (12, 38), (-13, 60), (13, 60)]  # fmt: skip
    images, annotations = [], []
    for n in range(count):
        image = rng.integers(60, 120, (160, 128, 3), np.uint8)
        keypoints = np.array(pose) * rng.uniform(0.8, 1.1) + rng.uniform(-4, 4, (17, 2)) + (64, 72)
        for i, (a, b) in enumerate(EDGES):
            color = tuple(int(v) for v in cv2.applyColorMap(np.uint8([[13 * i]]), cv2.COLORMAP_HSV)[0, 0])
            ends = [tuple(int(v) for v in keypoints[k].round()) for k in (a, b)]
            cv2.line(image, *ends, color, 4, cv2.LINE_AA)
        cv2.imwrite(str(folder / f"{n}.png"), image)
        low, high = keypoints.min(0) - 4, keypoints.max(0) + 4
        labels = np.column_stack([keypoints, np.full(17, 2)]).ravel().tolist()
        box = [*low.tolist(), *(high - low).tolist()]
        images.append({"id": n, "file_name": f"{n}.png", "width": 128, "height": 160})
        annotations.append(
            {"id": n + 1, "image_id": n, "category_id": 1, "iscrowd": 0, "bbox": box, "keypoints": labels,
             "area": 0.53 * box[2] * box[3], "num_keypoints": 17}
        )  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "people.json").write_text(json.dumps(content))


def recipe(folder, **train):
    source = {"annotations": "people.json", "images": "."}
    still = {"flip": 0, "half_body": 0, "shift": 0, "scale_range": [1, 1], "rotate": 0, "crop": 0}
    return {
        "task": "pose",
        "network": {"input_size": [96, 128], "widths": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "head_width": 32},
        "loss": {"fenchel_young": 1.0, "target_profile": "reference"},
        "augmentation": still,
        "data": {"root": str(folder), "train": [source], "val": source},
        "train": {"batch_size": 4, "learning_rate": 0.004, "warmup_steps": 10, "workers": 0, "accelerator": "cpu",
                  "threads": 1, "validate_every": 1000, "save_every": 1000, **train},
    }  # fmt: skip


def test_overfits_eight_images(tmp_path):
    paint_people(tmp_path, 8)
    config = recipe(tmp_path, epochs=150)
    task = PoseTask(config)
    fit(task, build(TrainConfig, config["train"], "train"), tmp_path / "run")
    model, info = load_checkpoint(tmp_path / "run" / "model.pt")
    figures = task.validate(model)
    assert figures["ap"] > 0.95 and figures["ex_ap"] > 0.95, figures
    assert (info.input_size, info.map_size) == ((96, 128), (24, 32))


@pytest.mark.parametrize("double_heatmap", [False, True])
def test_train_and_export_commands(tmp_path, capsys, double_heatmap):
    import yaml

    paint_people(tmp_path, 5)
    path = tmp_path / "tiny.yaml"
    config = recipe(tmp_path, epochs=3)
    config["network"]["double_heatmap"] = double_heatmap
    path.write_text(yaml.safe_dump(config))
    assert main(["train", "--config", str(path), "--set", "train.epochs=1", "--out", str(tmp_path / "run")]) == 0
    checkpoint, onnx_file = str(tmp_path / "run" / "model.pt"), tmp_path / "pose.onnx"
    assert main(["export", checkpoint, "--out", str(onnx_file), "--with-probmap"]) == 0
    from probpose_ros.pose import PoseModel

    pose = PoseModel(str(onnx_file))(np.zeros((2, 128, 96, 3), np.uint8))
    assert pose.keypoints.shape == (2, 17, 2) and pose.probmap.sum() == pytest.approx(34, abs=1e-3)

    assert main(["train", "--config", str(path), "--set", "network.width=3"]) == 2
    assert "network: unknown key width; the keys are: input_size" in capsys.readouterr().err
    assert main(["train", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: No such file" in capsys.readouterr().err


def test_unknown_sections_and_tasks_are_named(tmp_path):
    paint_people(tmp_path, 2)
    with pytest.raises(ValueError, match="unknown section optimiser; the sections are: task, network"):
        PoseTask({**recipe(tmp_path), "optimiser": {}})
    with pytest.raises(ValueError, match="codec: unknown section padding; the sections are: profile"):
        PoseTask({**recipe(tmp_path), "codec": {"padding": 1.5}})
    with pytest.raises(ValueError, match="data: train and val must be given"):
        PoseTask({**recipe(tmp_path), "data": {"root": str(tmp_path)}})
    path = tmp_path / "r.yaml"
    path.write_text("task: segmentation\n")
    assert load(path, [])["task"] == "segmentation"
    assert main(["train", "--config", str(path)]) == 2


def test_share_takes_the_same_images_each_time(tmp_path):
    from probpose_training.data import PoseDataset, Source

    paint_people(tmp_path, 8)
    source = Source(str(tmp_path / "people.json"), str(tmp_path), repeat=2)

    def names(share):
        return [person.image.file_name for person in PoseDataset([source], (96, 128), share=share).persons]

    assert len(names(1.0)) == 16
    assert len(names(0.5)) == 8 and len(set(names(0.5))) == 4
    assert names(0.5) == names(0.5)
    assert set(names(0.25)) < set(names(0.5))
    with pytest.raises(ValueError, match=r"share of the images must be in \(0, 1\], got 0"):
        PoseDataset([source], (96, 128), share=0)
