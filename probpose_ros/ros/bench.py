"""What images cost on their way to and through the node, measured with real processes; started by ``probpose bench``.

``python -m probpose_ros.ros.bench latency --size 1920 1080 --frames 1000``: from one process to another, or within one.
``python -m probpose_ros.ros.bench node``: the node's frame time, results, and overload. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from probpose_msgs.msg import PersonPoseArray
from probpose_ros.config import PipelineConfig
from probpose_ros.detector import letterbox
from probpose_ros.geometry import cut_crops
from probpose_ros.pipeline import Pipeline, StageClock
from probpose_ros.ros import qos
from probpose_ros.ros.convert import people_head
from probpose_ros.ros.images import bgr_to_image
from probpose_ros.ros.wire import message_bytes, people_items

SETTLE, GIVE_UP = 1.0, 60.0  # seconds: for discovery on both sides; without any sign of the other process


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    latency = commands.add_parser("latency")
    latency.add_argument("--size", type=int, nargs=2, default=[640, 480], metavar=("WIDTH", "HEIGHT"))
    latency.add_argument("--frames", type=int, default=200)
    latency.add_argument("--rate", type=float, default=30.0)
    latency.add_argument("--same-process", action="store_true")
    latency.add_argument("--send", action="store_true", help="be the other process")
    node = commands.add_parser("node")
    node.add_argument("--image", required=True, help="a .npy file: (H, W, 3) uint8")
    node.add_argument("--boxes", required=True, help="a .npy file: (5, 4), people in it")
    node.add_argument("--seconds", type=float, default=5.0, help="of each part")
    node.add_argument("--model", required=True)
    node.add_argument("--detector", required=True)
    args = parser.parse_args(argv)
    if not getattr(args, "send", False):  # Away from whatever else runs on this machine.
        os.environ["ROS_DOMAIN_ID"] = str(random.randint(1, 100))
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    rclpy.init()
    try:
        result = None
        if args.command == "node":
            result = _node(args)
        elif args.send:
            _publish(args, rclpy.create_node("bench_sender"))
        else:
            result = _latency(args)
    except (TimeoutError, OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"bench: error: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    if result is not None:
        print(json.dumps(result), flush=True)
    rclpy.try_shutdown()
    os._exit(0)  # threads that still spin would make an end of their own


class Answer(NamedTuple):
    """Of a result, in ms: when it came, how old the image was then and when the node sent it, and how long it took."""

    arrived: float
    age: float
    age_sent: float
    processing: float


class Spinning:
    """A node whose callbacks run in a thread of their own."""

    def __init__(self, name: str) -> None:
        self.node: Node = rclpy.create_node(name)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        threading.Thread(target=self.executor.spin, daemon=True).start()


def until(done: Callable[[], Any], what: str, seconds: float = GIVE_UP) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.005)


def image_of(pixels: np.ndarray) -> Image:
    stamp = time.time_ns()
    header = Header(frame_id="bench")
    header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
    return bgr_to_image(pixels, header)


def age_ms(msg: Any) -> float:
    return (time.time_ns() - msg.header.stamp.sec * 10**9 - msg.header.stamp.nanosec) / 1e6


def _publish(args: argparse.Namespace, node: Node) -> None:
    width, height = args.size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    publisher = node.create_publisher(
        Image, "bench_image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    until(publisher.get_subscription_count, "a subscriber")
    time.sleep(SETTLE)
    due = time.monotonic()
    for _ in range(args.frames):
        time.sleep(max(0.0, due - time.monotonic()))
        publisher.publish(image_of(pixels))
        due = max(due + 1 / args.rate, time.monotonic())
    time.sleep(SETTLE)


def _latency(args: argparse.Namespace) -> dict[str, Any]:
    """Latency of best-effort images, queue of 1, and how many arrive."""
    receiver = Spinning("bench_receiver")
    ages: list[float] = []
    receiver.node.create_subscription(Image, "bench_image", lambda msg: ages.append(age_ms(msg)), qos.sensor_input())
    if args.same_process:
        _publish(args, receiver.node)
    else:
        command = [sys.executable, "-m", "probpose_ros.ros.bench", "latency", "--send", "--frames", str(args.frames)]
        command += ["--rate", str(args.rate), "--size", *map(str, args.size)]
        subprocess.run(command, check=True, timeout=args.frames / args.rate * 3 + GIVE_UP)
    if not ages:
        return {"sent": args.frames, "received": 0, "ms": None}
    percentiles = dict(zip(("p50", "p99", "max"), np.percentile(ages, [50, 99, 100]).tolist(), strict=True))
    return {"sent": args.frames, "received": len(ages), "ms": percentiles}


def _node(args: argparse.Namespace) -> dict[str, Any]:
    pixels, boxes = np.load(args.image), np.load(args.boxes)
    names = {"model": args.model, "detector": args.detector}
    parameters = [part for name, value in names.items() for part in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "probpose_ros.ros.node", "--ros-args", *parameters, "-p", "stale_after:=10.0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = Spinning("bench_client")
        answers: list[Answer] = []

        def on_result(msg: PersonPoseArray) -> None:  # keeps no message: the garbage collector would stop for them
            answers.append(Answer(1e3 * time.monotonic(), age_ms(msg), msg.age_ms, msg.processing_ms))

        client.node.create_subscription(PersonPoseArray, "keypoints", on_result, 10)
        publisher = client.node.create_publisher(Image, "image", 1)
        until(lambda: publisher.get_subscription_count() and client.node.count_publishers("keypoints"), "the node")
        time.sleep(SETTLE)
        pipeline = Pipeline(PipelineConfig(**names))
        frame = _beside_the_networks(args.seconds, publisher, pixels, answers, pipeline)
        overload = _overload(args.seconds, publisher, pixels, answers, frame["answer_ms"])
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            print("bench: the node did not end within 10 s of SIGTERM", file=sys.stderr)
            process.kill()
    return {"frame": frame, "overload": overload, "result": _result(args.seconds, client.node, pixels, boxes, pipeline)}


def _beside_the_networks(
    seconds: float, publisher: Any, pixels: np.ndarray, answers: list[Any], pipeline: Pipeline
) -> dict[str, Any]:
    """The node's time for an image, from its arrival to the result's departure, in turn with the two networks alone."""
    canvas = letterbox(pixels, pipeline.detector.info.input_size)[0][None]
    found, transforms, _ = pipeline.poses([pixels], StageClock())
    crops = cut_crops([pixels], transforms, pipeline.pose.info.input_size)
    end = time.monotonic() + seconds
    rows: list[dict[str, float]] = []
    for image in itertools.cycle(moving(pixels)):
        answers.clear()
        start = time.perf_counter()
        publisher.publish(image_of(image))
        until(lambda: answers, "an answer")
        row = {"answer": 1e3 * (time.perf_counter() - start), "node": answers[0].processing}
        clock = StageClock()
        pipeline.detector.session.run(canvas)
        clock.lap("detector")
        if len(crops):
            pipeline.pose.session.run(crops)
        clock.lap("pose network")
        alone, stages = clock.stage_ms, pipeline(image).stage_ms
        rows.append(row | alone | {
            "networks": sum(alone.values()),
            "letterbox and boxes": stages["detect"] - alone["detector"],
            "crops": stages["crop"],
            "checks of the maps": stages["pose"] - alone["pose network"],
            "regions": stages["regions"],
            "waking up, reading, tracks, message": row["node"] - sum(stages.values()),
        })  # fmt: skip
        if time.monotonic() > end and len(rows) >= 8:
            break
    times = {name: np.array([row[name] for row in rows[2:]]) for name in rows[0]}
    ms = {name: float(np.median(values)) for name, values in times.items()}
    low, middle, high = np.percentile(times["node"] / times["networks"], [25, 50, 75]).tolist()
    return {
        "people": len(found[0].boxes), "node_ms": ms.pop("node"), "networks_ms": ms.pop("networks"),
        "answer_ms": ms.pop("answer"), "parts": ms, "node / networks": {"median": middle, "q25": low, "q75": high},
    }  # fmt: skip


def moving(pixels: np.ndarray) -> list[np.ndarray]:
    """The picture and one like it: the same again and again would count as frozen."""
    return [pixels, pixels ^ 1]


def _overload(
    seconds: float, publisher: Any, pixels: np.ndarray, answers: list[Any], answer_ms: float
) -> dict[str, Any]:
    """Three times as many images as the node can take."""
    answers.clear()
    images, period, end, sent = moving(pixels), answer_ms / 3e3, time.monotonic() + seconds, 0
    while time.monotonic() < end:
        publisher.publish(image_of(images[sent % 2]))
        sent += 1
        time.sleep(period)
    time.sleep(0.3)
    kept = answers[2:]
    if len(kept) < 3:
        return {"skipped": f"only {len(answers)} of {sent} images were answered"}
    frame_ms = float(np.median(np.diff([answer.arrived for answer in kept])))
    ages, sent_ages = ([getattr(answer, name) for answer in kept] for name in ("age", "age_sent"))
    percentiles = {
        name: dict(zip(("p50", "p99", "max"), np.percentile(values, [50, 99, 100]).tolist()))
        for name, values in (("age_ms", ages), ("age_ms when sent", sent_ages))
    }
    return {
        "sent": sent, "answered": len(answers), "frame_ms": frame_ms, **percentiles,
        "p99 age / frame": percentiles["age_ms"]["p99"] / frame_ms,
    }  # fmt: skip


def _result(seconds: float, node: Node, pixels: np.ndarray, boxes: np.ndarray, pipeline: Pipeline) -> dict[str, Any]:
    """Building and publishing the result of five people, with a subscriber, in turn with the whole frame."""
    from probpose_ros.types import Detections

    known = Detections(boxes, np.ones(len(boxes), np.float32))
    publisher = node.create_publisher(PersonPoseArray, "bench_result", qos.OUTPUT)
    node.create_subscription(PersonPoseArray, "bench_result", lambda msg: None, 10)
    detector = pipeline.detector

    class Known:
        def __call__(self, images: Any) -> list[Detections]:
            detector(images)
            return [known] * len(images)

    pipeline.detector = Known()
    end = time.monotonic() + seconds
    build: list[float] = []
    frames: list[float] = []
    while time.monotonic() < end or len(build) < 8:
        (result,) = pipeline.process([pixels])
        start = time.perf_counter()
        head = people_head(result, Header(), pipeline.config.levels, "bench")
        publisher.publish(message_bytes(head, len(result.people), people_items(result.people, False)))
        build.append(1e3 * (time.perf_counter() - start))
        frames.append(sum(result.stage_ms.values()))
    share = np.median(np.array(build[2:]) / np.array(frames[2:]))
    return {
        "people": len(boxes),
        "ms": statistics.median(build),
        "frame_ms": statistics.median(frames),
        "share": float(share),
    }


if __name__ == "__main__":
    main()
