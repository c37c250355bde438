"""A thread of its own that publishes at a fixed rate, whatever the worker and the executor do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Heartbeat:
    """Calls ``beat(n)``, n = 0, 1, 2 ..., every ``period`` seconds until ``stop``; errors do not end it."""

    def __init__(self, period: float, beat: Callable[[int], None], on_error: Callable[[Exception], None]) -> None:
        self._period, self._beat, self._on_error = period, beat, on_error
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probpose_heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        count, due = 0, time.monotonic()
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            try:
                self._beat(count)
            except Exception as error:
                self._on_error(error)
            count += 1
            due = max(due + self._period, time.monotonic())  # late beats are left out, not made up for
