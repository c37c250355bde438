"""The double heatmap (paper 3.5): two windows, one merged map, losses that reach outside the crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_export import random_model
from test_losses import make_batch
from test_network import SMALL

from probpose_ros.codec import Codec
from probpose_ros.pose import PoseModel
from probpose_training.checkpoint import codec_of, load_checkpoint, pose_info, save_checkpoint
from probpose_training.decode import INNER_PRIOR, OUTER_DOUBT, ExpectedOksDecode, MergedMaps, decode_codec
from probpose_training.export import example_crops, export_pose
from probpose_training.losses import PoseLoss
from probpose_training.network import NetworkConfig, NetworkOutput, ProbPose

CONFIG = NetworkConfig(**SMALL, double_heatmap=True)
INNER = Codec((192, 256), (48, 64))
OUTER = INNER.outer(1.25)
MERGED = decode_codec(CONFIG, "oks", 1.25)


def output_of(inner_points: np.ndarray, outer_points: np.ndarray, sharpness: float = 3.0) -> NetworkOutput:
    """Logits whose maps peak at the given crop-px points (K, 2)."""

    def logits(codec: Codec, points: np.ndarray) -> torch.Tensor:
        w, h = codec.map_size
        x, y = np.moveaxis(codec.to_map(points), -1, 0)[..., None, None]
        squared = (np.arange(w)[None] - x) ** 2 + (np.arange(h)[:, None] - y) ** 2
        return torch.tensor(-squared / sharpness, dtype=torch.float32)[None]

    scalars = [torch.zeros(1, 17)] * 3
    return NetworkOutput(logits(INNER, inner_points), *scalars, 0.5, "sparsemax", logits(OUTER, outer_points))


def random_points(low: tuple[float, float], high: tuple[float, float], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (17, 2))


def test_extended_cells_are_the_inner_cells_and_more():
    assert MERGED.map_size == (60, 80)
    inner = np.stack(np.meshgrid(np.arange(48), np.arange(64)), axis=-1)
    np.testing.assert_allclose(MERGED.to_crop(inner + [6, 8]), INNER.to_crop(inner), rtol=0, atol=1e-9)
    assert (MERGED.to_crop([0, 0]) <= OUTER.to_crop([0, 0])).all()
    np.testing.assert_allclose(MERGED.variance, INNER.variance, rtol=0.01)
    # A keypoint is as precise in the image on either map.
    pixel = [(codec.to_crop([1, 1]) - codec.to_crop([0, 0])) for codec in (INNER, OUTER)]
    np.testing.assert_allclose(INNER.variance * pixel[0].prod(), OUTER.variance * pixel[1].prod(), rtol=0.01)


@pytest.mark.parametrize("codec", [OUTER, MERGED])
def test_encode_then_decode_outside_the_crop(codec):
    keypoints = random_points((-15, -20), (205, 275))
    maps = codec.encode(keypoints) ** 20
    decoded = codec.decode(maps / maps.sum((-2, -1), keepdims=True))
    assert np.abs(decoded.keypoints - keypoints).max() < 1.5


def test_inside_the_inner_map_answers():
    """The outer map's point is off by some px but in the window: the finer map is believed."""
    inner = random_points((40, 40), (150, 210))
    outer = inner + random_points((-15, -15), (15, 15), 1)
    merged = MergedMaps(CONFIG)(output_of(inner, outer))
    keypoints, _ = ExpectedOksDecode(MERGED)(merged)
    assert np.abs(keypoints[0].numpy() - inner).max() < 2


def test_outside_the_outer_map_answers():
    inner = random_points((40, 40), (150, 210))
    outer = random_points((-18, 20), (-14, 230))
    output = output_of(inner, outer)
    merged = MergedMaps(CONFIG)(output)
    torch.testing.assert_close(merged.sum((-2, -1)), torch.ones(1, 17))
    keypoints, _ = ExpectedOksDecode(MERGED)(merged)
    np.testing.assert_allclose(keypoints[0].numpy(), outer, rtol=0, atol=3)
    # Yet the other answer stays alive, with the share that it is promised.
    alive = merged[0, :, 8:-8, 6:-6].sum((-2, -1))
    torch.testing.assert_close(alive, torch.full((17,), OUTER_DOUBT * INNER_PRIOR), rtol=0, atol=1e-4)


def test_density_is_continuous_across_the_window():
    """Both maps flat: the merged density must not show where one ends, but for the doubt's share."""
    flat = torch.zeros(1, 17, 64, 48)
    scalars = [torch.zeros(1, 17)] * 3
    merged = MergedMaps(CONFIG)(NetworkOutput(flat, *scalars, 0.5, "sparsemax", flat))
    inside, outside = merged[0, 0, 40, 30], merged[0, 0, 2, 2]
    area = 48 * 64 / (60 * 80)
    share = (1 - OUTER_DOUBT) * area + OUTER_DOUBT * INNER_PRIOR
    torch.testing.assert_close(
        inside / outside, torch.tensor(share / area * (1 - area) / (1 - share)), rtol=1e-3, atol=0
    )


def test_losses_reach_outside_the_crop():
    torch.manual_seed(0)
    model = ProbPose(CONFIG)
    loss, batch = PoseLoss(INNER, network=CONFIG), make_batch()
    batch["keypoints"][0, 0] = torch.tensor([-15.0, 100.0])  # outside the crop, inside the outer window
    batch["keypoints"][0, 1] = torch.tensor([-60.0, 100.0])  # outside both
    batch["in_window"][0, :2] = 0
    output = model(torch.randn(2, 3, 256, 192))
    for value in output[:4] + output[-1:]:
        value.retain_grad()
    loss(output, batch)["total"].backward()
    assert not output.logits.grad[0, :2].any()
    assert output.outer_logits.grad[0, 0].any() and not output.outer_logits.grad[0, 1].any()
    assert output.presence.grad[0, 0] < 0 < output.presence.grad[0, 1]
    assert output.quality.grad[0, 0] != 0 and output.quality.grad[0, 1] == 0
    with pytest.raises(ValueError, match="must know of each other"):
        PoseLoss(INNER)(output, batch)


def test_info_and_checkpoint_carry_the_window(tmp_path):
    info = pose_info(CONFIG, "double")
    assert codec_of(info) == MERGED
    save_checkpoint(tmp_path / "d.pt", ProbPose(CONFIG), info)
    assert codec_of(load_checkpoint(tmp_path / "d.pt")[1]) == MERGED
    with pytest.raises(ValueError, match="a double heatmap is decoded with profile 'oks', got 'reference'"):
        pose_info(CONFIG, "double", decode_profile="reference")


def test_the_exported_file_works_in_the_runtime(tmp_path):
    model, info = random_model(CONFIG), pose_info(CONFIG, "double")
    for part in model.head.outer_layers.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.normal_(part.weight, std=0.3)
    export_pose(model, MERGED, info, tmp_path / "d.onnx", with_probmap=True)
    pose = PoseModel(tmp_path / "d.onnx")
    assert pose.codec == MERGED
    found = pose(example_crops(CONFIG.input_size))
    assert found.probmap.shape == (6, 17, 80, 60)
    np.testing.assert_allclose(found.probmap.sum((-2, -1)), 1, rtol=0, atol=1e-5)
    decoded = MERGED.decode(found.probmap)
    np.testing.assert_allclose(found.keypoints, decoded.keypoints, rtol=0, atol=0.25)
