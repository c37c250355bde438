"""The same pixels through cv_bridge as by NumPy and OpenCV. The last tests run where cv_bridge is installed."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sensor_msgs.msg", reason="needs ROS 2 (sensor_msgs)")
pytestmark = pytest.mark.ros

from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from test_ros_images import message, scene, sent  # noqa: E402

from probpose_ros.image_message import ENCODINGS, ImageError, image_to_bgr  # noqa: E402
from probpose_ros.ros.cv_bridge import cv_bridge_reader  # noqa: E402

needs_cv_bridge = pytest.mark.skipif(importlib.util.find_spec("cv_bridge") is None, reason="cv_bridge is not installed")


@needs_cv_bridge
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 2, 10])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_the_same_pixels(encoding: str, padding: int, big: bool) -> None:
    rng = np.random.default_rng(0)
    for image in (scene(), rng.integers(0, 256, (48, 64, 3), np.uint8)):
        msg = sent(image, encoding, padding, big)
        try:
            found = cv_bridge_reader()(msg)
        except ImageError as error:
            if "Unrecognized image encoding [yuv422_yuy2]" not in str(error):
                raise
            pytest.skip("this cv_bridge is ROS 1's, which does not know YUY2")
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, image_to_bgr(msg))


@needs_cv_bridge
def test_every_number_of_16_bits_is_rounded_alike() -> None:
    msg = message(np.arange(65536, dtype=np.uint16).reshape(256, 256), "mono16")
    np.testing.assert_array_equal(cv_bridge_reader()(msg), image_to_bgr(msg))


@needs_cv_bridge
def test_what_cv_bridge_refuses_is_an_image_error() -> None:
    msg = message(np.zeros((4, 4), np.float32).view(np.uint8), "32FC1")
    msg.width = 4
    with pytest.raises(ImageError, match="32FC1.*cv_bridge says"):
        cv_bridge_reader()(msg)
    with pytest.raises(ImageError):
        cv_bridge_reader()(Image(encoding="bgr8"))


def test_without_cv_bridge_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(ImageError, match="cv_bridge: cannot be imported .*; install ros-"):
        cv_bridge_reader()


class Recorder:
    """A cv_bridge that keeps what it was given; its Python part's view of rows is that of the real one."""

    seen: list[Image] = []

    def encoding_to_cvtype2(self, encoding: str) -> int:
        return 16

    def imgmsg_to_cv2(self, msg: Image, desired: str) -> np.ndarray:
        Recorder.seen.append(msg)
        return np.zeros((msg.height, msg.width, 3), np.uint8)


@pytest.mark.parametrize("encoding", sorted(name for name, layout in ENCODINGS.items() if layout.planes == 1))
def test_cv_bridge_gets_whole_rows_in_this_machines_order(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = types.ModuleType("cv_bridge")
    fake.CvBridge, fake.CvBridgeError = Recorder, TypeError
    monkeypatch.setitem(sys.modules, "cv_bridge", fake)
    image = scene()
    cv_bridge_reader()(sent(image, encoding, 10, True))
    given, layout = Recorder.seen.pop(), ENCODINGS[encoding]
    assert given.encoding in ENCODINGS and not given.encoding[0].isdigit() and given.encoding not in ("uyvy", "yuyv")
    assert given.step == given.width * layout.channels * layout.itemsize
    assert len(given.data) == given.step * given.height
    assert bool(given.is_bigendian) == (sys.byteorder == "big")
    np.testing.assert_array_equal(image_to_bgr(given), image_to_bgr(sent(image, encoding)))
    assert (
        cv_bridge_reader()(CompressedImage(format="png", data=_png(image))).shape == image.shape and not Recorder.seen
    )


def _png(image: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", image)[1].tobytes()


def test_the_node_uses_it_on_request(
    monkeypatch: pytest.MonkeyPatch, tiny_detector_model: Any, tiny_pose_model: Any
) -> None:
    bench_module = pytest.importorskip("ros_bench", reason="needs ROS 2 (rclpy, probpose_msgs)")
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    bench = bench_module.Bench(tiny_detector_model, tiny_pose_model, cv_bridge=True)
    try:
        assert bench.node.trigger_configure().name == "FAILURE", "it is not installed: said at once, not image by image"
        fake: Any = types.ModuleType("cv_bridge")
        fake.CvBridge, fake.CvBridgeError = Recorder, TypeError
        monkeypatch.setitem(sys.modules, "cv_bridge", fake)
        bench.start()
        bench.listen_to_results()
        bench.answer(bench.publisher(), bench.image(scene()))
        assert Recorder.seen and Recorder.seen.pop().encoding == "bgr8"
    finally:
        bench.close()
