"""CUDA graphs: work recorded once from a stream and started again by one call. Through the driver, for pycuda has none.

Signatures are those of cuda.h from CUDA 11.4 to 13.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do to the GPU does not spoil the recording.

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuStreamBeginCapture_v2": (ctypes.c_void_p, ctypes.c_int),
    "cuStreamEndCapture": (ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)),
    "cuGraphInstantiateWithFlags": (ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p, ctypes.c_ulonglong),
    "cuGraphLaunch": (ctypes.c_void_p, ctypes.c_void_p),
    "cuGraphDestroy": (ctypes.c_void_p,),
    "cuGraphExecDestroy": (ctypes.c_void_p,),
}


class GraphError(RuntimeError):
    """The driver has no graphs, or the work cannot be one; whoever asked runs it without."""


@cache
def driver(name: str = "libcuda.so.1") -> ctypes.CDLL:
    """The driver's library, the same that pycuda loaded, with the functions' types."""
    try:
        library = ctypes.CDLL(name)
        for function, types in _SIGNATURES.items():
            getattr(library, function).argtypes = types
            getattr(library, function).restype = ctypes.c_int
    except (OSError, AttributeError) as error:
        raise GraphError(f"the CUDA driver has no graphs ({error})") from None
    return library


class CudaGraph:
    """What ``record`` puts into the stream, to be launched again and again.

    Args:
        stream: the CUstream's address; its context must be current in the calling thread.
        record: enqueues the work, all of it asynchronous and into this stream; nothing of it runs yet.

    Raises:
        GraphError: the work cannot be recorded; the stream is usable all the same.
    """

    def __init__(self, stream: int, record: Callable[[], None]) -> None:
        self._driver, self._stream, self._exec = driver(), ctypes.c_void_p(stream), ctypes.c_void_p()
        graph = ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)
        try:
            record()
        except Exception as error:
            self._driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))  # Else the stream stays in recording.
            raise GraphError(str(error)) from None
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._exec), graph, 0)
        finally:
            self._driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Starts the work; done when the stream has come so far."""
        self._call("cuGraphLaunch", self._exec, self._stream)

    def free(self) -> None:
        self._call("cuGraphExecDestroy", self._exec)

    def _call(self, name: str, *args: Any) -> None:
        if status := getattr(self._driver, name)(*args):
            raise GraphError(f"{name} failed with CUDA error {status}")
