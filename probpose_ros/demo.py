"""The demo: camera, pose node and recorder as three processes that talk over ROS 2. ``python -m probpose_ros.demo``.

Without ROS (its wheels exist for x86-64 Linux only) it says so and runs the same pipeline in this process.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from probpose_ros.bags import STORAGES, check_new
from probpose_ros.config import PipelineConfig

VIRTUAL_FRAMES, CAMERA_FRAMES, RATE = 150, 300, 15.0
START = 60.0  # seconds a process may take to appear
DEFAULTS = PipelineConfig()


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="probpose_ros.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="image, folder, video, bag or camera index (default: photographs)")
    parser.add_argument("--frames", type=int, help="stop after this many images")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the results (default: %(default)s)")
    parser.add_argument("--model", default=DEFAULTS.model, help="pose model, name or path (default: %(default)s)")
    parser.add_argument("--detector", default=DEFAULTS.detector, help="detector, name or path (default: %(default)s)")
    parser.add_argument("--bag", choices=STORAGES, help="record a ROS 2 bag too: OUT/bag (needs ROS and rosbags)")
    parser.add_argument("--no-ros", action="store_true", help="run the pipeline in this process even if ROS is there")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the children are ended then too
    started = time.monotonic()
    try:
        if args.frames is not None and args.frames < 2:
            raise ValueError(f"--frames {args.frames}: must be at least 2")
        args.source = args.source or None  # make passes an empty SOURCE
        frames, rate = plan(args.source, args.frames)
        missing = [
            name for name in ("rclpy", "probpose_msgs") if not args.no_ros and not importlib.util.find_spec(name)
        ]
        if missing:
            print(f"ROS 2 is not here ({', '.join(missing)} missing): the same pipeline runs without it.")
        if args.bag and (args.no_ros or missing):
            raise ValueError(f"--bag {args.bag}: needs ROS; without it: probpose run SOURCE --bag {args.bag}")
        if args.bag:
            check_new(args.out / "bag")
        (run_without_ros if args.no_ros or missing else run_with_ros)(args, frames, rate)
    except (DemoError, ValueError, OSError, ModuleNotFoundError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"total        {time.monotonic() - started:.1f} s")
    return 0


def plan(source: str | None, frames: int | None) -> tuple[int | None, float]:
    """Number of images to expect (None: unknown) and images a second. Refuses an unreadable source at once."""
    if source is None:
        return frames or VIRTUAL_FRAMES, RATE
    if source.isdigit() and not Path(source).exists():
        return frames or CAMERA_FRAMES, RATE  # not opened here: a camera can be open only once
    from probpose_ros.sources import open_source

    opened = open_source(source)
    length = opened.length if frames is None else min(frames, opened.length or frames)
    return length, min(opened.fps or RATE, 30.0)


def run_with_ros(args: argparse.Namespace, frames: int | None, rate: float) -> None:
    """Starts node, recorder and camera, and waits for the recorder; none of them is left behind."""
    from probpose_ros.transport import transport_environment

    args.out.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        **transport_environment(),
        # Its own corner of the network: neither sees nor disturbs a robot.
        "ROS_DOMAIN_ID": str(random.randint(1, 100)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(args.out / "log"),
    }
    limit = [] if frames is None else ["--frames", str(frames)]
    bag = [] if args.bag is None else ["--bag", args.bag]
    source = [] if args.source is None else ["--source", args.source]
    ros = ["--ros-args", "-r", "__ns:=/probpose"]
    commands = {
        "node": [*ros, "-p", f"model:={args.model}", "-p", f"detector:={args.detector}"],
        "recorder": ["--out", str(args.out), "--fps", str(rate), "--wait", str(START), *bag, *limit, *ros],
        "camera_node": [*source, *limit, "--rate", str(rate), "--subscribers", "2", "--wait", str(START), *ros],
    }
    log = args.out / "node.log"
    children: dict[str, subprocess.Popen] = {}
    try:
        with open(log, "wb") as node_log:
            for name, arguments in commands.items():
                children[name] = subprocess.Popen(
                    [sys.executable, "-m", f"probpose_ros.ros.{name}", *arguments], env=environment,
                    stderr=node_log if name == "node" else None, stdout=node_log if name == "node" else None,
                )  # fmt: skip
        supervise(children, log)
    finally:
        stop(children.values())


def supervise(children: dict[str, subprocess.Popen], log: Path) -> None:
    """Returns when the recorder is done. DemoError when a process ends that should not have."""
    while True:
        status = {name: child.poll() for name, child in children.items()}
        if status["recorder"] == 0:
            return
        if status["node"] is not None:
            tail = log.read_text(errors="replace").strip().splitlines()[-5:]
            raise DemoError("\n".join([f"the pose node ended with status {status['node']}:", *tail]))
        if status["camera_node"]:
            raise DemoError(f"the camera ended with status {status['camera_node']}")
        if status["recorder"]:
            raise DemoError(f"the recorder ended with status {status['recorder']}; the node's log is {log}")
        time.sleep(0.05)


def stop(children) -> None:
    """SIGINT, three seconds of patience, SIGKILL; every child is waited for."""
    for child in children:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
    end = time.monotonic() + 3
    for child in children:
        try:
            child.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def run_without_ros(args: argparse.Namespace, frames: int | None, rate: float) -> None:
    """The same pipeline on the same images, one after the other in this process."""
    import itertools

    from tqdm import tqdm

    from probpose_ros.pipeline import Pipeline
    from probpose_ros.recording import Recording
    from probpose_ros.serialize import frame_to_dict
    from probpose_ros.sources import open_source
    from probpose_ros.tracking import Tracker
    from probpose_ros.virtual_camera import VirtualCamera

    config = PipelineConfig(model=args.model, detector=args.detector)
    pipeline, tracker = Pipeline(config), Tracker()
    images = (
        iter(VirtualCamera(frames or VIRTUAL_FRAMES))
        if args.source is None
        else (image for _, image in open_source(args.source))
    )
    recording = Recording(args.out, rate)
    try:
        for count, image in enumerate(tqdm(itertools.islice(images, frames), total=frames, unit="frame", disable=None)):
            began = time.time()
            result = tracker.track(pipeline(image), count / rate)
            values = frame_to_dict(
                result, levels=config.levels, model=pipeline.pose.info.name, stamp=began, sequence=count,
                age_ms=1e3 * (time.time() - began),
            )  # fmt: skip
            recording.add(image, result, values)
    finally:
        recording.close()
    print(recording.summary(recording.count))


if __name__ == "__main__":
    sys.exit(main())
