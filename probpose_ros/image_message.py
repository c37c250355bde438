"""sensor_msgs Image and CompressedImage -> arrays, without cv_bridge and without ROS: of rclpy or of a bag."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

# encoding: bytes per channel, channels, cv2 colour code to BGR (None: is BGR already).
# OpenCV names a Bayer pattern by its second row and column, ROS by its first: hence the crossed names.
ENCODINGS: dict[str, tuple[int, int, int | None]] = {
    "bgr8": (1, 3, None),
    "8UC3": (1, 3, None),
    "rgb8": (1, 3, cv2.COLOR_RGB2BGR),
    "bgra8": (1, 4, cv2.COLOR_BGRA2BGR),
    "rgba8": (1, 4, cv2.COLOR_RGBA2BGR),
    "mono8": (1, 1, cv2.COLOR_GRAY2BGR),
    "8UC1": (1, 1, cv2.COLOR_GRAY2BGR),
    "mono16": (2, 1, cv2.COLOR_GRAY2BGR),
    "yuv422": (1, 2, cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": (1, 2, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": (1, 2, cv2.COLOR_YUV2BGR_YUY2),
    "yuyv": (1, 2, cv2.COLOR_YUV2BGR_YUY2),
}
for _bits in (8, 16):
    ENCODINGS[f"bayer_rggb{_bits}"] = (_bits // 8, 1, cv2.COLOR_BayerBG2BGR)
    ENCODINGS[f"bayer_bggr{_bits}"] = (_bits // 8, 1, cv2.COLOR_BayerRG2BGR)
    ENCODINGS[f"bayer_gbrg{_bits}"] = (_bits // 8, 1, cv2.COLOR_BayerGR2BGR)
    ENCODINGS[f"bayer_grbg{_bits}"] = (_bits // 8, 1, cv2.COLOR_BayerGB2BGR)


class ImageError(ValueError):
    """An image message that cannot be read: names the value and what is allowed."""


def image_to_bgr(msg: Any) -> np.ndarray:
    """(H, W, 3) uint8 BGR of an Image or CompressedImage message. May share memory with the message. Raises ImageError.

    16-bit images are scaled to 8 bits by 255/65535, as cv_bridge does.
    """
    if hasattr(msg, "format"):  # a CompressedImage
        return _decode(msg)
    if msg.encoding not in ENCODINGS:
        raise ImageError(f"image encoding {msg.encoding!r}: must be one of {', '.join(ENCODINGS)}")
    itemsize, channels, code = ENCODINGS[msg.encoding]
    row = msg.width * channels * itemsize
    if msg.width == 0 or msg.height == 0:
        raise ImageError(f"image size {msg.width} x {msg.height}: must be at least 1 x 1 px")
    if msg.step < row:
        raise ImageError(f"image step {msg.step}: must be at least {row} for width {msg.width} and {msg.encoding}")
    if len(msg.data) != msg.step * msg.height:
        expected = f"{msg.step * msg.height} (step {msg.step} x height {msg.height})"
        raise ImageError(f"image of {len(msg.data)} bytes: must have {expected}")
    pixels = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)[:, :row]
    if itemsize == 2:
        pixels = np.ascontiguousarray(pixels).view(">u2" if msg.is_bigendian else "<u2").astype(np.uint16, copy=False)
    pixels = np.ascontiguousarray(pixels)
    if channels > 1:
        pixels = pixels.reshape(msg.height, msg.width, channels)
    try:
        image = pixels if code is None else cv2.cvtColor(pixels, code)
    except cv2.error as error:
        raise ImageError(f"image of {msg.width} x {msg.height} px as {msg.encoding}: {_reason(error)}") from None
    return image if itemsize == 1 else cv2.convertScaleAbs(image, alpha=255 / 65535)


def _decode(msg: Any) -> np.ndarray:
    data = np.frombuffer(msg.data, np.uint8)
    # libjpeg fills the rest of a truncated picture with grey and calls it a success: look for the end marker.
    truncated = data[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in data[-64:].tobytes()
    try:
        image = None if truncated or not len(data) else cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        kind = "truncated" if truncated else "undecodable"
        raise ImageError(f"{kind} image of {len(data)} bytes, format {msg.format!r}: must be a whole JPEG or PNG")
    return image


def _reason(error: cv2.error) -> str:
    return str(getattr(error, "err", "") or error).strip().splitlines()[0]
