"""The node as a process: how it ends, and what it says when it cannot start."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ros_domains import next_domain

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("probpose_msgs.msg", reason="needs the built probpose_msgs")
pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[1]


DOMAIN = next_domain()


def start(*arguments: str, command: tuple[str, ...] = ("-m", "probpose_ros.ros.node")) -> subprocess.Popen:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *command, "--ros-args", *arguments],
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def test_no_loop_inside_the_try_that_catches_signals() -> None:
    """CPython 3.13 leaves a loop's jump back out of a try with a finally, and signals are delivered just there."""
    tree = ast.parse((ROOT / "probpose_ros/ros/node.py").read_text(encoding="utf-8"))
    (run,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "run")
    caught = [
        inner for block in run.body if isinstance(block, ast.Try) for part in block.body for inner in ast.walk(part)
    ]
    assert len(caught) > 10 and not [inner.lineno for inner in caught if isinstance(inner, (ast.For, ast.While))]


@pytest.mark.parametrize("number, twice", [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)])
def test_ends_cleanly_within_a_second(number: int, twice: bool, tiny_detector_model: Any, tiny_pose_model: Any) -> None:
    node = start("-p", f"detector:={tiny_detector_model}", "-p", f"model:={tiny_pose_model}")
    try:
        text = ""
        while "ready" not in text:
            line = node.stderr.readline()
            assert line, text
            text += line
        sent = time.monotonic()
        node.send_signal(number)
        if twice:  # as a terminal's Ctrl-C under ros2 launch
            time.sleep(0.05)
            node.send_signal(number)
        rest = node.communicate(timeout=30)[1]
        took = time.monotonic() - sent
    finally:
        node.kill()
        node.wait()
    assert node.returncode == 0 and "Traceback" not in rest, rest
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert took < max(1.0, 20 * (time.monotonic() - began)), "a second, or what 20 empty Pythons take on a busy machine"


def test_ends_when_the_executor_learns_of_the_signal_before_the_context_does(
    tiny_detector_model: Any, tiny_pose_model: Any
) -> None:
    """rclpy wakes the executor and invalidates the context afterwards; here the executor never learns of that."""
    late = "import rclpy.context; rclpy.context.Context.ok = lambda self: True; rclpy.ok = lambda **_: True; "
    arguments = ("-p", f"detector:={tiny_detector_model}", "-p", f"model:={tiny_pose_model}")
    node = start(*arguments, command=("-c", late + "from probpose_ros.ros.node import main; main()"))
    try:
        while "ready" not in (line := node.stderr.readline()):
            assert line
        node.send_signal(signal.SIGTERM)
        node.communicate(timeout=10)
    finally:
        node.kill()
        node.wait()
    assert node.returncode == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["-p", "detector_treshold:=0.5"], ["'detector_treshold'", "detector_threshold"]),
        (["-p", "max_people:=1000"], ["max_people = 1000", "1 to 100"]),
        (["-p", "model:=no_such_model"], ["no_such_model"]),
        (["--params-file", "/nowhere/pose.yaml"], ["/nowhere/pose.yaml"]),
    ],
)
def test_refuses_to_start_with_one_line(arguments: list[str], words: list[str], tiny_detector_model: Any) -> None:
    node = start("-p", f"detector:={tiny_detector_model}", *arguments)
    text = node.communicate(timeout=60)[1]
    lines = [line for line in text.splitlines() if any(word in line for word in words)]
    assert node.returncode == 1 and "Traceback" not in text and len(lines) == 1, text
    assert all(word in lines[0] for word in words)


@pytest.mark.parametrize("word, status", [("--help", 0), ("--model", 2)])
def test_options_are_explained(word: str, status: int) -> None:
    done = subprocess.run([sys.executable, "-m", "probpose_ros.ros.node", word], capture_output=True, text=True)
    assert done.returncode == status and "pose_node" in done.stdout + done.stderr
    assert ("config/pose.yaml" in done.stdout) == (status == 0)


def test_others_see_at_once_that_it_has_gone(tiny_detector_model: Any, tiny_pose_model: Any, monkeypatch: Any) -> None:
    import rclpy

    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init(domain_id=DOMAIN)
    node = start("-p", f"detector:={tiny_detector_model}", "-p", f"model:={tiny_pose_model}")
    try:
        observer = rclpy.create_node("observer")
        wait(lambda: observer.count_publishers("keypoints") == 1, 60)
        node.send_signal(signal.SIGINT)
        node.communicate(timeout=30)
        wait(lambda: observer.count_publishers("keypoints") == 0, 5)  # the lease of one that says no farewell is 20 s
    finally:
        node.kill()
        node.wait()
        rclpy.shutdown()


def wait(done: Any, timeout: float) -> None:
    end = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_runs_of_the_tests_hear_nothing_of_each_other() -> None:
    code = "from ros_domains import next_domain; print([next_domain() for _ in range(20)])"
    other = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    theirs = set(json.loads(other.stdout))
    if len(theirs) == 20:
        pytest.skip("ten runs of the tests are under way on this machine")
    assert theirs.isdisjoint(next_domain() for _ in range(20))
