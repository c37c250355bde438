"""Losses: golden values and gradients of the public implementation, and the promises of PoseLoss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_files import FOLDER, golden, needs_reference
from test_network import TINY

from probpose_ros.codec import Codec
from probpose_training.decode import ExpectedOksDecode
from probpose_training.losses import (
    LossConfig,
    PoseLoss,
    bce,
    class_balance,
    encode_targets,
    in_map,
    oks_map_loss,
    quality_loss,
    quality_variance,
    reachable,
    sobel,
    sparsemax_loss,
)
from probpose_training.network import NetworkOutput, ProbPose
from probpose_training.sparsemax import sparsemax

REFERENCE = Codec((192, 256), (48, 64), "reference")
OUTER = REFERENCE.outer(1.25)
OKS = Codec((192, 256), (48, 64))


def tensors(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(value) for key, value in golden(name).items() if value.dtype.kind in "fib"}


@needs_reference
def test_golden_targets():
    data = tensors("loss.npz")
    keypoints, annotated = data["keypoints_input"], data["visible"]
    target = encode_targets(keypoints, REFERENCE) * annotated[..., None, None]
    torch.testing.assert_close(target, data["target"], rtol=0, atol=1e-5)
    assert torch.equal(reachable(keypoints, REFERENCE) * annotated, data["keypoint_weights"])
    np.testing.assert_allclose(REFERENCE.to_map(keypoints.numpy()), data["heatmap_keypoints"], rtol=0, atol=1e-4)


@needs_reference
def test_golden_double_heatmap_codec():
    data = golden("loss.npz")
    keypoints, annotated = data["keypoints_input"], data["visible"]
    for codec, name in ((REFERENCE, "in"), (OUTER, "out")):
        np.testing.assert_allclose(codec.to_map(keypoints), data[f"dh_{name}_xy"], rtol=0, atol=1e-4)
        target = codec.encode(keypoints) * annotated[..., None, None]
        np.testing.assert_allclose(target.sum((-2, -1)), data[f"dh_{name}_target_sum"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(target[0], data["dh_out_target_b0"], rtol=0, atol=1e-5)
    points = OUTER.to_map(keypoints)
    assert np.array_equal(((points >= 0) & (points < [48, 64])).all(-1), data["dh_in_window"])
    assert np.array_equal(in_map(torch.tensor(keypoints), OUTER).numpy() > 0, data["dh_in_window"])
    weights = reachable(torch.tensor(keypoints), OUTER).numpy() * annotated
    assert np.array_equal(weights, data["dh_out_kpt_weights"])
    # The reference's way back is off by size / (size - 1); ours is the inverse of the way there.
    cells, size, corner = data["dh_dec_heatmap_xy"], np.array([240, 320]), np.array([24, 32])
    outer = (OUTER.to_crop(cells) + corner) * size / (size - 1) - corner
    np.testing.assert_allclose(outer, data["dh_dec_out_input_xy"], rtol=0, atol=1e-4)
    inner = REFERENCE.to_crop(cells) * np.array([192 / 191, 256 / 255])
    np.testing.assert_allclose(inner, data["dh_dec_in_input_xy"], rtol=0, atol=1e-4)


GOLDEN_CONFIGS = {
    "cfg": {"alpha": 0.05},
    "smooth0.2": {"alpha": 0.2},
    "nosmooth": {"alpha": 0.0},
    "plus": {"alpha": 0.05, "risk": "plus"},
    "both_mse": {"alpha": 0.05, "risk": "both", "gamma": 0.1},
}


@needs_reference
@pytest.mark.parametrize("name", GOLDEN_CONFIGS)
def test_golden_map_loss(name):
    data = tensors("loss.npz")
    weight = data["keypoint_weights"]

    def loss(p, reduction):
        config = LossConfig(reduction=reduction, **GOLDEN_CONFIGS[name])
        return weight * oks_map_loss(p, data["target"], config)

    def close(found, key, rtol, atol=0.0):
        torch.testing.assert_close(found, data[f"{name}_{key}"], rtol=rtol, atol=atol)

    close(loss(data["probmaps"], "pixel").mean(), "per_pixel_loss", 1e-5)
    close(loss(data["probmaps"], "keypoint").mean(), "per_keypoint_loss", 1e-5)
    close(loss(data["probmaps"], "keypoint").mean(), "default_loss", 1e-5)
    summed = loss(data["probmaps"], "sum")
    torch.testing.assert_close(summed, 3072 * loss(data["probmaps"], "pixel"))
    if name != "cfg":
        return
    close(loss(data["probmaps"], "keypoint"), "per_keypoint", 1e-5)
    p, t = data["probmaps"][0, 0], data["target"][0, 0]
    close(0.95 * p * (1 - t) + 0.05 * sobel(p), "per_pixel_map_b0k0", 1e-5, 1e-9)
    for reduction, key in (("pixel", "per_pixel"), ("keypoint", "default")):
        probmaps = data["probmaps"].clone().requires_grad_()
        loss(probmaps, reduction).mean().backward()
        close(probmaps.grad, f"{key}_grad_probmaps", 1e-4, 1e-10)
    logits = data["logits"].clone().requires_grad_()
    probmaps = sparsemax(logits.flatten(2) / 0.5).view_as(logits)
    torch.testing.assert_close(probmaps, data["probmaps"], rtol=0, atol=1e-6)
    loss(probmaps, "pixel").mean().backward()
    close(logits.grad, "per_pixel_grad_logits", 1e-4, 1e-10)


@needs_reference
def test_golden_head():
    """The whole loss through the official head: values, and which parameters each part trains."""
    data = tensors("loss.npz")
    model = ProbPose(TINY).eval()
    model.head.load_state_dict(torch.load(FOLDER / "golden/loss_head_weights.pth", weights_only=True))
    features = data["head_feat"].clone().requires_grad_()
    output = model.head([features])
    torch.testing.assert_close(output.probmap(), data["head_heatmaps"], rtol=0, atol=2e-5)
    for name, key in (("presence", "prob"), ("visibility", "vis"), ("quality", "oks")):
        torch.testing.assert_close(getattr(output, name).sigmoid(), data[f"head_{key}"], rtol=0, atol=2e-5)

    annotated, inside = data["visible"], data["in_window"].float()
    batch = {
        "keypoints": data["keypoints_input"],
        "annotated": annotated,
        "in_window": inside,
        "visible": data["visibility"],
        "visible_weight": annotated,
    }
    loss = PoseLoss(REFERENCE, LossConfig(reduction="pixel", train_outside=True, official_area=True))
    losses = loss(output, batch)
    torch.testing.assert_close(losses["map"], data["head_loss_kpt"], rtol=1e-5, atol=0)
    # The recorded presence and visibility losses start from probabilities already rounded to float32; from those,
    # ours are the same. From logits, as in training, they are the same but for that rounding.
    rounded = {key: data[f"head_{key}"].double().logit() for key in ("prob", "vis")}
    balanced = annotated * class_balance(data["visibility"], annotated)
    for found, key in (
        (bce(rounded["prob"], inside, annotated), "head_loss_probability"),
        (bce(rounded["vis"], data["visibility"], balanced), "head_loss_visibility"),
    ):
        torch.testing.assert_close(found, data[key], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["presence"], data["head_loss_probability"], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses["visibility"], data["head_loss_visibility"], rtol=1e-4, atol=0)
    quality = quality_loss(output.quality, data["head_gt_oks"], annotated * inside)
    torch.testing.assert_close(quality, data["head_loss_oks"], rtol=1e-5, atol=0)

    for name, key in (("map", "kpt"), ("presence", "probability"), ("visibility", "visibility"), ("quality", "oks")):
        model.zero_grad()
        features.grad = None
        losses[name].backward(retain_graph=True)
        trained = {n.split(".")[0] for n, p in model.head.named_parameters() if p.grad is not None and p.grad.any()}
        assert trained == set(golden("loss.npz")[f"head_loss_{key}_params_with_grad"])
        total = 0.0 if features.grad is None else features.grad.abs().sum().item()
        assert total == pytest.approx(data[f"head_loss_{key}_featgrad_abs_sum"].item(), rel=1e-4)


@needs_reference
def test_golden_quality_target():
    data = tensors("loss.npz")
    variance = quality_variance(REFERENCE, official=True)
    for found, key in (("head_argmax_xy", "head_gt_oks"), ("probmaps_argmax_dark_xy", "oks_target_from_probmaps")):
        oks = torch.exp(-(data[found] - data["target_argmax_xy"]).square().sum(-1) / (2 * variance))
        counted = data["in_window"] & (data["visible"] > 0)
        torch.testing.assert_close(oks[counted], data[key][counted], rtol=0, atol=1e-5)


def test_quality_is_ten_times_less_strict_than_the_public_one():
    ratio = quality_variance(OKS) / quality_variance(OKS, official=True)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 16 / 1.5625))


@pytest.mark.parametrize("codec", [OKS, REFERENCE, OUTER, OKS.outer(1.25), OKS.extended(1.25)])
def test_targets_and_decode_are_the_codecs(codec):
    random = np.random.default_rng(3)
    keypoints = random.uniform(-20, 210, (4, 17, 2)).astype(np.float32)
    found = encode_targets(torch.tensor(keypoints), codec).numpy()
    np.testing.assert_allclose(found, codec.encode(keypoints), rtol=0, atol=1e-5)
    w, h = codec.map_size
    logits = torch.tensor(random.standard_normal((4, 17, w * h)) * 2, dtype=torch.float32)
    probmaps = sparsemax(logits).view(4, 17, h, w)
    decoded = codec.decode(probmaps.numpy())
    keypoints, peak = ExpectedOksDecode(codec)(probmaps)
    np.testing.assert_allclose(keypoints.numpy(), decoded.keypoints, rtol=0, atol=0.02)
    np.testing.assert_allclose(peak.numpy(), decoded.peak, rtol=0, atol=1e-7)


def make_output(batch: int = 2) -> NetworkOutput:
    torch.manual_seed(0)
    logits = torch.randn(batch, 17, 64, 48).requires_grad_()
    scalars = [torch.randn(batch, 17).requires_grad_() for _ in range(3)]
    return NetworkOutput(logits, *scalars, temperature=0.5, activation="sparsemax")


def make_batch(batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ones = torch.ones(batch, 17)
    return {
        "keypoints": torch.rand(batch, 17, 2, generator=generator) * 190,
        "annotated": ones.clone(),
        "in_window": ones.clone(),
        "visible": (torch.rand(batch, 17, generator=generator) > 0.5).float(),
        "visible_weight": ones.clone(),
    }


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(map_loss="mse"), LossConfig(train_outside=True)])
def test_unlabelled_is_never_taken_for_absent(config):
    output, batch = make_output(), make_batch()
    batch["annotated"][0, 3] = batch["visible_weight"][0, 3] = 0
    batch["in_window"][0, 3] = 0
    PoseLoss(OKS, config)(output, batch)["total"].backward()
    for tensor in (output.logits, output.presence, output.visibility, output.quality):
        assert not tensor.grad[0, 3].any()
        assert tensor.grad[0, 4].any()


def test_outside_the_window_only_presence_is_trained():
    output, batch = make_output(), make_batch()
    batch["keypoints"][1, 5] = torch.tensor([250.0, 100.0])
    batch["in_window"][1, 5] = 0
    PoseLoss(OKS)(output, batch)["total"].backward()
    assert output.presence.grad[1, 5] > 0
    assert not output.logits.grad[1, 5].any() and not output.quality.grad[1, 5].any()


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(map_loss="mse", target_profile="reference")])
def test_a_teacher_map_acts_like_the_label_it_equals(config):
    loss, batch = PoseLoss(OKS, config), make_batch()
    labelled = loss(make_output(), batch)["map"]
    taught = {**batch, "annotated": torch.zeros(2, 17), "target_weight": torch.ones(2, 17)}
    taught["target_maps"] = encode_targets(batch["keypoints"], loss.target_codec)
    torch.testing.assert_close(loss(make_output(), taught)["map"], labelled)
    both = loss(make_output(), {**taught, "annotated": torch.ones(2, 17)})["map"]
    torch.testing.assert_close(both, 2 * labelled)


def test_split_batches_add_up():
    """Halves of a batch give the same map and presence gradient as the whole: no mean depends on the labels."""
    output, batch = make_output(), make_batch()
    batch["annotated"][0, :9] = batch["visible_weight"][0, :9] = 0
    loss = PoseLoss(OKS, LossConfig(balance_visibility=False))
    whole = loss(output, batch)["total"]
    halves = [
        loss(
            output._replace(**{name: getattr(output, name)[i : i + 1] for name in output._fields[:4]}),
            {key: value[i : i + 1] for key, value in batch.items()},
        )["total"]
        for i in range(2)
    ]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_class_balance():
    visible = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]])
    assert class_balance(visible, weight).tolist() == [[1.0, 1.0, 1.0, 3.0, 3.0]]
    assert torch.isfinite(weight * class_balance(torch.ones(1, 5), weight)).all()
    assert torch.isfinite(0 * class_balance(visible, 0 * weight)).all()


def test_gradient_descent_on_the_loss_finds_the_keypoint():
    batch = make_batch(1)
    logits = torch.zeros(1, 17, 64, 48, requires_grad=True)
    scalars = [torch.zeros(1, 17, requires_grad=True) for _ in range(3)]
    loss = PoseLoss(OKS)
    optimizer = torch.optim.Adam([logits, *scalars], lr=0.05)
    for _ in range(60):
        output = NetworkOutput(logits, *scalars, temperature=0.5, activation="sparsemax")
        optimizer.zero_grad()
        loss(output, batch)["total"].backward()
        optimizer.step()
    keypoints, _ = loss.decode(output.probmap().detach())
    assert (keypoints - batch["keypoints"]).norm(dim=-1).max() < 4
    assert (output.presence > 0).all()


def test_sparsemax_loss_gradient_and_minimum():
    z = torch.randn(1, 2, 8, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.rand(1, 2, 8, 6, generator=torch.Generator().manual_seed(1))
    p = sparsemax(z.flatten(2)).view_as(z)
    loss = sparsemax_loss(z, p, target)
    q = target / target.sum((-2, -1), keepdim=True)
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    torch.testing.assert_close(gradient, p - q)
    assert (loss > 0).all()
    torch.testing.assert_close(sparsemax_loss(q, q, target), torch.zeros(1, 2))
