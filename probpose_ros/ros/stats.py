"""What one camera's stream did: counts, rates, ages, and the state that follows from them. Knows no ROS."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from operator import sub

import numpy as np

from probpose_ros.types import FrameState

FRAME_TIMES = 10  # the last ones make the frame time: a changed rate counts soon
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
    last_error: str = ""  # of an image that gave no result, or whose result says nothing
    # Other threads append while one reads: read a copy, tuple(...).
    inputs: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    outputs: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    ages: deque[float] = field(default_factory=lambda: deque(maxlen=300))
    newest: FrameState = FrameState.UNKNOWN
    frame_time: float = 0.0  # s, median of the last FRAME_TIMES; 0: too few to tell

    def arrived(self, dropped_another: bool) -> None:
        self.received += 1
        self.dropped += dropped_another
        self.inputs.append(time.monotonic())

    def finished(self, state: FrameState, age_ms: float, error: str = "", failed: bool = False) -> None:
        """One image is done with. error: why its state is UNKNOWN. failed: it gave no result at all."""
        self.errors += failed
        self.processed += not failed
        self.last_error = error or self.last_error
        self.newest = state
        self.ages.append(age_ms)
        self.outputs.append(time.monotonic())
        recent = tuple(self.outputs)[-FRAME_TIMES - 1 :]
        if len(recent) > STALE_FRAMES:
            self.frame_time = statistics.median(map(sub, recent[1:], recent))

    def limit_ms(self) -> float:
        """Age from which a result is STALE: ``stale_after`` or three frame times, whichever is longer."""
        return 1000 * max(self.stale_after, STALE_FRAMES * self.frame_time)

    def doubt(self, age_ms: float) -> str:
        """Why nothing can be said of an image of that age; empty if something can."""
        if math.isnan(age_ms):
            return "the image has no stamp, so its age is not known"
        if age_ms < -FUTURE_TOLERANCE_MS:
            return f"the image's stamp is {-age_ms:.1f} ms in the future: the clocks differ or one jumped"
        if age_ms > UNKNOWN_FACTOR * self.limit_ms():
            return f"the image is {age_ms:.0f} ms old: the stream is late, or a clock jumped"
        return ""

    def judge(self, state: FrameState, age_ms: float) -> FrameState:
        """The state of a result of that age."""
        if self.doubt(age_ms) or state == FrameState.UNKNOWN:
            return FrameState.UNKNOWN
        return FrameState.STALE if age_ms > self.limit_ms() else state

    def now(self) -> tuple[FrameState, float]:
        """State and age of the newest result at this moment. The age goes on even if the ROS clock stands still."""
        outputs = tuple(self.outputs)
        if not outputs:
            return FrameState.UNKNOWN, math.nan
        age = self.ages[-1] + 1000 * (time.monotonic() - outputs[-1])
        return self.judge(self.newest, age), age

    def silent(self) -> bool:
        """Whether no image has been finished for longer than the limit."""
        outputs = tuple(self.outputs)
        return not outputs or 1000 * (time.monotonic() - outputs[-1]) > self.limit_ms()

    def age_percentiles(self) -> tuple[float, float]:
        """p50 and p99 of the last 300 ages at publication, ms."""
        ages = [age for age in tuple(self.ages) if not math.isnan(age)]
        return (float(np.percentile(ages, 50)), float(np.percentile(ages, 99))) if ages else (math.nan, math.nan)


def rate(times: deque[float]) -> float:
    """Events per second over the events remembered; 0 when the last is older than 2 s."""
    if len(times) < 2 or time.monotonic() - times[-1] > 2:
        return 0.0
    return (len(times) - 1) / max(times[-1] - times[0], 1e-9)
