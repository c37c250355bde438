"""The crop kernel: its source, compiled for the CPU, gives OpenCV's bytes; and CUDA's compilers take it."""

from __future__ import annotations

import shutil
import subprocess

import cv2
import numpy as np
import pytest
from tensorrt_double import cpu_kernel

from probpose_ros.backends.gpu_crop import SOURCE, inverted
from probpose_ros.geometry import CropTransform

BLOCK = (32, 8, 1)
# OpenCV 5 interpolates without the steps of 1/32 px that versions up to 4 round to; then neighbours may differ.
EXACT = int(cv2.__version__.split(".")[0]) < 5
pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++, to compile the kernel for the CPU")


def cut(image: np.ndarray, transforms: list[CropTransform]) -> np.ndarray:
    width, height = transforms[0].crop_size
    crops = np.full((len(transforms), height, width, 3), 77, np.uint8)
    to_image = np.stack([inverted(transform.matrix) for transform in transforms])
    grid = (-(-width // BLOCK[0]), -(-height // BLOCK[1]), len(transforms))
    cpu_kernel()(image, to_image, crops, *image.shape[:2], height, width, BLOCK, grid)
    return crops


def assert_as_opencv(image: np.ndarray, transforms: list[CropTransform]) -> None:
    for transform, crop in zip(transforms, cut(image, transforms)):
        expected = transform.warp(image)
        if EXACT:
            assert np.array_equal(crop, expected), transform
        else:
            assert np.abs(crop.astype(int) - expected).mean() < 1.5, transform


@pytest.mark.parametrize("seed", range(20))
def test_any_window_of_any_image(seed):
    """Noise, in which every wrong weight and every place off by one shows; windows inside, across and outside."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 300, 2)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = (int(random.integers(2, 200)), int(random.integers(2, 260)))
    transforms = []
    for _ in range(4):
        corner = random.uniform(-0.5, 1, 2) * (width, height)
        box = np.concatenate([corner, corner + random.uniform(0.5, 400, 2)])
        transforms.append(CropTransform.from_bbox(box, size, rotation=random.choice([0, random.uniform(-3, 3)])))
    assert_as_opencv(image, transforms)


@pytest.mark.parametrize("box", [
    (0, 0, 191, 255), (0.5, 0.5, 190.5, 254.5), (-1000, -1000, -900, -900), (-1, -1, 0, 0),
    (100, 100, 100.001, 100.001),
    (0, 0, 1919, 1079), (-5000, -5000, 7000, 7000), (1900, 1060, 1940, 1100), (1 / 3, 1 / 7, 400 / 3, 800 / 7),
], ids=str)  # fmt: skip
def test_windows_at_the_edges(box):
    """Places on the borders between two roundings, single pixels, a whole frame, a window far larger than it."""
    image = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    assert_as_opencv(image, [CropTransform.from_bbox(np.array(box, float), (192, 256), padding=1.0)])


def test_a_window_that_is_the_crop_is_copied():
    image = np.random.default_rng(0).integers(0, 256, (256, 192, 3), dtype=np.uint8)
    (crop,) = cut(image, [CropTransform(np.array([95.5, 127.5]), np.array([191.0, 255.0]), (192, 256))])
    assert np.array_equal(crop, image)


def test_inverse_is_that_of_the_transform():
    transform = CropTransform.from_bbox(np.array([10.0, 20, 300, 200]), (48, 64), rotation=0.7)
    np.testing.assert_allclose(
        inverted(transform.matrix).reshape(2, 3), transform.inverse_matrix, rtol=1e-12, atol=1e-9
    )


@pytest.mark.parametrize("sm", [75, 87, 90, 110])
@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc of the CUDA toolkit")
def test_nvcc_compiles_it(tmp_path, sm):
    """87: Orin, 110: Thor. A compiler that does not know the architecture is skipped, with what it said."""
    (tmp_path / "crop.cu").write_text(SOURCE)
    command = ["nvcc", "--cubin", "-arch", f"sm_{sm}", "-Werror", "all-warnings", "-Xptxas", "-v", "crop.cu"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if "is not defined for option" in answer.stderr or "Unsupported gpu architecture" in answer.stderr:
        pytest.skip(answer.stderr.strip())
    assert answer.returncode == 0, answer.stderr
    assert b"cut_crops" in (tmp_path / "crop.cubin").read_bytes()
    assert "0 bytes spill stores" in answer.stderr
