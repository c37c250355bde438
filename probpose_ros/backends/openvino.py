"""OpenVINO on the CPU: optional (pip install openvino), faster than onnxruntime for 8-bit files of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from probpose_ros.backends import BackendError
from probpose_ros.backends.onnxruntime import OnnxRuntimeSession


class OpenVinoSession(OnnxRuntimeSession):
    """See :class:`probpose_ros.backends.Session`. onnxruntime reads what the file says about itself."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendError(f"openvino cannot be imported ({error}); run: pip install openvino") from error
        super().__init__(path, threads)
        self.backend = "openvino"
        # The numbers of the file: on CPUs that have it OpenVINO would compute fp32 models in bfloat16.
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        try:
            model = openvino.Core().compile_model(str(path), "CPU", options)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BackendError(f"{path}: OpenVINO cannot load it ({reason})") from None
        self._session = model.create_infer_request()

    def run(self, feed: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if isinstance(feed, np.ndarray):
            (name,) = self.inputs
            feed = {name: feed}
        found = self._session.infer(dict(feed))
        return {name: found[name] for name in self.outputs}
