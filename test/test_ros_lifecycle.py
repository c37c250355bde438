"""Any order of transitions, images and parameter changes; workers that hang; remaps; parameters at run time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from ros_bench import Bench, Image, PersonPoseArray, SkeletonInfo, Status, rclpy
from test_ros_node import NOBODY, PEOPLE, make  # noqa: F401  (fixture)

pytestmark = pytest.mark.ros

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from probpose_ros.ros import node as node_module  # noqa: E402

ALLOWED = {
    "unconfigured": {"configure": "inactive"},
    "inactive": {"activate": "active", "cleanup": "unconfigured"},
    "active": {"deactivate": "inactive"},
}
DOWN = {"active": "deactivate", "inactive": "cleanup"}
STEPS = ["configure", "activate", "deactivate", "cleanup", "image", "wait", "parameter", "bad parameter"]


def descriptors() -> int:
    import os

    return len(os.listdir("/proc/self/fd"))


def test_any_order_of_transitions_images_and_parameters(make: Callable[..., Bench]) -> None:  # noqa: F811
    bench = make(active=False)
    bench.listen("status", Status)
    publisher = bench.client.create_publisher(Image, "image", 1)
    threads, handles, runs = set(threading.enumerate()), [], 0

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.sampled_from(STEPS), max_size=12))
    def walk(steps: list[str]) -> None:
        nonlocal runs
        state = "unconfigured"
        for step in steps:
            if step == "image":
                publisher.publish(bench.image(PEOPLE))
            elif step == "wait":
                bench.executor.spin_once(timeout_sec=0.02)
            elif step.endswith("parameter"):
                value = 7.0 if step.startswith("bad") else float(np.random.default_rng(len(steps)).uniform())
                result = bench.node.set_parameters([Parameter("detector_threshold", value=value)])[0]
                assert result.successful == (value <= 1.0)
            else:
                state = ALLOWED[state].get(step, state) if change(bench, step, state) else state
            assert bench.node._state_machine.current_state[1] == state
            assert (len(bench.node.channels), bench.node.worker is None) == (state != "unconfigured", state != "active")
        while state != "unconfigured":
            assert change(bench, DOWN[state], state)
            state = ALLOWED[state][DOWN[state]]
        assert set(threading.enumerate()) == threads
        handles.append(descriptors())
        runs += 1

    walk()
    assert runs >= 25 and max(handles[5:]) <= max(handles[:5]) + 2  # no file handle is left behind
    assert bench.node.trigger_configure().name == bench.node.trigger_activate().name == "SUCCESS"
    bench.listen("keypoints", PersonPoseArray)
    assert bench.node.set_parameters([Parameter("detector_threshold", value=0.4)])[0].successful
    assert len(bench.answer(publisher, bench.image(PEOPLE)).people) == 2


def change(bench: Bench, transition: str, state: str) -> bool:
    """Whether the transition was made; it must be exactly when the state allows it."""
    made = getattr(bench.node, f"trigger_{transition}")().name == "SUCCESS"
    assert made == (transition in ALLOWED[state])
    return made


def test_a_hung_worker_is_left_behind_and_their_number_is_bounded(
    make: Callable[..., Bench],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    monkeypatch.setattr(node_module, "STOP_TIMEOUT", 0.05)
    bench = make()
    bench.listen_to_results()
    publisher, go = bench.publisher(), threading.Event()
    for hung in range(1, node_module.MOST_HUNG + 1):
        inside = threading.Event()
        monkeypatch.setattr(bench.node.pipeline, "process", lambda images, e=inside: e.set() or go.wait(60) or [])
        while not inside.is_set():
            publisher.publish(bench.image(PEOPLE))
            bench.executor.spin_once(timeout_sec=0.02)
        assert bench.node.trigger_deactivate().name == "SUCCESS"
        assert len(bench.node.hung) == hung
        assert bench.node.trigger_activate().name == "FAILURE"  # the models are with the worker that hangs
        assert bench.node.trigger_cleanup().name == "SUCCESS"
        configured = bench.node.trigger_configure().name
        assert configured == ("SUCCESS" if hung < node_module.MOST_HUNG else "FAILURE")
        if configured == "SUCCESS":
            assert bench.node.trigger_activate().name == "SUCCESS"
            bench.until(lambda: publisher.get_subscription_count(), "subscribed again")
            assert bench.answer(publisher, bench.image(PEOPLE)).state == PersonPoseArray.OK
    assert "workers still hang; restart the process" in capfd.readouterr().err

    answers = len(bench.messages["keypoints"])
    go.set()  # the networks come back after all: nothing old is published, and the node is as good as new
    bench.until(lambda: not any(worker.alive() for worker in bench.node.hung), "the old workers ended")
    assert len(bench.messages["keypoints"]) == answers
    assert bench.node.trigger_configure().name == bench.node.trigger_activate().name == "SUCCESS"
    bench.until(lambda: publisher.get_subscription_count(), "subscribed again")
    assert bench.answer(publisher, bench.image(PEOPLE)).state == PersonPoseArray.OK
    assert not bench.node.hung


def test_input_checks_change_at_run_time(make: Callable[..., Bench]) -> None:  # noqa: F811
    bench = make()
    bench.listen_to_results()
    publisher = bench.publisher()

    def state_with(picture: np.ndarray, **values: float) -> int:
        changes = [Parameter(name, value=value) for name, value in values.items()]
        assert all(result.successful for result in bench.node.set_parameters(changes))
        return bench.answer(publisher, bench.image(picture)).state

    assert state_with(NOBODY) == PersonPoseArray.NO_PERSON_DETECTED
    assert state_with(NOBODY, min_contrast=16.0) == PersonPoseArray.UNKNOWN
    assert state_with(NOBODY, min_contrast=0.0) == PersonPoseArray.NO_PERSON_DETECTED
    time.sleep(0.01)
    assert state_with(NOBODY, frozen_after=0.01) == PersonPoseArray.UNKNOWN
    assert state_with(NOBODY, frozen_after=0.0) == PersonPoseArray.NO_PERSON_DETECTED
    refused = bench.node.set_parameters([Parameter("frozen_after", value=-1.0)])[0]
    assert not refused.successful and "Max: 10.0" in refused.reason


def test_namespace_and_remaps(tiny_detector_model: Any, tiny_pose_model: Any) -> None:
    bench = Bench(tiny_detector_model, tiny_pose_model)  # only for its client and its executor
    arguments = ["--ros-args", "-r", "__ns:=/robot1", "-r", "image:=/cam/image_raw", "-r", "keypoints:=/people"]
    overrides = {"detector": str(tiny_detector_model), "model": str(tiny_pose_model), "min_contrast": 0.0}
    node = node_module.PoseNode(
        cli_args=arguments, parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()]
    )
    try:
        bench.executor.add_node(node)
        assert node.trigger_configure().name == node.trigger_activate().name == "SUCCESS"
        topics = {publisher.topic_name for publisher in node.publishers}
        assert {"/people", "/robot1/zones", "/robot1/status", "/diagnostics"} <= topics
        assert "/robot1/keypoints" not in topics
        bench.listen("/people", PersonPoseArray)
        bench.listen("/robot1/skeleton_info", SkeletonInfo)
        assert bench.answer(bench.publisher("/cam/image_raw"), bench.image(PEOPLE), "/people").people
    finally:
        node.on_shutdown()
        node.destroy_node()
        bench.close()


def test_no_callback_ends_the_node(make: Callable[..., Bench]) -> None:  # noqa: F811
    """spin() goes on after a callback that raises, and ends with the context."""
    bench = make(active=False)
    executor = SingleThreadedExecutor()
    executor.add_node(bench.node)
    calls = []

    def fail() -> None:
        calls.append(1)
        if len(calls) == 3:
            threading.Thread(target=rclpy.shutdown).start()
        raise MemoryError("no memory for a message")

    bench.node.create_timer(0.001, fail)
    bench.executor.remove_node(bench.node)
    executor.add_node(bench.node)
    spinner = threading.Thread(target=spin_quietly, args=(bench.node, executor))
    spinner.start()
    spinner.join(30)
    assert not spinner.is_alive() and len(calls) >= 3
    rclpy.init()  # for the fixture, which shuts down


def spin_quietly(node: Any, executor: Any) -> None:
    from rclpy.executors import ExternalShutdownException

    try:
        node_module.spin(node, executor)
    except ExternalShutdownException:
        pass
