"""Image <-> crop, against recorded vectors of the public implementation and against itself."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_files import FOLDER, golden

from probpose_ros.geometry import CropTransform, bbox_to_window, in_window

CROP = (192, 256)


@pytest.fixture(scope="module")
def affine() -> dict[str, np.ndarray]:
    if not FOLDER.is_dir():
        pytest.skip("the reference folder ../shared is not there")
    return golden("affine.npz")


def test_window_of_a_bbox(affine):
    center, size = bbox_to_window(affine["boxes_xyxy"], CROP[0] / CROP[1])
    np.testing.assert_allclose(center, affine["center"], atol=1e-4)
    np.testing.assert_allclose(size, affine["scale"], atol=1e-4)
    np.testing.assert_allclose(
        [CropTransform(c, s, CROP).window for c, s in zip(center, size, strict=True)],
        affine["activation_window_xyxy_pad1_25"], atol=1e-3,
    )  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
def test_matrix(affine, turned):
    expected = affine["matrix_rot" if turned else "matrix"]
    angles = np.deg2rad(affine["rotation_deg"]) if turned else np.zeros(len(expected))
    for center, size, angle, matrix in zip(affine["center"], affine["scale"], angles, expected, strict=True):
        found = CropTransform(center, size, CROP, angle).matrix
        np.testing.assert_allclose(found, matrix, rtol=1e-5, atol=1e-5 * np.abs(matrix).max())


def test_keypoints(affine):
    for center, size, expected in zip(affine["center"], affine["scale"], affine["keypoints_input"], strict=True):
        found = CropTransform(center, size, CROP).to_crop(affine["keypoints_image"])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("turned", [False, True])
def test_warp(affine, turned):
    # The vectors were recorded with OpenCV 4.11; 4.11 to 4.13 give the same pixels (turned ones to one grey level: the
    # recorded matrix was rounded to float32). OpenCV 5 no longer rounds the weights to steps of 1/32 px.
    expected = affine["warped_rot_first4" if turned else "warped_bgr_first8"]
    angles = np.deg2rad(affine["rotation_deg"]) if turned else np.zeros(16)
    tolerance = 4 if int(cv2.__version__.split(".")[0]) >= 5 else int(turned)
    for i, pixels in enumerate(expected):
        crop = CropTransform(affine["center"][i], affine["scale"][i], CROP, angles[i]).warp(affine["image_bgr"])
        difference = np.abs(crop.astype(int) - pixels)
        assert difference.max() <= tolerance


def test_warp_agrees_with_the_points():
    # A white pixel of the image appears where to_crop says.
    image = np.zeros((100, 120, 3), np.uint8)
    image[40:43, 70:73] = 255
    transform = CropTransform.from_bbox(np.array([20, 10, 100, 90]), CROP, rotation=0.4)
    crop = transform.warp(image)[..., 0].astype(float)
    y, x = np.mgrid[: crop.shape[0], : crop.shape[1]]
    centroid = np.array([(x * crop).sum(), (y * crop).sum()]) / crop.sum()
    np.testing.assert_allclose(centroid, transform.to_crop(np.array([71.0, 41.0])), atol=0.05)


def test_warp_of_a_single_pixel():
    """OpenCV 4.5 takes no such array; black beside it is what the border is anyway."""
    pixel = np.full((1, 1, 3), 200, np.uint8)
    transform = CropTransform.from_bbox((0, 0, 1, 1), CROP, 1.25)
    crop = transform.warp(pixel)
    assert crop.max() == 200
    np.testing.assert_array_equal(crop, transform.warp(np.pad(pixel, ((0, 3), (0, 3), (0, 0)))))


def test_warp_writes_into_out():
    out = np.full((CROP[1], CROP[0], 3), 7, np.uint8)
    image = np.full((50, 50, 3), 200, np.uint8)
    transform = CropTransform.from_bbox(np.array([10, 10, 40, 40]), CROP)
    assert np.array_equal(transform.warp(image, out=out), out)
    assert out.max() == 200


coordinate = st.floats(-5000, 5000)
size = st.floats(1, 4000)


@given(
    center=st.tuples(coordinate, coordinate), window=st.tuples(size, size), rotation=st.floats(-np.pi, np.pi),
    point=st.tuples(coordinate, coordinate),
)  # fmt: skip
def test_round_trip(center, window, rotation, point):
    transform = CropTransform(np.array(center), np.array(window), CROP, rotation)
    back = transform.to_image(transform.to_crop(np.array(point)))
    np.testing.assert_allclose(back, point, atol=1e-6)


@given(x=coordinate, y=coordinate, width=size, height=size)
def test_window_corners_are_the_crops_corner_pixels(x, y, width, height):
    transform = CropTransform.from_bbox(np.array([x, y, x + width, y + height]), CROP)
    corners = transform.to_image(np.array([[0, 0], [CROP[0] - 1, CROP[1] - 1]])).ravel()
    np.testing.assert_allclose(corners, transform.window, rtol=1e-6, atol=1e-3)
    assert transform.window[0] <= x + 1e-3 and transform.window[2] >= x + width - 1e-3


def test_in_window_is_half_open():
    points = np.array([[0, 0], [191.9, 255.9], [192, 10], [10, 256], [-0.01, 5]])
    assert in_window(points, CROP).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("center", "window", "crop"),
    [([0, np.nan], [10, 10], CROP), ([0, 0], [10, 0], CROP), ([0, 0], [10, np.inf], CROP), ([0, 0], [10, 10], (1, 20))],
)
def test_refuses_what_has_no_window(center, window, crop):
    with pytest.raises(ValueError, match="must be"):
        CropTransform(np.array(center), np.array(window), crop)
