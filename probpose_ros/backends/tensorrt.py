"""TensorRT engines through pycuda.

A CUDA context belongs to a thread. So one worker thread holds the GPU's primary context and a stream, and does all work
of all networks of this process: creating, running, freeing. Callers wait for it.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import RLock, get_ident
from typing import Any, TypeVar

import numpy as np

from probpose_ros.backends import BackendError, TensorSpec
from probpose_ros.backends.engine import (
    Engine,
    build_command,
    find_engine,
    import_pycuda,
    import_tensorrt,
    make_logger,
    this_device,
)

Result = TypeVar("Result")

_DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8,
           "BOOL": np.bool_}  # fmt: skip


class GpuWorker:
    """The thread that owns the primary context while any session is open; the context goes when the last one closes.

    cuda: pycuda.driver. stream: of all work.
    """

    _shared: GpuWorker | None = None
    _lock = RLock()

    def __init__(self) -> None:
        self.cuda = import_pycuda()
        self.users = 0
        self._thread = ThreadPoolExecutor(1, "tensorrt")
        self._ident = self._thread.submit(get_ident).result()
        try:
            self.do(self._start)
        except self.cuda.Error as error:
            self._thread.shutdown()
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
                self.do(self._stop)
                self._thread.shutdown(wait=False)

    def do(self, function: Callable[..., Result], *args: Any) -> Result:
        """The function's result or exception, from the worker thread."""
        if get_ident() == self._ident:  # The garbage collector, freeing a session, happened to run there.
            return function(*args)
        return self._thread.submit(_call, function, *args).result()

    def _start(self) -> None:
        self.cuda.init()
        # The primary context is the one that TensorRT's own CUDA calls use.
        self._context = self.cuda.Device(0).retain_primary_context()
        self._context.push()
        self.stream = self.cuda.Stream()

    def _stop(self) -> None:
        del self.stream
        self._context.pop()
        del self._context


class TensorRTSession:
    """An engine of the cache, ready to run; see :class:`probpose_ros.backends.Session`. Never builds one.

    Args:
        model: the ONNX file that the engine was built from.
        engine: of the cache; None: the one for this machine (EngineError with the command if there is none).
    """

    backend = "tensorrt"

    def __init__(self, model: Path, engine: Engine | None = None) -> None:
        self.engine = engine or find_engine(model, this_device())
        self.metadata = dict(self.engine.metadata)
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        content = self.engine.read()
        self._worker = GpuWorker.acquire()
        self._buffers: dict[str, tuple[np.ndarray, Any]] = {}  # name -> (pinned host array, device memory)
        self._objects: list[Any] = []  # TensorRT's, in the order in which they are to be freed
        self._close = weakref.finalize(self, _free, self._worker, self._buffers, self._objects)
        self._close.atexit = False  # The end of the process frees everything, and the thread is gone by then.
        try:
            self._worker.do(self._load, model, content)
        except BaseException:
            self.close()
            raise

    def run(self, feed: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. More rows than the engine takes go through it in several batches."""
        if not self._close.alive:
            raise BackendError(f"{self.engine.path}: the session is closed")
        if isinstance(feed, np.ndarray):
            (name,) = self.inputs
            feed = {name: feed}
        for name, spec in self.inputs.items():
            if name not in feed or feed[name].dtype != spec.dtype or feed[name].shape[1:] != spec.shape[1:]:
                got = f"{feed[name].dtype} {feed[name].shape}" if name in feed else "nothing"
                raise BackendError(f"input {name!r} is {spec}; got {got}")
        rows, limit = len(next(iter(feed.values()))), self.engine.fingerprint.max_batch
        parts = [
            self._worker.do(self._run, {name: value[start : start + limit] for name, value in feed.items()})
            for start in range(0, rows, limit)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}

    def close(self) -> None:
        """Frees the buffers, the engine and, with the last session, the context. Harmless when called again."""
        self._close()

    def _load(self, model: Path, content: bytes) -> None:
        trt, cuda = import_tensorrt(), self._worker.cuda
        logger = self._logger = make_logger(trt)
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(content)
        limit = self.engine.fingerprint.max_batch
        if engine is None:
            how = build_command(model, self.engine.fingerprint.precision, limit)
            reason = logger.errors[-1] if logger.errors else "no reason given"
            raise BackendError(f"{self.engine.path}: TensorRT cannot load it ({reason}); rebuild: {how}")
        context = engine.create_execution_context()
        if context is None:
            raise BackendError(f"{self.engine.path}: {self._reason('no execution context')}")
        self._objects += [context, engine, runtime, logger]
        try:
            for i in range(engine.num_io_tensors):
                name = engine.get_tensor_name(i)
                rest = tuple(engine.get_tensor_shape(name))[1:]
                dtype = np.dtype(_DTYPES[engine.get_tensor_dtype(name).name])
                side = self.inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else self.outputs
                side[name] = TensorSpec((None, *rest), dtype)
                host = cuda.pagelocked_empty((limit, *rest), dtype)
                self._buffers[name] = host, cuda.mem_alloc(host.nbytes)
                context.set_tensor_address(name, int(self._buffers[name][1]))
        except cuda.Error as error:
            raise BackendError(f"{self.engine.path}: no GPU memory for its buffers ({error})") from None

    def _run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        cuda, stream, context = self._worker.cuda, self._worker.stream, self._objects[0]
        rows = len(next(iter(feed.values())))
        self._logger.errors.clear()
        try:
            for name, value in feed.items():
                host, device = self._buffers[name]
                host[:rows] = value
                if not context.set_input_shape(name, value.shape):
                    raise BackendError(f"input {name!r} {value.shape}: {self._reason('shape refused')}")
                cuda.memcpy_htod_async(device, host[:rows], stream)
            if not context.execute_async_v3(stream.handle):
                raise BackendError(f"{self.engine.path}: {self._reason('execution failed')}")
            for name in self.outputs:
                host, device = self._buffers[name]
                cuda.memcpy_dtoh_async(host[:rows], device, stream)
            stream.synchronize()
        except cuda.Error as error:
            raise BackendError(f"{self.engine.path}: the GPU failed: {error}") from None
        return {name: self._buffers[name][0][:rows].copy() for name in self.outputs}

    def _reason(self, what: str) -> str:
        return self._logger.errors[-1] if self._logger.errors else what


def _call(function: Callable[..., Result], *args: Any) -> Result:
    try:
        return function(*args)
    except BaseException as error:
        # An exception keeps the variables of its frames alive, and GPU memory must be freed in this thread.
        traceback.clear_frames(error.__traceback__)
        raise


def _free(worker: GpuWorker, buffers: dict[str, tuple[np.ndarray, Any]], objects: list[Any]) -> None:
    def free() -> None:
        # Each dies with its last reference, here in the thread that has the context: the execution context first.
        while objects:
            objects.pop(0)
        while buffers:
            _, device = buffers.popitem()[1]  # The pinned array likewise goes with its last reference.
            device.free()

    try:
        worker.do(free)
    finally:
        worker.release()
