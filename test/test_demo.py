"""The demo from end to end, with real processes where ROS is there, and the pieces it is made of."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_models import person_image

from probpose_ros.bags import IMAGES, PEOPLE, BagReader
from probpose_ros.demo import DemoError, plan, stop, supervise
from probpose_ros.transport import MALLOC, transport_environment
from probpose_ros.virtual_camera import VirtualCamera, camera_matrix

ROOT = Path(__file__).parents[1]
HAS_ROS = all(importlib.util.find_spec(name) for name in ("rclpy", "probpose_msgs"))
REASON = "needs ROS 2: rclpy and the built probpose_msgs"
ros = [pytest.mark.ros, pytest.mark.skipif(not HAS_ROS, reason=REASON)]


def demo(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, "-m", "probpose_ros.demo", "--out", str(out), *arguments],
        capture_output=True, text=True, timeout=300, env=environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("options", [pytest.param([], id="ros", marks=ros), pytest.param(["--no-ros"], id="no-ros")])
def test_from_end_to_end(options: list[str], tmp_path: Path, tiny_detector_model: Any, tiny_pose_model: Any) -> None:
    models = ["--model", str(tiny_pose_model), "--detector", str(tiny_detector_model)]
    done = demo(tmp_path, "--frames", "10", *models, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    frames = [json.loads(line) for line in (tmp_path / "demo.jsonl").read_text(encoding="utf-8").splitlines()]
    # A busy machine may overwrite a frame; the summary has to own up to it.
    assert f"in 10, out {len(frames)}, dropped {10 - len(frames)}" in done.stdout and frames
    assert [frame["sequence"] for frame in frames] == list(range(len(frames)))
    stamps = [frame["header"]["stamp"]["sec"] + frame["header"]["stamp"]["nanosec"] * 1e-9 for frame in frames]
    assert stamps == sorted(set(stamps))
    people = [person for frame in frames for person in frame["people"]]
    assert people and all(len(person["keypoints"]) == 17 for person in people)
    assert f"people       {len(people)}\n" in done.stdout
    video = cv2.VideoCapture(str(tmp_path / "demo.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == len(frames)
    assert cv2.imread(str(tmp_path / "demo.png")).shape == (960, 1280, 3)


@pytest.mark.ros
@pytest.mark.skipif(not HAS_ROS, reason=REASON)
def test_with_a_bag(tmp_path: Path, tiny_detector_model: Any, tiny_pose_model: Any) -> None:
    """What the demo records can be read again, without ROS; and a second demo does not overwrite it."""
    pytest.importorskip("rosbags", reason="needs the library rosbags")
    options = ["--frames", "5", "--model", str(tiny_pose_model), "--detector", str(tiny_detector_model)]
    done = demo(tmp_path, *options, "--bag", "mcap")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "demo.jsonl").read_text(encoding="utf-8").splitlines()
    with BagReader(tmp_path / "bag", IMAGES) as images, BagReader(tmp_path / "bag", (PEOPLE,)) as people:
        assert (images.topic, images.length) == ("/probpose/image", 5)
        assert (people.topic, people.length) == ("/probpose/keypoints", len(lines))
        assert [len(msg.people) for _, msg in people] == [len(json.loads(line)["people"]) for line in lines]
    done = demo(tmp_path, *options, "--bag", "mcap")
    assert done.returncode == 1 and "exists already" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_folder_as_source(tmp_path: Path, tiny_detector_model: Any, tiny_pose_model: Any) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), person_image((40 + i, 30, 100, 200)))
    models = ["--model", str(tiny_pose_model), "--detector", str(tiny_detector_model)]
    done = demo(tmp_path / "out", "--source", str(tmp_path / "in"), "--no-ros", *models)
    assert done.returncode == 0 and "in 3, out 3, dropped 0" in done.stdout, done.stdout + done.stderr
    assert plan(str(tmp_path / "in"), None) == (3, 15.0)


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--source", "/nowhere/x.mp4"], "/nowhere/x.mp4"),
        (["--frames", "1"], "--frames 1"),
        (["--model", "nope", "--no-ros"], "nope"),
        (["--bag", "mcap", "--no-ros"], "probpose run SOURCE --bag mcap"),
    ],
)
def test_user_errors_are_one_line(arguments: list[str], word: str, tmp_path: Path, tiny_detector_model: Any) -> None:
    done = demo(tmp_path, "--detector", str(tiny_detector_model), *arguments)
    assert done.returncode == 1 and done.stderr.startswith("demo: error: ") and word in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.ros
@pytest.mark.skipif(not HAS_ROS, reason=REASON)
def test_a_node_that_cannot_start_ends_the_demo_with_its_reason(tmp_path: Path, tiny_detector_model: Any) -> None:
    done = demo(tmp_path, "--detector", str(tiny_detector_model), "--model", "no_such_model")
    assert done.returncode == 1 and "the pose node ended" in done.stderr and "no_such_model" in done.stderr


def test_no_child_is_left_behind(tmp_path: Path) -> None:
    def child(code: str) -> subprocess.Popen:
        started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert started.stdout.readline()
        return started

    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    children = {"node": child(deaf), "recorder": child("import time; print(1, flush=True); time.sleep(60)")}
    children["camera_node"] = child("print(1); raise SystemExit(3)")
    log = tmp_path / "node.log"
    log.write_text("")
    with pytest.raises(DemoError, match="camera ended with status 3"):
        supervise(children, log)
    began = time.monotonic()
    stop(children.values())
    assert all(c.returncode is not None for c in children.values()) and time.monotonic() - began < 30


def test_virtual_camera_shows_both_people_whole_and_cut() -> None:
    frames = list(VirtualCamera(20))
    assert len(frames) == 20 and all(f.shape == (480, 640, 3) and f.dtype == np.uint8 for f in frames)
    again = list(VirtualCamera(20))
    assert all(np.array_equal(a, b) for a, b in zip(frames, again))
    # The first half is in colour (astronaut), the second in grey (camera).
    colour = [np.ptp(f.astype(int), axis=2).mean() for f in frames]
    assert min(colour[:10]) > 5 and max(colour[10:]) == 0
    with pytest.raises(ValueError, match="at least 2"):
        VirtualCamera(1)


def test_assumed_camera_sees_53_degrees() -> None:
    k = camera_matrix(640, 480)
    assert np.degrees(2 * np.arctan(640 / 2 / k[0, 0])) == pytest.approx(53.13, abs=0.01)
    assert (k[0, 2], k[1, 2]) == (319.5, 239.5)


def test_transport_keeps_what_the_user_set_and_needs_shared_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (*MALLOC, "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert transport_environment(str(tmp_path / "missing")) == MALLOC
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**40}))
    assert transport_environment(str(tmp_path))["FASTDDS_DEFAULT_PROFILES_FILE"] == str(ROOT / "config/fastdds_shm.xml")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 64 * 2**20}))
    smaller = Path(transport_environment(str(tmp_path))["FASTDDS_DEFAULT_PROFILES_FILE"])
    assert f"<segment_size>{8 * 2**20}</segment_size>" in smaller.read_text(encoding="utf-8")
    smaller.unlink()
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "mine.xml")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "mine.xml")
    assert transport_environment(str(tmp_path)) == MALLOC
