"""CameraInfo -> Camera, and depth Image -> metres. Free functions; nothing here knows the node."""

from __future__ import annotations

import sys

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from probpose_ros.camera import Camera

DEPTH_TYPES = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}


def camera_of(info: CameraInfo, rectified: bool) -> Camera:
    """P of a rectified image, else K and the distortion. ValueError where that is no camera: no matrix is made up.

    K and P are those of the full sensor; binning and region of interest say what of it is in the images.
    """
    distortion = () if rectified else tuple(info.d)
    fx, fy, cx, cy = (
        (info.p[0], info.p[5], info.p[2], info.p[6]) if rectified else (info.k[0], info.k[4], info.k[2], info.k[5])
    )
    if distortion and info.distortion_model not in ("", "plumb_bob", "rational_polynomial", "equidistant", "fisheye"):
        raise ValueError(
            f"camera_info has the distortion model {info.distortion_model!r}: "
            "must be plumb_bob, rational_polynomial or equidistant, or rectify the images and set rectified"
        )
    bin_x, bin_y, roi = max(info.binning_x, 1), max(info.binning_y, 1), info.roi
    try:
        return Camera(
            fx / bin_x, fy / bin_y, (cx - roi.x_offset) / bin_x, (cy - roi.y_offset) / bin_y,
            (roi.width or info.width) // bin_x, (roi.height or info.height) // bin_y,
            distortion, fisheye=bool(distortion) and info.distortion_model in ("equidistant", "fisheye"),
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"camera_info has {error}") from None


def depth_values(msg: Image) -> np.ndarray:
    """(h, w) uint16 in mm or float32 in m; may share memory with the message. ValueError if it is no depth image."""
    if msg.encoding not in DEPTH_TYPES:
        raise ValueError(f"depth encoding {msg.encoding!r}: must be 16UC1 (mm) or 32FC1 (m)")
    kind = np.dtype(DEPTH_TYPES[msg.encoding])
    row = msg.width * kind.itemsize
    if not msg.width or not msg.height or msg.step < row or len(msg.data) != msg.step * msg.height:
        raise ValueError(
            f"depth image of {msg.width} x {msg.height} px in {len(msg.data)} bytes, step {msg.step}: "
            f"must have a step of at least {row} and step x height bytes"
        )
    rows = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)[:, :row]
    values = np.ascontiguousarray(rows).view(kind)
    return values if bool(msg.is_bigendian) == (sys.byteorder == "big") else values.byteswap()
