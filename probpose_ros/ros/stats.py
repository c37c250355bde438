"""What one camera's stream did: counts, rates, ages, and the state that follows from them. Knows no ROS."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from probpose_ros.types import FrameState

STALE_FRAMES = 3  # a result older than this many frame times (and than `stale_after`) is STALE ...
UNKNOWN_FACTOR = 10  # ... and older than this many times that limit it says nothing at all: UNKNOWN
FUTURE_TOLERANCE_MS = 10.0  # clocks of two machines kept in step differ by less


@dataclass
class Stats:
    """Times in seconds are ``time.monotonic``; ages are in ms, NaN where the image carries no stamp."""

    stale_after: float
    received: int = 0
    processed: int = 0
    dropped: int = 0
    errors: int = 0
    last_error: str = ""
    # Other threads append while one reads: read a copy, tuple(...).
    inputs: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    outputs: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    ages: deque[float] = field(default_factory=lambda: deque(maxlen=300))
    newest: FrameState = FrameState.UNKNOWN

    def arrived(self, dropped_another: bool) -> None:
        self.received += 1
        self.dropped += dropped_another
        self.inputs.append(time.monotonic())

    def finished(self, state: FrameState, age_ms: float, error: str = "") -> None:
        """One image is done with; ``error``: it gave no result, and why."""
        if error:
            self.errors += 1
            self.last_error = error
        else:
            self.processed += 1
        self.newest = state
        self.ages.append(age_ms)
        self.outputs.append(time.monotonic())

    def limit_ms(self) -> float:
        """Age from which a result is STALE: ``stale_after`` or three frame times, whichever is longer."""
        intervals = np.diff(tuple(self.outputs))
        return 1000 * max(self.stale_after, STALE_FRAMES * float(np.median(intervals)) if len(intervals) else 0.0)

    def judge(self, state: FrameState, age_ms: float) -> FrameState:
        """The state of a result of that age; a stamp in the future means that no age can be told."""
        limit = self.limit_ms()
        if age_ms < -FUTURE_TOLERANCE_MS or age_ms > UNKNOWN_FACTOR * limit:
            return FrameState.UNKNOWN
        return FrameState.STALE if age_ms > limit and state != FrameState.UNKNOWN else state

    def now(self) -> tuple[FrameState, float]:
        """State and age of the newest result at this moment. The age goes on even if the ROS clock stands still."""
        if not self.outputs:
            return FrameState.UNKNOWN, math.nan
        since = 1000 * (time.monotonic() - self.outputs[-1])
        age = self.ages[-1] + since
        return self.judge(self.newest, since if math.isnan(age) else age), age

    def age_percentiles(self) -> tuple[float, float]:
        """p50 and p99 of the last 300 ages at publication, ms."""
        ages = [age for age in tuple(self.ages) if not math.isnan(age)]
        return (float(np.percentile(ages, 50)), float(np.percentile(ages, 99))) if ages else (math.nan, math.nan)


def rate(times: deque[float]) -> float:
    """Events per second over the events remembered; 0 when the last is older than 2 s."""
    if len(times) < 2 or time.monotonic() - times[-1] > 2:
        return 0.0
    return (len(times) - 1) / max(times[-1] - times[0], 1e-9)
