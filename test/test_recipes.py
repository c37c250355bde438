"""Every shipped recipe builds: its keys exist, its network is made, its parameters are grouped."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training tests need torch")

from probpose_training.augmentation import AugmentationConfig  # noqa: E402
from probpose_training.configuration import build, load  # noqa: E402
from probpose_training.losses import LossConfig  # noqa: E402
from probpose_training.network import NetworkConfig, ProbPose  # noqa: E402
from probpose_training.trainer import TrainConfig, parameter_groups  # noqa: E402

RECIPES = sorted((Path(__file__).parents[1] / "training" / "configs").glob("*.yaml"))


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"probpose_small", "probpose_s", "probpose_s_dh", "detector"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_builds(path):
    config = load(path, [])
    train = build(TrainConfig, config["train"], "train")
    if config["task"] == "detector":
        from probpose_training.detector.task import DetectorConfig

        model = build(DetectorConfig, config["network"], "network").make()
    else:
        build(LossConfig, config["loss"], "loss")
        build(AugmentationConfig, config["augmentation"], "augmentation")
        model = ProbPose(build(NetworkConfig, config["network"], "network"))
    groups = parameter_groups(model, train)
    grouped = sum(parameter.numel() for group in groups for parameter in group["params"])
    assert grouped == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_layer_decay_follows_the_layers():
    """Layer decay 0.8 over 12 layers: the head learns at 1, block i at 0.8^(12-i), the embeddings at 0.8^13."""
    config = load(Path(__file__).parents[1] / "training/configs/probpose_s.yaml", [])
    model = ProbPose(build(NetworkConfig, config["network"], "network"))
    scale = {}
    for group in parameter_groups(model, build(TrainConfig, config["train"], "train")):
        scale.update({id(parameter): (group["scale"], group["weight_decay"]) for parameter in group["params"]})
    found = {name: scale[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert found["backbone.pos_embed"] == (pytest.approx(0.8**13), 0)
    assert found["backbone.layers.0.attn.qkv.weight"] == (pytest.approx(0.8**12), 0.1)
    assert found["backbone.layers.11.ln1.weight"] == (pytest.approx(0.8), 0)
    assert found["head.final_layer.weight"] == (1, 0.1)
