"""The EfficientNet-Lite backbone: quick depthwise gradients, and published weights in our names."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from probpose_training.backbones import EfficientNetLite  # noqa: E402
from probpose_training.depthwise import DepthwiseConv2d  # noqa: E402
from probpose_training.graph import MEAN, STD  # noqa: E402
from probpose_training.network import NetworkConfig, ProbPose  # noqa: E402
from probpose_training.pretrained import InputScale, load_pretrained  # noqa: E402

LITE0 = {"backbone": "efficientnet_lite", "widths": (16, 24, 40, 80, 112, 192), "depths": (1, 2, 2, 3, 3, 4)}
SCALE = InputScale(MEAN, STD)


@pytest.mark.parametrize(
    ("side", "stride", "size"), [(3, 1, (7, 9)), (3, 2, (8, 10)), (5, 1, (6, 6)), (5, 2, (8, 12)), (5, 2, (7, 9))]
)
def test_depthwise_gradients_are_those_of_plain_convolution(side, stride, size):
    torch.manual_seed(0)
    conv = DepthwiseConv2d(6, side, stride)
    x = torch.randn(3, 6, *size).to(memory_format=torch.channels_last)
    # Numbers that bfloat16 holds exactly, so that only the accumulation differs.
    x, weight = x.bfloat16().float(), conv.weight.detach().bfloat16().float()
    conv.weight.data.copy_(weight)
    ours = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(ours)
    g = torch.randn(y.shape).bfloat16().float()
    (y.float() * g).sum().backward()
    plain, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
    z = F.conv2d(plain, w, stride=stride, padding=side // 2, groups=6)
    (z * g).sum().backward()
    for mine, truth in ((y, z), (ours.grad, plain.grad), (conv.weight.grad, w.grad)):
        assert (mine.float() - truth).abs().max() < 0.01 * truth.abs().max()


def published(backbone: EfficientNetLite) -> dict:
    """Random weights in the published layout."""
    state, number = {}, 0
    pairs = [("_conv_stem", backbone.stem[0]), ("_bn0", backbone.stem[1])]
    for stage in backbone.stages:
        for block in stage:
            layers = [layer for layer in block.layers if not isinstance(layer, torch.nn.ReLU6)]
            names = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")[-len(layers) :]
            pairs += [(f"_blocks.{number}.{name}", layer) for name, layer in zip(names, layers, strict=True)]
            number += 1
    for name, layer in pairs:
        for key, value in layer.state_dict().items():
            state[f"{name}.{key}"] = torch.rand(value.shape) + 0.5 if value.ndim else value
    return state | {"_conv_head.weight": torch.rand(1280, 320, 1, 1)}


@pytest.mark.parametrize("bgr", [False, True])
def test_published_weights_see_what_they_were_trained_on(tmp_path, bgr):
    """The first layers of the published network, written out by hand, on (RGB - 127) / 128."""
    torch.manual_seed(0)
    model = ProbPose(NetworkConfig(input_size=(64, 64), **LITE0)).eval()
    state = published(model.backbone)
    torch.save(state, tmp_path / "lite0.pth")
    load_pretrained(model, tmp_path / "lite0.pth", InputScale(MEAN, STD, bgr))
    pixels = torch.rand(1, 3, 32, 32) * 255
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]

    x = F.conv2d((pixels - 127) / 128, state["_conv_stem.weight"], stride=2, padding=1)
    bn = [state[f"_bn0.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    x = F.batch_norm(x, *bn, eps=1e-3).clamp(0, 6)
    given = (pixels - mean) / std
    ours = model.backbone.stem(given.flip(1) if bgr else given)
    # The border differs: zeros there mean another colour.
    torch.testing.assert_close(ours[..., 1:, 1:], x[..., 1:, 1:], rtol=1e-4, atol=1e-4)

    first = {k[len("_blocks.0.") :]: v for k, v in state.items() if k.startswith("_blocks.0.")}
    x = F.conv2d(ours, first["_depthwise_conv.weight"], padding=1, groups=32)
    for name, conv in (("_bn1", None), ("_bn2", first["_project_conv.weight"])):
        x = x if conv is None else F.conv2d(x, conv)
        bn = [first[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *bn, eps=1e-3)
        x = x.clamp(0, 6) if conv is None else x
    torch.testing.assert_close(model.backbone.stages[0](ours), x, rtol=1e-4, atol=1e-4)


def test_frozen_stages_keep_weights_and_statistics():
    model = ProbPose(NetworkConfig(input_size=(64, 64), frozen_stages=2, **LITE0)).train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(2, 3, 64, 64)).logits.square().sum().backward()
    optimizer.step()
    changed = {name for name, value in model.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith(("stem.", "stages.0.", "stages.1."))]


def test_start_from_a_network_of_another_size(tmp_path):
    small = ProbPose(NetworkConfig(input_size=(48, 64), **LITE0))
    torch.save({"state_dict": small.state_dict()}, tmp_path / "model.pt")
    large = ProbPose(NetworkConfig(input_size=(96, 128), **LITE0))
    said = load_pretrained(large, tmp_path / "model.pt", SCALE)
    assert torch.equal(large.head.final_layer.weight, small.head.final_layer.weight)
    assert f"{len(small.state_dict()) - 1} of {len(small.state_dict())} tensors" in said  # but the scalars' first layer


@pytest.mark.parametrize("what", ["missing", "other network", "conv"])
def test_weights_that_do_not_fit_are_refused(tmp_path, what):
    model = ProbPose(NetworkConfig(input_size=(64, 64), **LITE0))
    state = published(model.backbone)
    if what == "missing":
        del state["_blocks.5._bn1.running_var"]
    elif what == "other network":
        state = {"weight": torch.zeros(3)}
    else:
        model = ProbPose(NetworkConfig(input_size=(64, 64)))
    torch.save(state, tmp_path / "weights.pth")
    names = {"missing": "stages", "other network": "no tensor", "conv": "efficientnet_lite"}
    with pytest.raises(ValueError, match=names[what]):
        load_pretrained(model, tmp_path / "weights.pth", SCALE)
