"""Fair timing: the cases in turn, and ratios within rounds, so that a drifting machine hits all alike."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Times = dict[str, list[float]]
PATIENCE = 3  # times the wanted time; on a machine that is busy some cases take a hundred times as long


def interleave(cases: Mapping[str, Callable[[], Any]], seconds: float, threads: int = 0, least: int = 5) -> Times:
    """Milliseconds of every case in every round, for about ``seconds``; one more round before warms up.

    threads: of the cases. 1: measured in processor time, which other processes on a busy machine do not change.
    least: rounds, unless even a few take far longer.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    times: Times = {name: [] for name in cases}
    for case in cases.values():
        case()
    begin, rounds = time.monotonic(), 0
    while not rounds or time.monotonic() - begin < seconds * (PATIENCE if rounds < least else 1):
        for name, case in cases.items():
            start = clock()
            case()
            times[name].append(1e3 * (clock() - start))
        rounds += 1
    return times


def summary(times: Times) -> dict[str, dict[str, float]]:
    return {
        name: {"median": statistics.median(values), "min": min(values), "rounds": len(values)}
        for name, values in times.items()
    }


def ratio(times: Times, case: str, other: str) -> dict[str, float]:
    """Of ``case`` over ``other``, round by round: median and quartiles."""
    quotients = np.array(times[case]) / np.array(times[other])
    low, middle, high = np.percentile(quotients, [25, 50, 75])
    return {"median": float(middle), "q25": float(low), "q75": float(high)}


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    import cv2
    import onnxruntime

    cpu = platform.processor() or platform.machine()
    if os.path.isfile("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), cpu)
    versions = {"python": platform.python_version(), "numpy": np.__version__, "opencv": cv2.__version__}
    versions["onnxruntime"] = onnxruntime.__version__
    for name in ("torch", "openvino"):
        try:
            versions[name] = __import__(name).__version__
        except ImportError:
            pass
    return {
        "cpu": cpu, "cores": os.cpu_count(), "load_at_start": os.getloadavg()[0], "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
