"""Image messages against NumPy and OpenCV: every encoding, padded rows, byte order, and what must be refused."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytestmark = pytest.mark.ros

from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from probpose_ros.ros.images import ENCODINGS, ImageError, bgr_to_image, image_to_bgr  # noqa: E402


def scene(width: int = 64, height: int = 48) -> np.ndarray:
    """Smooth colours, so that mosaics and subsampled chroma can be undone to within a few grey levels."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([40 + 150 * x, 200 - 120 * y, 60 + 90 * x * y], axis=-1).astype(np.uint8)


def message(pixels: np.ndarray, encoding: str, padding: int = 0, big: bool = False) -> Image:
    """pixels: (H, W) or (H, W, C) of the encoding's dtype; padding: bytes after each row."""
    rows = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).reshape(len(pixels), -1)
    data = np.ascontiguousarray(rows).view(np.uint8).reshape(len(pixels), -1)
    data = np.pad(data, ((0, 0), (0, padding)), constant_values=123)
    msg = Image(height=len(pixels), width=pixels.shape[1], encoding=encoding, step=data.shape[1], is_bigendian=int(big))
    msg.data = array.array("B", data.tobytes())
    return msg


def encode(image: np.ndarray, encoding: str) -> np.ndarray:
    """The image as a camera with that encoding would send it."""
    if encoding.startswith("bayer_"):
        colors = {"r": 2, "g": 1, "b": 0}
        mosaic = np.empty(image.shape[:2], np.uint8)
        for i, letter in enumerate(encoding[6:10]):
            mosaic[i // 2 :: 2, i % 2 :: 2] = image[i // 2 :: 2, i % 2 :: 2, colors[letter]]
        return mosaic if encoding.endswith("8") else mosaic.astype(np.uint16) * 257
    if encoding in ("bgr8", "8UC3"):
        return image
    if encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv"):
        y, u, v = np.moveaxis(cv2.cvtColor(image, cv2.COLOR_BGR2YUV), -1, 0)  # full range; compared loosely below
        chroma = np.where(np.arange(image.shape[1]) % 2 == 0, u, v)
        return np.stack([chroma, y] if encoding in ("yuv422", "uyvy") else [y, chroma], axis=-1)
    codes = {"rgb8": cv2.COLOR_BGR2RGB, "bgra8": cv2.COLOR_BGR2BGRA, "rgba8": cv2.COLOR_BGR2RGBA}
    if encoding in codes:
        return cv2.cvtColor(image, codes[encoding])
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return gray.astype(np.uint16) * 257 if encoding == "mono16" else gray


@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_every_encoding_gives_the_scene(encoding: str, padding: int) -> None:
    image = scene()
    sent = encode(image, encoding)
    read = image_to_bgr(message(sent, encoding, padding))
    assert read.shape == image.shape and read.dtype == np.uint8
    if sent.ndim == 2 and not encoding.startswith("bayer"):
        expected, tolerance = np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2), 0
    elif encoding.startswith("bayer"):
        expected, tolerance = image, 4  # the mosaic of a smooth scene; a wrong pattern is off by 50 and more
    elif encoding.startswith("yu") or encoding == "uyvy":
        expected, tolerance = image, 40  # video range against full range; swapped chroma is off by more than 60
    else:
        expected, tolerance = image, 0
    inner = slice(2, -2)  # a mosaic is only guessed at the border
    assert np.abs(read[inner, inner].astype(int) - expected[inner, inner]).max() <= tolerance


@pytest.mark.parametrize(
    "encoding, code", [("yuv422", cv2.COLOR_YUV2BGR_UYVY), ("yuv422_yuy2", cv2.COLOR_YUV2BGR_YUYV)]
)
def test_yuv_is_opencvs(encoding: str, code: int) -> None:
    sent = np.random.default_rng(0).integers(0, 256, (8, 12, 2), np.uint8)
    np.testing.assert_array_equal(image_to_bgr(message(sent, encoding, 3)), cv2.cvtColor(sent, code))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 7])
def test_mono16_in_both_byte_orders(big: bool, padding: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (6, 9)).astype(np.uint16)
    expected = np.round(pixels * (255 / 65535)).astype(np.uint8)
    read = image_to_bgr(message(pixels, "mono16", padding, big))
    np.testing.assert_array_equal(read, np.repeat(expected[..., None], 3, axis=2))


def test_image_message_round_trip() -> None:
    image = scene(33, 17)
    header = Header(frame_id="cam")
    header.stamp.sec = 5
    msg = bgr_to_image(image[:, ::-1], header)  # also from an array that is not contiguous
    assert msg.header == header and isinstance(msg.data, array.array)
    np.testing.assert_array_equal(image_to_bgr(msg), image[:, ::-1])


def broken(**changes: object) -> Image:
    msg = message(scene(8, 6), "bgr8")
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


@pytest.mark.parametrize(
    "msg, words",
    [
        (broken(encoding="nv21"), ["'nv21'", "bgr8"]),
        (broken(encoding=""), ["''", "bgr8"]),
        (broken(width=0), ["0 x 6"]),
        (broken(height=0), ["8 x 0"]),
        (broken(step=23), ["23", "24"]),
        (broken(step=30), ["144 bytes", "180"]),
        (broken(height=2**32 - 1), ["144 bytes"]),
        (broken(data=array.array("B", bytes(143))), ["143 bytes", "144"]),
        (broken(data=array.array("B")), ["0 bytes"]),
        (message(scene(7, 6)[..., :2], "yuv422"), ["7 x 6", "yuv422"]),
        (CompressedImage(format="jpeg"), ["0 bytes", "jpeg"]),
        (CompressedImage(format="jpeg", data=array.array("B", b"not an image")), ["12 bytes"]),
    ],
)
def test_refused_with_the_value_and_what_is_allowed(msg: Image, words: list[str]) -> None:
    with pytest.raises(ImageError) as error:
        image_to_bgr(msg)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def compressed(image: np.ndarray, suffix: str, keep: float = 1.0) -> CompressedImage:
    data = cv2.imencode(suffix, image)[1].tobytes()
    return CompressedImage(format=suffix[1:], data=array.array("B", data[: round(len(data) * keep)]))


def test_compressed_images() -> None:
    image = scene()
    np.testing.assert_array_equal(image_to_bgr(compressed(image, ".png")), image)
    jpeg = compressed(image, ".jpg")
    np.testing.assert_array_equal(image_to_bgr(jpeg), cv2.imdecode(np.array(jpeg.data), cv2.IMREAD_COLOR))


@pytest.mark.parametrize("suffix, keep", [(".jpg", 0.7), (".jpg", 0.99), (".png", 0.5)])
def test_truncated_compressed_image_is_refused(suffix: str, keep: float) -> None:
    with pytest.raises(ImageError):
        image_to_bgr(compressed(scene(), suffix, keep))
