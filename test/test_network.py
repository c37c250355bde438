"""The network against the golden vectors of the public implementation, and what its options promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_files import golden, layout, needs_reference, recipe

from probpose_ros.codec import Codec
from probpose_ros.geometry import CropTransform
from probpose_training.graph import PoseGraph, normalise
from probpose_training.network import PROBPOSE_S, NetworkConfig, ProbPose

TINY = NetworkConfig(
    backbone="vit",
    embed_dim=48,
    depth=2,
    heads=3,
    mlp_dim=192,
    head_width=32,
    scalar_heads="separate",
    error_branch=True,
)
CONFIGS = {"tiny": (TINY, "state_dict_tiny.txt"), "full": (PROBPOSE_S, "state_dict_ProbPose-s.txt")}
REFERENCE = Codec((192, 256), (48, 64), "reference")


def recipe_model(variant: str, final_scale: float) -> ProbPose:
    config, names = CONFIGS[variant]
    weights = recipe(layout(names), final_scale=final_scale)
    with torch.device("meta"):  # Without the time to draw initial weights.
        model = ProbPose(config).eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()}, assign=True)
    return model


@needs_reference
@pytest.mark.parametrize("variant", CONFIGS)
def test_state_dict_is_the_official_one(variant):
    config, names = CONFIGS[variant]
    with torch.device("meta"):
        model = ProbPose(config)
    found = [(key, tuple(v.shape), str(v.dtype).removeprefix("torch.")) for key, v in model.state_dict().items()]
    assert found == layout(names)
    if variant == "full":
        assert sum(p.numel() for p in model.parameters()) == 40_255_445


@needs_reference
@pytest.mark.parametrize("variant", CONFIGS)
@pytest.mark.parametrize("kind, final_scale", [("sharp", 1.0), ("broad", 0.05)])
def test_golden_network(variant, kind, final_scale):
    expected = golden(f"net_{variant}_{kind}.npz")
    model = recipe_model(variant, final_scale)
    if "weights_checksum" in expected:
        state = model.state_dict()
        for key, sums in zip(expected["weights_keys"], expected["weights_checksum"], strict=True):
            flat = state[str(key)].double().flatten()
            np.testing.assert_allclose([flat.sum(), flat.abs().sum(), flat[0], flat[-1]], sums, rtol=1e-6)
    crops = torch.from_numpy(expected["images_bgr_u8"])
    images = normalise(crops)
    with torch.no_grad():
        features = model.backbone(images)
        output = model(images)
        error = model.head.error_layers(features[0]).relu().flatten(1)
        tokens = model.backbone.patch_embed(images)
        plain, flipped = (PoseGraph(model, REFERENCE, flip)(crops) for flip in (False, True))
        features_flip = model.backbone(images.flip(-1))

    def close(found, name, tolerance):
        if name in expected:
            np.testing.assert_allclose(found.numpy(), expected[name], rtol=0, atol=tolerance, err_msg=name)

    close(images, "inputs", 1e-5)
    close(tokens, "tokens_after_patch_embed", 5e-5)
    close(features[0], "feat", 5e-5)
    close(features_flip[0], "feat_flip", 5e-5)
    close(output.logits, "logits", 5e-5)
    close(error, "err_raw", 5e-5)
    close(output.probmap(), "heatmaps", 5e-6 if kind == "broad" and variant == "tiny" else 2e-5)
    for name, key in (("presence", "prob"), ("visibility", "vis"), ("quality", "oks")):
        close(getattr(output, name).sigmoid(), key, 2e-5)
    close(flipped.probmap, "flip_heatmaps", 2e-5)
    for prefix, result in (("noflip", plain), ("flip", flipped)):
        close(result.presence[:, None], f"{prefix}_keypoints_probs", 2e-5)
        close(result.visibility[:, None], f"{prefix}_keypoints_visible", 2e-5)
        close(result.quality[:, None], f"{prefix}_keypoints_oks", 2e-5)
        check_keypoints(result, expected, prefix)


def check_keypoints(result, expected, prefix):
    """Keypoints in the reference's input px and in the image, wherever the best two cells differ clearly."""
    score = np.sort(REFERENCE.expected_oks(result.probmap.numpy()).reshape(2, 17, -1))
    clear = (score[..., -1] - score[..., -2]) / score[..., -1] > 1e-4
    assert clear.mean() > 0.8
    keypoints = result.keypoints.numpy()
    # The reference goes from the map to "input px" by 192/47 where the crop's pixels are 191/47 apart.
    reference_px = keypoints * [192 / 191, 256 / 255]
    np.testing.assert_allclose(
        reference_px[clear], expected[f"{prefix}_kpts_input_space"][:, 0][clear], rtol=0, atol=0.01
    )
    conf = expected[f"{prefix}_keypoints_conf"][:, 0]
    np.testing.assert_allclose(result.peak.numpy()[clear], conf[clear], rtol=0, atol=2e-5)
    for i in range(2):
        window = CropTransform(expected["input_center"][i], expected["input_scale"][i], (192, 256))
        found = window.to_image(keypoints[i])[clear[i]]
        np.testing.assert_allclose(found, expected[f"{prefix}_keypoints"][i, 0][clear[i]], rtol=0, atol=0.01)


@needs_reference
def test_golden_tiny_weights_are_the_recipe():
    from reference_files import FOLDER

    stored = torch.load(FOLDER / "golden/net_tiny_weights.pth", weights_only=True)
    made = recipe(layout("state_dict_tiny.txt"))
    assert list(stored) == list(made)
    assert all(np.array_equal(stored[key].numpy(), made[key]) for key in made)


SMALL = {"widths": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "head_width": 16, "scalar_width": 16}
TINY_LIGHT = {"backbone": "vit", "embed_dim": 24, "depth": 1, "heads": 2, "mlp_dim": 32, "head_width": 16}
VARIANTS = [
    NetworkConfig(**SMALL),
    NetworkConfig(**SMALL, input_size=(144, 192)),
    NetworkConfig(**SMALL, double_heatmap=True),
    NetworkConfig(**SMALL, map_activation="heatmap"),
    NetworkConfig(**TINY_LIGHT, input_size=(96, 128)),
    NetworkConfig(**TINY_LIGHT, scalar_heads="separate", double_heatmap=True),
]


@pytest.mark.parametrize("config", VARIANTS)
def test_shapes_and_distributions(config):
    model = ProbPose(config).eval()
    width, height = config.input_size
    output = model(torch.randn(2, 3, height, width))
    maps = [output.probmap()] + ([output.outer_probmap()] if config.double_heatmap else [])
    for probmap in maps:
        assert probmap.shape == (2, 17, height // 4, width // 4)
        assert (probmap >= 0).all()
        torch.testing.assert_close(probmap.sum((-2, -1)), torch.ones(2, 17))
    for scalar in (output.presence, output.visibility, output.quality):
        assert scalar.shape == (2, 17)


@pytest.mark.parametrize("base", [SMALL, TINY_LIGHT, {**TINY_LIGHT, "scalar_heads": "separate"}])
@pytest.mark.parametrize("detach", [True, False])
def test_detached_scalars_do_not_train_the_features(base, detach):
    torch.manual_seed(0)
    model = ProbPose(NetworkConfig(**base, detach_scalars=detach))
    for parameter in model.parameters():  # The official start has all-but-zero weights, which hide gradients.
        torch.nn.init.normal_(parameter, std=0.1)
    output = model(torch.randn(2, 3, 256, 192))
    (output.presence.sum() + output.visibility.sum() + output.quality.sum()).backward()
    trained = any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.parameters())
    assert trained is not detach
    assert model.head.final_layer.weight.grad is None or not detach


def test_bundled_size():
    parameters = sum(p.numel() for p in ProbPose().parameters())
    assert parameters * 2 <= 8e6, "fp16 weights of the default network must fit in 8 MB"


@pytest.mark.parametrize(
    "values, message",
    [
        ({"backbone": "resnet"}, "backbone must be one of conv, efficientnet_lite, vit, got 'resnet'"),
        ({"input_size": (190, 256)}, "input_size must be two multiples of 16 px"),
        ({"scalar_heads": "separate"}, "needs backbone 'vit'"),
        ({"backbone": "vit", "heads": 7}, "embed_dim must be a multiple of heads"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"widht": 3}, "unknown network option 'widht'"),
    ],
)
def test_bad_config_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        NetworkConfig.from_mapping(values)
