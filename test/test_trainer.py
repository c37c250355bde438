"""The loop on a toy task: learns, resumes to the same numbers, splits batches over processes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training tests need torch")
pytest.importorskip("lightning_fabric", reason="training tests need lightning-fabric")

from probpose_training.configuration import build, load  # noqa: E402
from probpose_training.trainer import EpochSampler, TrainConfig, fit, learning_rate_factor  # noqa: E402


class Line(torch.utils.data.Dataset):
    epoch = 0

    def __len__(self):
        return 40

    def __getitem__(self, index):
        x = np.random.default_rng((self.epoch, index)).normal(size=3).astype(np.float32)
        return {"x": torch.from_numpy(x), "y": torch.from_numpy(x @ np.array([[1.0], [-2.0], [0.5]], np.float32))}


class LineTask:
    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 1))
        self.train_dataset, self.losses = Line(), []

    def loss(self, model, batch):
        total = (model(batch["x"]) - batch["y"]).square().mean()
        self.losses.append(float(total.detach()))
        return {"total": total}

    def validate(self, model):
        return {"weight": float(next(model.parameters()).detach().sum())}

    def save(self, model, path):
        torch.save(model.state_dict(), path)


CONFIG = TrainConfig(
    epochs=6, batch_size=8, learning_rate=0.02, warmup_steps=3, ema=0.9, workers=0, accelerator="cpu", validate_every=2
)


def test_learns_and_logs(tmp_path):
    task = LineTask()
    fit(task, CONFIG, tmp_path)
    assert np.mean(task.losses[-5:]) < 0.3 * np.mean(task.losses[:5])
    assert "val/weight" in (tmp_path / "metrics.csv").read_text()
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert any(not torch.equal(saved[name], value) for name, value in task.model.state_dict().items())  # the average


@pytest.mark.parametrize("stop", [5, 13])  # at the end of an epoch and in the middle of one
def test_resume_repeats_the_uninterrupted_run(tmp_path, stop):
    whole = LineTask()
    fit(whole, CONFIG, tmp_path / "whole")
    first, second = LineTask(), LineTask()
    fit(first, CONFIG, tmp_path / "cut", limit_steps=stop)
    fit(second, CONFIG, tmp_path / "cut")
    assert first.losses + second.losses == whole.losses
    states = [torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("whole", "cut")]
    for name, value in states[0]["average"].items():
        assert torch.equal(value, states[1]["average"][name]), name


def test_not_a_number_stops_with_the_step(tmp_path):
    task = LineTask()
    task.loss = lambda model, batch: {"total": model(batch["x"]).sum() * float("nan")}
    with pytest.raises(RuntimeError, match="loss not finite at step 0"):
        fit(task, CONFIG, tmp_path)


def test_processes_share_the_global_batch():
    one = list(EpochSampler(50, 8, seed=3))
    two = [list(EpochSampler(50, 4, seed=3, rank=rank, world=2)) for rank in (0, 1)]
    for batch in range(6):
        together = two[0][batch * 4 : batch * 4 + 4] + two[1][batch * 4 : batch * 4 + 4]
        assert together == one[batch * 8 : batch * 8 + 8]


def test_schedules():
    step = TrainConfig(epochs=10, schedule="step", milestones=(4, 8), warmup_steps=10)
    assert learning_rate_factor(0, step, 100) == pytest.approx(0.1)
    assert [learning_rate_factor(s, step, 100) for s in (399, 400, 800)] == pytest.approx([1, 0.1, 0.01])
    cosine = TrainConfig(epochs=10, warmup_steps=0)
    assert learning_rate_factor(500, cosine, 100) == pytest.approx(0.5)


def test_recipe_errors_name_the_key(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("train: {epochs: 3}\n")
    assert load(path, ["train.epochs=5", "train.precision=bf16-mixed"])["train"] == {
        "epochs": 5,
        "precision": "bf16-mixed",
    }
    with pytest.raises(ValueError, match="unknown key epoch; the keys are: epochs"):
        build(TrainConfig, {"epoch": 3}, "train")
    with pytest.raises(ValueError, match=r"train.epochs = 'many': must be int"):
        build(TrainConfig, {"epochs": "many"}, "train")
    assert build(TrainConfig, {"learning_rate": "7e-4"}, "train").learning_rate == 7e-4  # text, for YAML 1.1
    with pytest.raises(ValueError, match=r"train.learning_rate = 'fast': must be a number"):
        build(TrainConfig, {"learning_rate": "fast"}, "train")
    with pytest.raises(ValueError, match="must be key=value"):
        load(path, ["train.epochs"])
    with pytest.raises(ValueError, match="schedule must be cosine or step"):
        TrainConfig(schedule="linear")
