"""Latest frame only: one slot per camera and one thread that owns the pipeline. Knows neither ROS nor images."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


class Worker:
    """Calls ``process`` in one thread with the newest item of every key put since the last call.

    An item that is replaced before the thread took it is never processed; ``put`` says so, and the caller counts it.
    """

    def __init__(self, process: Callable[[dict[Any, Any]], None], on_error: Callable[[Exception], None]) -> None:
        self._process = process
        self._on_error = on_error
        self._slots: dict[Any, Any] = {}
        self._changed = threading.Condition()
        self.stopping = False
        self._taken: float | None = None  # when the items in hand were taken, time.monotonic
        # A daemon: a hung network must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="probpose_worker", daemon=True)
        self._thread.start()

    def put(self, key: Any, item: Any) -> bool:
        """Sets a camera's slot; True when that dropped an item still waiting there."""
        with self._changed:
            dropped = key in self._slots
            self._slots[key] = item
            self._changed.notify()
        return dropped

    def stop(self, timeout: float) -> bool:
        """Ends the thread after the item in hand; False when it still hangs after ``timeout`` seconds."""
        with self._changed:
            self.stopping = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def busy_for(self) -> float:
        """Seconds since the items in hand were taken; 0 while there are none."""
        taken = self._taken
        return 0.0 if taken is None else time.monotonic() - taken

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._slots or self.stopping)
                if self.stopping:
                    return
                items, self._slots = self._slots, {}
            self._taken = time.monotonic()
            try:
                self._process(items)
            except Exception as error:  # whatever one frame does, the next one gets its chance
                self._on_error(error)
            del items  # waiting for the next ones must not keep the images
            self._taken = None
