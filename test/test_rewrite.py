"""Every rewrite of the exporter computes what the plain network computes, to 1e-5."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_export import random_model
from test_network import SMALL, TINY, TINY_LIGHT
from torch import nn

from probpose_training.checkpoint import codec_of, pose_info
from probpose_training.export import example_crops, to_onnx
from probpose_training.graph import PoseGraph, PoseResult, normalise
from probpose_training.network import NetworkConfig, scalar_branch
from probpose_training.rewrite import (
    Doubling,
    MergedHead,
    fold_batch_norm,
    fold_normalisation,
    merge_branches,
    rewrite,
    rewrite_deconvolutions,
)

LITE = {"backbone": "efficientnet_lite", "widths": (8,) * 6, "depths": (1, 1, 2, 1, 1, 1), "head_width": 16}
NETWORKS = {
    "conv": NetworkConfig(**SMALL, input_size=(144, 192)),
    "lite": NetworkConfig(**LITE, scalar_width=16, input_size=(144, 192)),
    "official": TINY,
    "vit light": NetworkConfig(**TINY_LIGHT),
    "double": NetworkConfig(**SMALL, double_heatmap=True),
    "vit double": NetworkConfig(**TINY_LIGHT, scalar_heads="separate", double_heatmap=True),
}


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def graph_of(name: str) -> PoseGraph:
    config = NETWORKS[name]
    model = random_model(config)
    for module in model.modules():  # The official start has all-but-zero weights, which would hide a wrong rewrite.
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    return PoseGraph(model, codec_of(pose_info(config, name))).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_graph(name):
    plain = graph_of(name)
    lean = copy.deepcopy(plain)
    rewrite(lean)
    crops = torch.from_numpy(example_crops(plain.model.config.input_size, 4))
    expected, found = (graph.model(graph.prepare(crops)) for graph in (plain, lean))
    for field in ("logits", "presence", "visibility", "quality", "outer_logits"):
        if getattr(expected, field) is not None:
            close(getattr(found, field), getattr(expected, field))
    close(lean(crops).probmap, plain(crops).probmap)
    kinds = Counter(type(module).__name__ for module in lean.modules())
    assert not kinds["BatchNorm2d"] and not kinds["ConvTranspose2d"]


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_the_traced_graph_is_lean_and_takes_any_batch(name):
    graph = graph_of(name)
    config = graph.model.config
    crops = example_crops(config.input_size, 5)
    expected = graph(torch.from_numpy(crops))
    rewrite(graph)
    exported = to_onnx(graph, config.input_size, PoseResult._fields)
    onnx.checker.check_model(exported, full_check=True)
    kinds = Counter(node.op_type for node in exported.graph.node)
    for kind in ("Shape", "ConstantOfShape", "Constant", "Identity", "Pad", "BatchNormalization", "ConvTranspose"):
        assert not kinds[kind], kind
    assert not [tensor.name for tensor in exported.graph.initializer if "error_layers" in tensor.name]
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 5):
        found = PoseResult(*session.run(list(PoseResult._fields), {"image": crops[:batch]}))
        for field in ("presence", "visibility", "quality", "probmap"):
            np.testing.assert_allclose(getattr(found, field), getattr(expected, field)[:batch], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (6, 4)])
def test_transposed_convolution(size, relu):
    deconv = nn.ConvTranspose2d(5, 7, 4, 2, 1)
    layers = nn.Sequential(deconv, nn.Identity(), nn.ReLU() if relu else nn.Sigmoid())
    x = torch.randn(2, 5, *size)
    expected = layers(x)
    rewrite_deconvolutions(layers)
    assert isinstance(layers[0], Doubling) and layers[0].relu is relu
    close(layers(x), expected)


def test_other_transposed_convolutions_stay():
    layers = nn.Sequential(nn.ConvTranspose2d(2, 2, 2, 2), nn.ConvTranspose2d(2, 2, 4, 2, 1, output_padding=1))
    rewrite_deconvolutions(layers)
    assert all(isinstance(layer, nn.ConvTranspose2d) for layer in layers)


@torch.no_grad()
def test_merged_branches():
    branches = [scalar_branch(6, (8, 8)) for _ in range(3)]
    for branch in branches:
        branch.eval()
        fold_batch_norm(branch)
    x = torch.randn(2, 6, 8, 8)
    expected = torch.cat([branch(x) for branch in branches], dim=1)
    merged = merge_branches(branches)
    assert [layer.groups for layer in merged if isinstance(layer, nn.Conv2d)] == [1, 3, 3, 3]
    close(merged(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["conv", "official"])  # The official one pads its first convolution by 2.
def test_folded_normalisation(name):
    graph = graph_of(name)
    crops = torch.from_numpy(example_crops(graph.model.config.input_size, 2))
    expected = graph.model.backbone(normalise(crops))[0]
    fold_normalisation(graph)
    close(graph.model.backbone(graph.prepare(crops))[0], expected)


def test_the_official_head_is_merged_and_nothing_else_is():
    heads = {name: graph_of(name) for name in NETWORKS}
    for graph in heads.values():
        rewrite(graph)
    assert [name for name, graph in heads.items() if isinstance(graph.model.head, MergedHead)] == ["official"]
