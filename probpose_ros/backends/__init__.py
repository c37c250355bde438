"""What runs a network: one small interface, a backend per module, each imported only when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from probpose_ros.config import BACKENDS
from probpose_ros.geometry import CropTransform


class BackendError(ValueError):
    """The backend is not there, or the file is not a model it can run."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: shape, with a name or None for a dynamic dimension, and the NumPy dtype."""

    shape: tuple[int | str | None, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join('?' if n is None else str(n) for n in self.shape)})"


class Session(Protocol):
    """A loaded network.

    metadata: the model file's own text entries. inputs, outputs: name -> TensorSpec. backend: what runs it, for logs.
    problem: why that is not what should run it, empty if it is. crops_on_gpu: whether ``run_crops`` can be used.
    """

    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def inputs(self) -> dict[str, TensorSpec]: ...
    @property
    def outputs(self) -> dict[str, TensorSpec]: ...
    @property
    def backend(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def crops_on_gpu(self) -> bool: ...

    def run(self, feed: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; a bare array feeds the only input."""
        ...

    def run_crops(
        self, images: Sequence[np.ndarray], transforms: Sequence[Sequence[CropTransform]]
    ) -> dict[str, np.ndarray]:
        """Outputs by name for all crops of images (H, W, 3) uint8, which the session cuts itself."""
        ...

    def suspend(self) -> None:
        """Frees GPU memory; it cannot run until :meth:`resume`."""
        ...

    def resume(self) -> None:
        """Takes what :meth:`suspend` freed; nothing if it was not suspended. BackendError if that fails."""
        ...

    def close(self) -> None:
        """Frees what the session holds; it cannot run afterwards."""
        ...


def load(path: str | Path, backend: str = "auto", threads: int = 0, allow_fallback: bool = False) -> Session:
    """The network of a model file.

    Args:
        path: an ONNX file.
        backend: one of BACKENDS. ``auto`` is TensorRT where ``probpose build-engine`` has
            made an engine of this file for this machine, else onnxruntime. No engine is ever built here.
        threads: CPU threads, 0: all cores.
        allow_fallback: onnxruntime where TensorRT was asked for and cannot be had, or fails later; logged as an error
            and visible in ``Session.problem``. Without it both are a BackendError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    if backend not in BACKENDS:
        raise BackendError(f"backend = {backend!r}: must be one of {', '.join(BACKENDS)}")
    from probpose_ros.backends.onnx_file import check_onnx

    check_onnx(path)
    if backend == "openvino":
        from probpose_ros.backends.openvino import OpenVinoSession

        return OpenVinoSession(path, threads)
    from probpose_ros.backends.onnxruntime import OnnxRuntimeSession

    if backend == "onnxruntime":
        return OnnxRuntimeSession(path, threads)
    from probpose_ros.backends.engine import could_run, no_engine
    from probpose_ros.backends.fallback import FallbackSession, instead

    if backend == "auto" and (reason := no_engine(path)):
        on_cpu = OnnxRuntimeSession(path, threads)
        # A machine without a GPU is fine as it is. One that could be faster, or was until the model changed, is not.
        return instead(on_cpu, reason) if could_run(path) else on_cpu
    from probpose_ros.backends.tensorrt import TensorRTSession

    try:
        session = TensorRTSession(path)
    except BackendError as error:
        if backend == "tensorrt" and not allow_fallback:
            raise
        return instead(OnnxRuntimeSession(path, threads), str(error))
    return FallbackSession(session, lambda: OnnxRuntimeSession(path, threads)) if allow_fallback else session


def check_tensors(
    path: str | Path, session: Session, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> None:
    """Refuses a model that lacks a tensor, or whose shape or dtype is not what the metadata needs.

    In an expected shape a number must be met (a dynamic dimension may become it), a name must be dynamic, None is free.
    More outputs than expected are fine.
    """

    def fits(have: int | str | None, need: int | str | None) -> bool:
        if isinstance(have, int):
            return need is None or have == need
        return True

    for kind, found, expected in (("input", session.inputs, inputs), ("output", session.outputs, outputs)):
        if kind == "input" and set(found) != set(expected):
            raise BackendError(f"{path}: the inputs are {', '.join(found) or 'none'}; expected {', '.join(expected)}")
        for name, need in expected.items():
            if name not in found:
                raise BackendError(f"{path}: no output {name!r} ({need}); the outputs are {', '.join(found)}")
            have = found[name]
            same_rank = len(have.shape) == len(need.shape)
            if have.dtype != need.dtype or not same_rank or not all(map(fits, have.shape, need.shape)):
                raise BackendError(f"{path}: {kind} {name!r} is {have}; expected {need}")
