"""onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from probpose_ros.backends import BackendError, TensorSpec
from probpose_ros.geometry import CropTransform, cut_crops

_DTYPES = {
    "tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(int32)": np.int32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
}  # fmt: skip


class OnnxRuntimeSession:
    """See :class:`probpose_ros.backends.Session`."""

    backend, problem, crops_on_gpu = "onnxruntime", "", False

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError(f"onnxruntime cannot be imported ({error}); run: pip install onnxruntime") from error

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Two networks share the cores: a pool that spins while it waits takes them from the other one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no base but Exception
            reason = str(error).strip().splitlines()[0]
            raise BackendError(f"{path}: onnxruntime cannot load it as an ONNX model ({reason})") from None
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.inputs: dict[str, TensorSpec] = {node.name: _spec(node) for node in self._session.get_inputs()}
        self.outputs: dict[str, TensorSpec] = {node.name: _spec(node) for node in self._session.get_outputs()}

    def run(self, feed: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if isinstance(feed, np.ndarray):
            (name,) = self.inputs
            feed = {name: feed}
        return dict(zip(self.outputs, self._session.run(None, dict(feed)), strict=True))

    def run_crops(
        self, images: Sequence[np.ndarray], transforms: Sequence[Sequence[CropTransform]]
    ) -> dict[str, np.ndarray]:
        (spec,) = self.inputs.values()
        _, height, width, _ = spec.shape
        return self.run(cut_crops(images, transforms, (int(width), int(height))))  # type: ignore[arg-type]

    def suspend(self) -> None:
        """Nothing: it holds no GPU memory."""

    resume = suspend

    def close(self) -> None:
        self._session = None


def _spec(node: object) -> TensorSpec:
    if node.type not in _DTYPES:  # type: ignore[attr-defined]
        raise BackendError(f"tensor {node.name!r} has type {node.type}, which is not supported")  # type: ignore[attr-defined]
    return TensorSpec(tuple(node.shape), np.dtype(_DTYPES[node.type]))  # type: ignore[attr-defined]
