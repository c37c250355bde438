"""Keypoints <-> maps: recorded vectors for the reference profile, properties for both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_files import FOLDER, golden

from probpose_ros.codec import Codec
from probpose_ros.geometry import CropTransform
from probpose_ros.oks import oks, oks_variance
from probpose_ros.skeleton import NUM_KEYPOINTS

CROP, MAP = (192, 256), (48, 64)


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    if not FOLDER.is_dir():
        pytest.skip("the reference folder ../shared is not there")
    return golden("decode.npz")


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(CROP, MAP, "reference")


@pytest.fixture(scope="module")
def decoded(vectors, codec):
    """Decoded keypoints, peak and expected OKS of the recorded maps; each map has a keypoint index of its own."""
    rows, k = np.arange(len(vectors["maps"])), vectors["keypoint_index"]
    maps = np.zeros((len(rows), NUM_KEYPOINTS, *MAP[::-1]), np.float32)
    maps[rows, k] = vectors["maps"]
    result = codec.decode(maps)
    return result.keypoints[rows, k], result.peak[rows, k], result.expected_oks[rows, k]


def clear_peaks(vectors) -> np.ndarray:
    """Maps whose two best cells do not tie: between ties an implementation may choose."""
    clear = vectors["rel_margin_top1_top2"] >= 1e-4
    assert clear.sum() > 30
    return clear


def test_reference_points_in_map_px(vectors, codec, decoded):
    clear = clear_peaks(vectors)
    np.testing.assert_allclose(codec.to_map(decoded[0])[clear], vectors["heatmap_xy"][clear], atol=0.002)


def test_reference_points_in_image_px(vectors, decoded):
    # The public code's crop px are 192/191 too large and its way back to the image undoes that; only the composite is
    # comparable.
    for i in np.flatnonzero(clear_peaks(vectors)):
        found = CropTransform(vectors["center"][i], vectors["scale"][i], CROP).to_image(decoded[0][i])
        np.testing.assert_allclose(found, vectors["image_xy"][i], atol=0.002 * vectors["scale"][i].max() / 47)


def test_reference_peak_and_expected_oks(vectors, decoded):
    clear = clear_peaks(vectors)
    np.testing.assert_allclose(decoded[1][clear], vectors["scores"][clear], atol=1e-7)
    np.testing.assert_allclose(decoded[2][clear], vectors["exp_oks_peak"][clear], atol=1e-6)


def test_reference_ties_take_the_first_cell(codec):
    flat = np.full((NUM_KEYPOINTS, *MAP[::-1]), 1 / (MAP[0] * MAP[1]), np.float32)
    zeros = np.zeros_like(flat)
    assert not codec.decode(zeros).keypoints.any()
    assert not codec.decode(zeros).peak.any()
    # A flat map's scores differ by rounding only: any cell is as good, but the score is that of a flat map.
    np.testing.assert_allclose(codec.decode(flat).expected_oks, flat[0, 0, 0], rtol=1e-5)


def test_reference_expected_oks_maps(vectors, codec):
    assert vectors["keypoint_index"][:17].max() < NUM_KEYPOINTS
    for i, k in enumerate(vectors["keypoint_index"][:17]):
        maps = np.zeros((NUM_KEYPOINTS, *MAP[::-1]), np.float32)
        maps[k] = vectors["maps"][i]
        np.testing.assert_allclose(codec.expected_oks(maps)[k], vectors["exp_oks_maps_first17"][i], atol=1e-6)


def test_reference_kernels(vectors, codec):
    ky, kx = codec.kernels
    for k in range(NUM_KEYPOINTS):
        radius = int(vectors["kernel_radius"][k])
        row = slice(20 - radius, 21 + radius)
        np.testing.assert_allclose(np.outer(ky[k, 20, row], kx[k, 20, row]), vectors[f"kernel_{k}"], atol=1e-6)


@pytest.mark.parametrize("profile", ["oks", "reference"])
def test_crop_and_map_px_are_exact_inverses(profile):
    codec = Codec(CROP, MAP, profile)
    points = np.random.default_rng(0).uniform(-300, 500, (1000, 2))
    np.testing.assert_allclose(codec.to_crop(codec.to_map(points)), points, atol=1e-9)
    assert codec.to_map(np.array([191, 255])).tolist() == [47, 63]


def test_encode_is_oks():
    # In crop px, with the area of a person who fills the window up to its padding.
    codec = Codec(CROP, MAP)
    keypoints = np.random.default_rng(1).uniform([0, 0], CROP, (NUM_KEYPOINTS, 2))
    found = codec.encode(keypoints)
    cells = np.stack(np.meshgrid(np.arange(48), np.arange(64)), axis=-1)
    for k in range(NUM_KEYPOINTS):
        squared = ((cells - codec.to_map(keypoints[k])) ** 2).sum(-1)
        variance = oks_variance(0.53 * 48 * 64 / 1.25**2)[k]
        np.testing.assert_allclose(found[k], oks(squared, variance), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_round_trip_of_interior_points(seed):
    codec = Codec(CROP, MAP)
    points = np.random.default_rng(seed).uniform([0.15, 0.15], [0.85, 0.85], (NUM_KEYPOINTS, 2)) * (np.array(MAP) - 1)
    # A narrow map around the point, as a sure network would give: its mass lies on the four cells around it.
    low, part = np.floor(points).astype(int), points % 1
    maps = np.zeros((NUM_KEYPOINTS, MAP[1], MAP[0]), np.float32)
    k = np.arange(NUM_KEYPOINTS)
    for dx, dy in np.ndindex(2, 2):
        weight = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
        maps[k, low[:, 1] + dy, low[:, 0] + dx] += weight.astype(np.float32)
    found = codec.to_map(codec.decode(maps).keypoints)
    assert np.abs(found - points).max() < 0.05


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_encoded_targets_decode_to_their_keypoints(seed):
    codec = Codec(CROP, MAP)
    # Interior: so far from the border that the target's Gaussian is not cut there, which shifts its maximum.
    far = 3 * np.sqrt(codec.variance)[:, None]
    low, high = far, np.array(MAP) - 1 - far
    points = low + np.random.default_rng(seed).uniform(0, 1, (NUM_KEYPOINTS, 2)) * (high - low)
    target = codec.encode(codec.to_crop(points))
    maps = target / target.sum((-2, -1), keepdims=True)
    assert np.abs(codec.to_map(codec.decode(maps).keypoints) - points).max() < 0.05


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_expected_oks_is_the_brute_force_sum(seed):
    small = Codec((48, 64), (12, 16))
    rng = np.random.default_rng(seed)
    maps = rng.uniform(0, 1, (NUM_KEYPOINTS, 16, 12)) * (rng.uniform(size=(NUM_KEYPOINTS, 16, 12)) < 0.2)
    maps /= maps.sum((1, 2), keepdims=True)
    cells = np.stack(np.meshgrid(np.arange(12), np.arange(16)), axis=-1).reshape(-1, 2)
    squared = ((cells[:, None] - cells[None]) ** 2).sum(-1)
    for k, expected in enumerate(small.expected_oks(maps)):
        brute = oks(squared, small.variance[k]) @ maps[k].ravel()
        np.testing.assert_allclose(expected.ravel(), brute, atol=1e-6)


def test_decoded_expected_oks_is_the_best_there_is():
    codec = Codec(CROP, MAP)
    rng = np.random.default_rng(3)
    maps = rng.gamma(0.05, size=(2, NUM_KEYPOINTS, 64, 48)).astype(np.float32)
    maps /= maps.sum((-2, -1), keepdims=True)
    result = codec.decode(maps)
    np.testing.assert_array_equal(result.expected_oks, codec.expected_oks(maps).max((-2, -1)))
    assert result.keypoints.shape == (2, NUM_KEYPOINTS, 2)


def test_wrong_shapes_and_names_are_refused():
    with pytest.raises(ValueError, match="profile must be one of oks, reference, got 'dark'"):
        Codec(CROP, MAP, "dark")
    with pytest.raises(ValueError, match="at least 3 x 3"):
        Codec(CROP, (2, 64))
    with pytest.raises(ValueError, match=r"\(17, 64, 48\), got shape \(17, 48, 64\)"):
        Codec(CROP, MAP).decode(np.zeros((17, 48, 64)))
