"""sensor_msgs Image and CompressedImage -> arrays, without cv_bridge and without ROS: of rclpy or of a bag."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import cv2
import numpy as np

MAX_PIXELS = 100_000_000  # of a compressed image, which says of itself how large it is
MAX_RATIO = 1100  # pixels a byte; PNG reaches 1032 with a bit a pixel, JPEG some 350. Few bytes cannot cost much time


class Layout(NamedTuple):
    """itemsize: bytes of a channel. channels: of a pixel. code: cv2's to BGR, None where it is BGR already.

    planes: bytes of all planes as a multiple of those of the first one, the brightness.
    """

    itemsize: int
    channels: int
    code: int | None
    planes: float = 1


ENCODINGS: dict[str, Layout] = {
    "bgr8": Layout(1, 3, None),
    "rgb8": Layout(1, 3, cv2.COLOR_RGB2BGR),
    "bgra8": Layout(1, 4, cv2.COLOR_BGRA2BGR),
    "rgba8": Layout(1, 4, cv2.COLOR_RGBA2BGR),
    "bgr16": Layout(2, 3, None),
    "rgb16": Layout(2, 3, cv2.COLOR_RGB2BGR),
    "bgra16": Layout(2, 4, cv2.COLOR_BGRA2BGR),
    "rgba16": Layout(2, 4, cv2.COLOR_RGBA2BGR),
    "mono8": Layout(1, 1, cv2.COLOR_GRAY2BGR),
    "mono16": Layout(2, 1, cv2.COLOR_GRAY2BGR),
    "yuv422": Layout(1, 2, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": Layout(1, 2, cv2.COLOR_YUV2BGR_YUY2),
    "nv12": Layout(1, 1, cv2.COLOR_YUV2BGR_NV12, 1.5),
    "nv21": Layout(1, 1, cv2.COLOR_YUV2BGR_NV21, 1.5),
    "nv24": Layout(1, 1, cv2.COLOR_YUV2BGR_NV12, 3),
}
for _bits in (8, 16):
    # OpenCV names a Bayer pattern by its second row and column, ROS by its first: hence the crossed names.
    ENCODINGS[f"bayer_rggb{_bits}"] = Layout(_bits // 8, 1, cv2.COLOR_BayerBG2BGR)
    ENCODINGS[f"bayer_bggr{_bits}"] = Layout(_bits // 8, 1, cv2.COLOR_BayerRG2BGR)
    ENCODINGS[f"bayer_gbrg{_bits}"] = Layout(_bits // 8, 1, cv2.COLOR_BayerGR2BGR)
    ENCODINGS[f"bayer_grbg{_bits}"] = Layout(_bits // 8, 1, cv2.COLOR_BayerGB2BGR)
# Newer names of the same, and types without colours, which are taken for what cameras mean by them.
SAME = {
    "uyvy": "yuv422", "yuyv": "yuv422_yuy2", "8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC1": "mono16",
    "16UC3": "bgr16", "16UC4": "bgra16",
}  # fmt: skip
ENCODINGS |= {name: ENCODINGS[other] for name, other in SAME.items()}


class ImageError(ValueError):
    """An image message that cannot be read: names the value and what is allowed."""


def image_to_bgr(msg: Any) -> np.ndarray:
    """(H, W, 3) uint8 BGR of an Image or CompressedImage message. May share memory with the message. Raises ImageError.

    16-bit images are scaled to 8 bits by 255/65535, as cv_bridge does.
    """
    if hasattr(msg, "format"):  # a CompressedImage
        return _decode(msg)
    pixels, layout = read_pixels(msg), ENCODINGS[msg.encoding]
    if layout.planes == 3:  # OpenCV has no 4:4:4; with the brightness doubled it is the 4:2:0 of twice the size
        brightness, colours = pixels[: msg.height], pixels[msg.height :]
        pixels = np.vstack([brightness.repeat(2, 0).repeat(2, 1), colours.reshape(msg.height, 2 * msg.width)])
    try:
        image = pixels if layout.code is None else cv2.cvtColor(pixels, layout.code)
    except cv2.error as error:
        raise ImageError(f"image of {msg.width} x {msg.height} px as {msg.encoding}: {_reason(error)}") from None
    if layout.planes == 3:
        image = np.ascontiguousarray(image[::2, ::2])
    return image if layout.itemsize == 1 else cv2.convertScaleAbs(image, alpha=255 / 65535)


def read_pixels(msg: Any) -> np.ndarray:
    """The numbers of an Image message, contiguous, in this machine's byte order. Raises ImageError.

    Returns:
        (H, W) or (H, W, channels), uint8 or uint16; of several planes (rows, W), one plane below the other.
    """
    if msg.encoding not in ENCODINGS:
        raise ImageError(f"image encoding {msg.encoding!r}: must be one of {', '.join(ENCODINGS)}")
    layout = ENCODINGS[msg.encoding]
    row, rows = msg.width * layout.channels * layout.itemsize, msg.height * layout.planes
    if msg.width == 0 or msg.height == 0:
        raise ImageError(f"image size {msg.width} x {msg.height}: must be at least 1 x 1 px")
    if msg.step < row:
        raise ImageError(f"image step {msg.step}: must be at least {row} for width {msg.width} and {msg.encoding}")
    halved = (layout.channels == 2 or layout.planes == 1.5) and msg.width % 2  # two pixels share their colours
    if halved or rows != int(rows):
        raise ImageError(f"image of {msg.width} x {msg.height} px as {msg.encoding}: must be of even size")
    if len(msg.data) != msg.step * int(rows):
        expected = f"{msg.step * int(rows)} (step {msg.step} x {int(rows)} rows)"
        raise ImageError(f"image of {len(msg.data)} bytes: must have {expected}")
    pixels = np.ascontiguousarray(np.frombuffer(msg.data, np.uint8).reshape(int(rows), msg.step)[:, :row])
    if layout.itemsize == 2:
        pixels = pixels.view(np.uint16)
        pixels = pixels if bool(msg.is_bigendian) == (sys.byteorder == "big") else pixels.byteswap()
    return pixels if layout.channels == 1 else pixels.reshape(msg.height, msg.width, layout.channels)


def _decode(msg: Any) -> np.ndarray:
    data = np.frombuffer(msg.data, np.uint8)
    content = data.tobytes()
    size = compressed_size(content)
    most = min(MAX_PIXELS, MAX_RATIO * len(data))
    if size is None or not 0 < size[0] * size[1] <= most:
        what = "no JPEG or PNG" if size is None else f"{size[0]} x {size[1]} px, of which at most {most} are read"
        raise ImageError(f"compressed image of {len(data)} bytes, format {msg.format!r}: {what}")
    truncated = truncated_jpeg(content)
    try:
        # The camera's matrix belongs to the image as it was sent: no turning by what EXIF says.
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = None if truncated else cv2.imdecode(data, flags)
    except cv2.error:
        image = None
    if image is None:
        kind = "truncated" if truncated else "undecodable"
        raise ImageError(f"{kind} image of {len(data)} bytes, format {msg.format!r}: must be a whole JPEG or PNG")
    return image


JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def compressed_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that a JPEG or PNG claims to have, before anything is decoded; None if it is neither."""
    if data.startswith(PNG):
        return (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) if len(data) >= 24 else None
    if (at := _frame_header(data)) is None:
        return None
    return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")


def truncated_jpeg(data: bytes) -> bool:
    """Whether a JPEG breaks off: libjpeg fills the rest of the picture with grey and calls it a success."""
    # Only the end marker behind the frame's header counts: thumbnails before it have their own, and behind the picture
    # cameras append what they like.
    at = _frame_header(data)
    return at is not None and data.find(b"\xff\xd9", at) < 0


def _frame_header(data: bytes) -> int | None:
    """Where the marker of a JPEG's size stands; None if it is no JPEG, or ends before."""
    at = 2
    while data.startswith(JPEG) and at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return at
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _reason(error: cv2.error) -> str:
    return str(getattr(error, "err", "") or error).strip().splitlines()[0]
