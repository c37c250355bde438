"""The recorder's bag: what was heard is in it, and a recording made from it is the same again."""

from __future__ import annotations

import time

import numpy as np
import pytest
from ros_domains import next_domain

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("probpose_msgs.msg", reason="needs the built probpose_msgs (make test builds it)")
pytest.importorskip("rosbags", reason="needs the library rosbags")
pytestmark = pytest.mark.ros

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from test_ros_convert import people_bytes, some_result  # noqa: E402
from tqdm import tqdm  # noqa: E402

from probpose_msgs.msg import PersonPoseArray, SkeletonInfo, Status  # noqa: E402
from probpose_ros.bags import IMAGES, SKELETON, STORAGES, BagError, BagReader  # noqa: E402
from probpose_ros.recording import Recording  # noqa: E402
from probpose_ros.ros import qos, recorder  # noqa: E402
from probpose_ros.ros.bag_recorder import BagRecorder, replay  # noqa: E402
from probpose_ros.ros.convert import skeleton_message  # noqa: E402
from probpose_ros.ros.images import bgr_to_image  # noqa: E402

FRAMES = 4


@pytest.fixture
def heard(monkeypatch):
    """A camera and a pose node's voices, a recorder, and ``spin_until``."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init(domain_id=next_domain())
    executor = SingleThreadedExecutor()

    def spin_until(done) -> None:
        end = time.monotonic() + 120
        while not done():
            assert time.monotonic() < end
            executor.spin_once(timeout_sec=0.1)

    yield executor, spin_until
    executor.shutdown()
    rclpy.shutdown()


@pytest.mark.parametrize("storage", STORAGES)
def test_a_recording_from_the_bag_is_the_same(storage, tmp_path, heard):
    executor, spin_until = heard
    speaker = rclpy.create_node("speaker", namespace="probpose")
    first = Recording(tmp_path / "first", 10)
    node = recorder.Recorder(first, tqdm(disable=True))
    node.bag = BagRecorder(node, tmp_path / "bag", storage)
    node.subscribe_to_images()
    for each in (speaker, node):
        executor.add_node(each)
    publish = {
        name: speaker.create_publisher(kind, f"/{name}", profile)
        for name, kind, profile in (
            ("image", Image, 10), ("keypoints", PersonPoseArray, 10), ("status", Status, 10),
            ("skeleton_info", SkeletonInfo, qos.LATCHED),
        )
    }  # fmt: skip
    publish["skeleton_info"].publish(skeleton_message("tiny"))
    spin_until(lambda: all(publisher.get_subscription_count() for publisher in publish.values()))
    for i in range(FRAMES):
        header = Header(frame_id="camera_optical_frame")
        header.stamp.sec, header.stamp.nanosec = 1_700_000_000, 123_456_789 + i
        image = np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
        publish["image"].publish(bgr_to_image(image, header))
        publish["keypoints"].publish(people_bytes(some_result(2, seed=i), header))
        publish["status"].publish(Status(sequence=i))
    spin_until(lambda: first.count == FRAMES and node.bag.bag.count == 3 * FRAMES + 1)
    node.bag.close()
    first.close()

    with BagReader(tmp_path / "bag", IMAGES) as images:
        assert (images.topic, images.length) == ("/image", FRAMES)
    with BagReader(tmp_path / "bag", (SKELETON,)) as skeleton:
        ((_, message),) = skeleton
        assert message.model == "tiny" and len(message.names) == 17
    again = Recording(tmp_path / "again", 10)
    assert replay(again, tmp_path / "bag", None, None) == FRAMES
    again.close()
    lines = (tmp_path / "first/demo.jsonl").read_bytes()
    assert lines.count(b"\n") == FRAMES and (tmp_path / "again/demo.jsonl").read_bytes() == lines
    assert (tmp_path / "again/demo.png").read_bytes() == (tmp_path / "first/demo.png").read_bytes()


def test_ctrl_c_ends_a_recording(tmp_path, monkeypatch, capsys):
    """With what was heard by then, as the normal end; an error only if that is nothing."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

    def listen(node, wait):
        if heard:
            node._on_image(bgr_to_image(np.zeros((48, 64, 3), np.uint8), Header()))
            node._on_result(PersonPoseArray(image_width=64, image_height=48))
        raise KeyboardInterrupt

    monkeypatch.setattr(recorder, "record", listen)
    for heard, status, said in ((True, 0, "in 1, out 1"), (False, 1, "interrupted before there was a result")):
        assert recorder.main(["--out", str(tmp_path), "--fps", "10"]) == status
        told = capsys.readouterr()
        assert said in (told.out if heard else told.err.splitlines()[-1])


def test_the_command_reads_a_bag_and_names_what_is_wrong(tmp_path, capsys):
    with pytest.raises(BagError, match="cannot be read as a bag|does not exist"):
        replay(Recording(tmp_path / "out", 10), tmp_path / "none", None, None)
    assert recorder.main(["--out", str(tmp_path / "out"), "--from-bag", str(tmp_path / "none")]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("recorder: error: ") and "none" in error
