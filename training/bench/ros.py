"""Images between processes and the node under load: runs ``probpose_ros.ros.bench`` in processes of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from probpose_ros.transport import transport_environment
from probpose_training.bench.frames import SIZES, picture

LARGE = ("VGA", "720p", "1080p")


def transport(frames: int) -> dict[str, Any]:
    """Latency and loss with our transport profile, within one process, and as Fast DDS comes; ``frames`` at 1080p."""
    if reason := missing():
        return {"skipped": reason}
    ours, plain = transport_environment(), dict(os.environ)
    for name in ours:
        plain.pop(name, None)
    found: dict[str, Any] = {}
    for name in LARGE:
        size = ["--size", *map(str, SIZES[name])]
        many = frames if name == "1080p" else max(1, frames // 5)
        few = max(1, frames // 10)
        found[name] = {
            "two processes, our profile": _bench({**plain, **ours}, "latency", *size, "--frames", str(many)),
            "one process, our profile": _bench(
                {**plain, **ours}, "latency", *size, "--frames", str(few), "--same-process"
            ),
            "two processes, Fast DDS as it comes": _bench(plain, "latency", *size, "--frames", str(few)),
        }
    two, one = (found["1080p"][f"{way}, our profile"] for way in ("two processes", "one process"))
    return {
        "sizes": found,
        "1080p ratio": two["ms"]["p50"] / one["ms"]["p50"],
        "1080p lost": two["sent"] - two["received"],
    }


def node(model: str, detector: str, seconds: float) -> dict[str, Any]:
    """The node's frame time beside the networks alone, building the result, and three times too many images."""
    if reason := missing():
        return {"skipped": reason}
    with tempfile.TemporaryDirectory() as folder:
        image, boxes = Path(folder) / "image.npy", Path(folder) / "boxes.npy"
        np.save(image, picture(2)[0])
        np.save(boxes, picture(5)[1].boxes)
        environment = {**os.environ, **transport_environment()}
        arguments = ("--image", str(image), "--boxes", str(boxes), "--seconds", str(seconds))
        return _bench(environment, "node", *arguments, "--model", model, "--detector", detector)


def missing() -> str:
    for name in ("rclpy", "probpose_msgs"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not here: make test, or source ROS and the workspace"
    return ""


def _bench(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "probpose_ros.ros.bench", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:4])}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
