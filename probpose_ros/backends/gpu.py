"""The GPU through pycuda: the one thread that may touch it, and arrays with a place on both sides."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import RLock, Thread, current_thread
from typing import Any, TypeVar

import numpy as np

from probpose_ros.backends import BackendError
from probpose_ros.backends.engine import import_pycuda

Result = TypeVar("Result")


class GpuWorker:
    """The thread that owns the primary context while any session is open; the context goes when the last one closes.

    A CUDA context belongs to a thread. So all work of all networks of this process is done here: creating, running,
    freeing. Callers wait for it.

    cuda: pycuda.driver. stream: of all work.
    """

    _shared: GpuWorker | None = None
    _lock = RLock()

    def __init__(self) -> None:
        self.cuda = import_pycuda()
        self.users = 0
        self._jobs: SimpleQueue = SimpleQueue()
        # A daemon, and no ThreadPoolExecutor: that would end its thread before sessions still open at the end of the
        # process are freed, and pycuda aborts the process when a thread ends with a context.
        self._thread = Thread(target=_serve, args=(self._jobs,), name="tensorrt", daemon=True)
        self._thread.start()
        try:
            self.do(self._start)
        except self.cuda.Error as error:
            self._jobs.put(None)
            raise BackendError(f"CUDA cannot be used: {error}") from None

    @classmethod
    def acquire(cls) -> GpuWorker:
        with cls._lock:
            if cls._shared is None:
                cls._shared = cls()
            cls._shared.users += 1
            return cls._shared

    def release(self) -> None:
        with self._lock:
            self.users -= 1
            if self.users == 0:
                GpuWorker._shared = None
                try:
                    self.do(self._stop)
                except self.cuda.Error as error:  # A lost device; there is nothing left to free.
                    logging.getLogger(__name__).error("the CUDA context could not be released: %s", error)
                finally:
                    self._jobs.put(None)

    def do(self, function: Callable[..., Result], *args: Any) -> Result:
        """The function's result or exception, from the worker thread."""
        if current_thread() is self._thread:  # The garbage collector, freeing a session, happened to run there.
            return function(*args)
        answer: Future = Future()
        self._jobs.put((answer, function, args))
        return answer.result()

    def _start(self) -> None:
        self.cuda.init()
        # The primary context is the one that TensorRT's own CUDA calls use.
        self._context = self.cuda.Device(0).retain_primary_context()
        self._context.push()
        try:
            self.stream = self.cuda.Stream()
        except self.cuda.Error:
            self._drop_context()
            raise

    def _stop(self) -> None:
        del self.stream
        self._drop_context()

    def _drop_context(self) -> None:
        self._context.pop()
        self._context.detach()  # pycuda's own way, dropping the last reference, does not release a primary context.
        del self._context


class Buffer:
    """An array in pinned host memory, and as much GPU memory. Made, used and freed in the worker's thread.

    host: the array, filled or read by the caller. device: pycuda's DeviceAllocation.
    """

    def __init__(self, worker: GpuWorker, shape: tuple[int, ...], dtype: Any) -> None:
        self._cuda, self._stream = worker.cuda, worker.stream
        self.host: np.ndarray = self._cuda.pagelocked_empty(shape, np.dtype(dtype))
        self.device: Any = self._cuda.mem_alloc(self.host.nbytes)

    def upload(self, rows: int) -> None:
        """The first rows, host -> GPU; done when the stream has come so far."""
        self._cuda.memcpy_htod_async(self.device, self.host[:rows], self._stream)

    def download(self, rows: int) -> None:
        """The first rows, GPU -> host; done when the stream has come so far."""
        self._cuda.memcpy_dtoh_async(self.host[:rows], self.device, self._stream)

    def free(self) -> None:
        self.device.free()
        del self.host, self.device  # The pinned memory goes with its last reference.


def _serve(jobs: SimpleQueue) -> None:
    """The thread: jobs (Future, function, arguments) until None."""
    while (job := jobs.get()) is not None:
        answer, function, args = job
        try:
            answer.set_result(function(*args))
        except BaseException as error:
            # An exception keeps the variables of its frames alive, and GPU memory must be freed in this thread.
            cause: BaseException | None = error
            while cause is not None:
                traceback.clear_frames(cause.__traceback__)
                cause = cause.__context__
            answer.set_exception(error)
        del job, answer, function, args  # Nothing of it stays here while the thread waits.
