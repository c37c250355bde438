"""Image messages against NumPy and OpenCV: every encoding, padded rows, byte order, and what must be refused."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest

pytest.importorskip("sensor_msgs.msg", reason="needs ROS 2 (sensor_msgs)")
pytestmark = pytest.mark.ros

from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from probpose_ros.image_message import SAME, compressed_size  # noqa: E402
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
    encoding = SAME.get(encoding, encoding)
    if encoding.startswith("bayer_"):
        colors = {"r": 2, "g": 1, "b": 0}
        mosaic = np.empty(image.shape[:2], np.uint8)
        for i, letter in enumerate(encoding[6:10]):
            mosaic[i // 2 :: 2, i % 2 :: 2] = image[i // 2 :: 2, i % 2 :: 2, colors[letter]]
        return mosaic if encoding.endswith("8") else mosaic.astype(np.uint16) * 257
    if encoding.endswith("16"):
        return encode(image, encoding[:-2] + "8").astype(np.uint16) * 257
    if encoding.startswith(("yuv", "nv")):
        y, u, v = np.moveaxis(cv2.cvtColor(image, cv2.COLOR_BGR2YUV), -1, 0)  # full range; compared loosely below
        if encoding == "nv24":
            return np.vstack([y, np.stack([u, v], axis=-1).reshape(2 * y.shape[0], y.shape[1])])
        if encoding.startswith("nv"):
            pair = np.stack([u, v] if encoding == "nv12" else [v, u], axis=-1)[::2, ::2]
            return np.vstack([y, pair.reshape(-1, y.shape[1])])
        chroma = np.where(np.arange(image.shape[1]) % 2 == 0, u, v)
        return np.stack([chroma, y] if encoding == "yuv422" else [y, chroma], axis=-1)
    codes = {"rgb8": cv2.COLOR_BGR2RGB, "bgra8": cv2.COLOR_BGR2BGRA, "rgba8": cv2.COLOR_BGR2RGBA}
    if encoding in codes:
        return cv2.cvtColor(image, codes[encoding])
    return image if encoding == "bgr8" else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def sent(image: np.ndarray, encoding: str, padding: int = 0, big: bool = False) -> Image:
    """The image as a message of that encoding; its planes one below the other have the first one's height."""
    msg = message(encode(image, encoding), encoding, padding, big)
    msg.height = len(image)
    return msg


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_every_encoding_gives_the_scene(encoding: str, padding: int, big: bool) -> None:
    image = scene()
    read = image_to_bgr(sent(image, encoding, padding, big))
    assert read.shape == image.shape and read.dtype == np.uint8
    expected, tolerance = image, 0
    name = SAME.get(encoding, encoding)
    if name.startswith("mono"):
        expected = np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2)
    elif name.startswith("bayer"):
        tolerance = 4  # the mosaic of a smooth scene; a wrong pattern is off by 50 and more
    elif name.startswith(("yuv", "nv")):
        tolerance = 40  # video range against full range; swapped chroma is off by more than 60
    inner = slice(2, -2)  # a mosaic is only guessed at the border
    assert np.abs(read[inner, inner].astype(int) - expected[inner, inner]).max() <= tolerance


def test_encodings_are_those_of_ros() -> None:
    """Every image encoding with colours that sensor_msgs names, besides types that hold other things than images."""
    named = "rgb bgr rgba bgra mono bayer_rggb bayer_bggr bayer_gbrg bayer_grbg".split()
    assert {f"{name}{bits}" for name in named for bits in (8, 16)} <= set(ENCODINGS)
    assert {"yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21", "nv24", "8UC1", "8UC3", "16UC1"} <= set(ENCODINGS)


@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
def test_planes_give_the_colours_of_packed_yuv(encoding: str) -> None:
    """The same brightness and the same colours for both pixels of a pair: the formula is that of UYVY."""
    rng = np.random.default_rng(0)
    y, u, v = rng.integers(0, 256, (8, 12), np.uint8), *rng.integers(0, 256, (2, 4, 6), np.uint8)
    wide_u, wide_v = (plane.repeat(2, 0).repeat(2, 1) for plane in (u, v))
    chroma = np.where(np.arange(12) % 2 == 0, wide_u, wide_v)
    expected = cv2.cvtColor(np.stack([chroma, y], axis=-1), cv2.COLOR_YUV2BGR_UYVY)
    if encoding == "nv24":
        colours = np.stack([wide_u, wide_v], axis=-1).reshape(16, 12)
    else:
        colours = np.stack([u, v] if encoding == "nv12" else [v, u], axis=-1).reshape(4, 12)
    msg = message(np.vstack([y, colours]), encoding, 4)
    msg.height = 8
    np.testing.assert_array_equal(image_to_bgr(msg), expected)


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
        (broken(encoding="h264"), ["'h264'", "bgr8"]),
        (broken(encoding="nv12", height=5), ["8 x 5", "even"]),
        (broken(encoding="nv12", height=2), ["144 bytes", "step 24 x 3 rows"]),
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


def test_compressed_images_are_not_turned_and_of_two_kinds() -> None:
    image = scene(40, 30)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    tiff = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + bytes(4)  # orientation 6
    exif = b"\xff\xe1" + (8 + len(tiff)).to_bytes(2, "big") + b"Exif\0\0" + tiff
    turned = CompressedImage(format="jpeg", data=array.array("B", jpeg[:2] + exif + jpeg[2:]))
    assert np.asarray(cv2.imdecode(np.array(turned.data), cv2.IMREAD_COLOR)).shape == (40, 30, 3), "turned by EXIF"
    assert image_to_bgr(turned).shape == (30, 40, 3)
    bitmap = CompressedImage(format="bmp", data=array.array("B", cv2.imencode(".bmp", image)[1].tobytes()))
    with pytest.raises(ImageError, match="no JPEG or PNG"):
        image_to_bgr(bitmap)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("size", [(1, 1), (64, 48), (333, 777)])
def test_size_is_read_before_anything_is_decoded(suffix: str, size: tuple[int, int]) -> None:
    data = cv2.imencode(suffix, scene(*size))[1].tobytes()
    assert compressed_size(data) == size
    assert compressed_size(data[:5]) is None


def test_a_picture_that_claims_to_be_huge_is_not_decoded() -> None:
    png = bytearray(cv2.imencode(".png", scene())[1].tobytes())
    png[16:24] = (30_000).to_bytes(4, "big") * 2
    with pytest.raises(ImageError, match=f"30000 x 30000 px, of which at most {1100 * len(png)}"):
        image_to_bgr(CompressedImage(format="png", data=array.array("B", bytes(png))))
    with pytest.raises(ImageError, match="30000 x 30000 px, of which at most 100000000"):
        image_to_bgr(CompressedImage(format="png", data=array.array("B", bytes(png) + bytes(100_000))))


@pytest.mark.parametrize("suffix, options", [(".jpg", []), (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]), (".png", [])])
def test_the_emptiest_pictures_are_read(suffix: str, options: list[int]) -> None:
    """All black and large: no camera gives more pixels a byte."""
    options = options + ([cv2.IMWRITE_JPEG_QUALITY, 1] if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 9])
    for channels in (1, 3):
        data = cv2.imencode(suffix, np.zeros((2160, 3840, channels), np.uint8), options)[1].tobytes()
        assert image_to_bgr(CompressedImage(format="x", data=array.array("B", data))).shape == (2160, 3840, 3)
