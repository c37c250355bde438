"""Image messages through cv_bridge, for whoever wants its conversions: the same pixels as image_message.py gives."""

from __future__ import annotations

import array
import sys
from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from probpose_ros.image_message import ENCODINGS, SAME, ImageError, image_to_bgr, read_pixels


def cv_bridge_reader() -> Callable[[Image | CompressedImage], np.ndarray]:
    """The stand-in for image_to_bgr. ImageError where cv_bridge cannot be imported."""
    try:
        from cv_bridge import CvBridge, CvBridgeError

        bridge = CvBridge()
        bridge.encoding_to_cvtype2("bgr8")  # imports its compiled part: built for NumPy 1, it fails beside NumPy 2
    except Exception as error:  # noqa: BLE001 - a module of another NumPy raises anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImageError(
            f"cv_bridge: cannot be imported ({reason}); install ros-<distribution>-cv-bridge, or leave the option out"
        ) from None

    def read(msg: Image | CompressedImage) -> np.ndarray:
        if isinstance(msg, CompressedImage) or (msg.encoding in ENCODINGS and ENCODINGS[msg.encoding].planes > 1):
            return image_to_bgr(msg)  # of compressed images cv_bridge keeps the type; planes it does not know
        try:
            return bridge.imgmsg_to_cv2(_tidy(msg), "bgr8")
        except CvBridgeError as error:
            raise ImageError(f"image as {msg.encoding!r}: cv_bridge says {error}") from None

    return read


def _tidy(msg: Image) -> Image:
    """The same image as cv_bridge reads it right.

    Its Python part takes rows for whole pixels, so padding that is none shears the image; it cannot swap bytes beside
    NumPy 2; and it gives no colours to 8UC3 and its like. Encodings that are not ours stay as they are.
    """
    if msg.encoding not in ENCODINGS:
        return msg
    pixels = read_pixels(msg)
    data = array.array("B")
    data.frombytes(pixels.data.cast("B"))
    return Image(
        header=msg.header, height=msg.height, width=msg.width, encoding=SAME.get(msg.encoding, msg.encoding),
        is_bigendian=int(sys.byteorder == "big"), step=pixels.strides[0], data=data,
    )  # fmt: skip
