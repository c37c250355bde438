"""TensorRT engines through pycuda, behind the interface of :class:`probpose_ros.backends.Session`."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probpose_ros.backends import BackendError, TensorSpec
from probpose_ros.backends.cuda_graph import CudaGraph, GraphError
from probpose_ros.backends.engine import (
    Engine,
    build_command,
    find_engine,
    get_logger,
    import_tensorrt,
    this_device,
)
from probpose_ros.backends.gpu import Buffer, GpuWorker
from probpose_ros.backends.gpu_crop import GpuCropper, read_kernel
from probpose_ros.geometry import CropTransform

_DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8,
           "BOOL": np.bool_}  # fmt: skip
# Each batch size has an execution context and a CUDA graph of its own, made when the engine is loaded, so that no frame
# waits for it. Larger batches share one context and run without a graph.
GRAPH_SIZES = 16


class TensorRTSession:
    """An engine of the cache, ready to run; see :class:`probpose_ros.backends.Session`. Never builds one.

    Args:
        model: the ONNX file that the engine was built from.
        engine: of the cache; None: the one for this machine (EngineError with the command if there is none).
    """

    problem = ""

    def __init__(self, model: Path, engine: Engine | None = None) -> None:
        self.engine = engine or find_engine(model, this_device())
        self.metadata = dict(self.engine.metadata)
        self._model = model
        self._network: _Network | None = None
        self._free: weakref.finalize | None = None
        self.resume()

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        return self._specs[0]

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        return self._specs[1]

    @property
    def crops_on_gpu(self) -> bool:
        return self._network is not None and self._network.cropper is not None

    @property
    def backend(self) -> str:
        values, network = self.engine.fingerprint, self._network
        notes = network.notes if network else "not loaded"
        return f"tensorrt {values.tensorrt} {values.precision} (engine {values.key[:8]}, {notes})"

    def run(self, feed: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. More rows than the engine takes go through it in several batches."""
        network = self._loaded()
        if isinstance(feed, np.ndarray):
            (name,) = self.inputs
            feed = {name: feed}
        for name, spec in self.inputs.items():
            if name not in feed or feed[name].dtype != spec.dtype or feed[name].shape[1:] != spec.shape[1:]:
                got = f"{feed[name].dtype} {feed[name].shape}" if name in feed else "nothing"
                raise BackendError(f"input {name!r} is {spec}; got {got}")
        return self._worker.do(network.run, feed)

    def run_crops(
        self, images: Sequence[np.ndarray], transforms: Sequence[Sequence[CropTransform]]
    ) -> dict[str, np.ndarray]:
        """Outputs for the crops of images (H, W, 3) uint8, cut on the GPU; only where ``crops_on_gpu``."""
        return self._worker.do(self._loaded().run_crops, images, transforms)

    def suspend(self) -> None:
        """Frees the buffers, the engine and, with the last session, the context, until :meth:`resume`."""
        self._network = None
        if self._free is not None:
            self._free()

    close = suspend

    def resume(self) -> None:
        """Loads the engine again; harmless when it is loaded. EngineError if its file has gone or changed."""
        if self._network is not None:
            return
        content = self.engine.read(self._model)
        self._worker = worker = GpuWorker.acquire()
        network = _Network(worker, self._model, self.engine)
        self._free = weakref.finalize(self, _free, worker, network)
        try:
            worker.do(network.load, content)
        except BaseException:
            self._free()
            raise
        self._network, self._specs = network, (network.inputs, network.outputs)

    def _loaded(self) -> _Network:
        if self._network is None:
            raise BackendError(f"{self.engine.path}: the session is closed or suspended")
        return self._network


class _Network:
    """What an engine has on the GPU. All of it is made, used and freed in the worker's thread."""

    def __init__(self, worker: GpuWorker, model: Path, record: Engine) -> None:
        self._worker, self._model, self._record = worker, model, record
        self._limit = record.fingerprint.max_batch
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self.cropper: GpuCropper | None = None
        self._buffers: dict[str, Buffer] = {}
        self._contexts: dict[int, Any] = {}  # rows -> execution context; 0: any number of rows.
        self._graphs: dict[int, CudaGraph] = {}
        self._scratch: Any = None
        self._trt = self._engine = self._runtime = self._logger = None  # type: Any
        self._without_graphs = self._without_cropper = ""

    @property
    def notes(self) -> str:
        crops = "crops on the GPU" if self.cropper else f"crops on the CPU: {self._without_cropper}"
        graphs = f"no CUDA graphs: {self._without_graphs}" if self._without_graphs else "CUDA graphs"
        return f"{graphs}, {crops}" if self._is_pose else graphs

    @property
    def _is_pose(self) -> bool:
        return "keypoints" in self.outputs

    def load(self, content: bytes) -> None:
        self._trt = trt = import_tensorrt()
        self._logger = get_logger(trt)
        self._runtime = runtime = trt.Runtime(self._logger)
        self._engine = engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            how = build_command(self._model, self._record.fingerprint)
            raise BackendError(
                f"{self._record.path}: TensorRT cannot load it ({self._reason('no reason given')}); rebuild: {how}"
            )
        try:
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            context = self._new_context()  # Tells the outputs' sizes, which an engine may leave open.
            for name in names:
                if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                    self._add_tensor(self.inputs, name, tuple(engine.get_tensor_shape(name)))
            self._set_shapes(context, self._limit)
            for name in names:
                if name not in self.inputs:
                    self._add_tensor(self.outputs, name, tuple(context.get_tensor_shape(name)))
            self._load_cropper()
            for rows in range(1, min(self._limit, GRAPH_SIZES) + 1):
                self._prepare(rows)
            if self._limit > GRAPH_SIZES:
                self._contexts[0] = self._new_context()
        except self._worker.cuda.Error as error:
            raise BackendError(f"{self._record.path}: no GPU memory for its buffers ({error})") from None

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        def fill(start: int, rows: int) -> None:
            for name, value in feed.items():
                self._buffers[name].host[:rows] = value[start : start + rows]
                self._buffers[name].upload(rows)

        return self._run(len(next(iter(feed.values()))), fill)

    def run_crops(
        self, images: Sequence[np.ndarray], transforms: Sequence[Sequence[CropTransform]]
    ) -> dict[str, np.ndarray]:
        windows = [(i, transform) for i, its in enumerate(transforms) for transform in its]
        cropper, (name,) = self.cropper, self.inputs
        assert cropper is not None
        wanted = [image for image, its in zip(images, transforms) if its]
        numbers = {i: n for n, i in enumerate(dict.fromkeys(i for i, _ in windows))}
        windows = [(numbers[i], transform) for i, transform in windows]

        def fill(start: int, rows: int) -> None:
            if start == 0:
                cropper.upload(wanted)
            cropper.cut(windows[start : start + rows], self._buffers[name].device)

        return self._run(len(windows), fill)

    def _run(self, rows: int, fill: Any) -> dict[str, np.ndarray]:
        """Batch by batch: ``fill(start, rows)`` enqueues what brings the inputs into place."""
        results = {
            name: np.empty((rows, *self._buffers[name].host.shape[1:]), spec.dtype)
            for name, spec in self.outputs.items()
        }
        self._logger.errors.clear()
        try:
            for start in range(0, rows, self._limit):
                count = min(self._limit, rows - start)
                fill(start, count)
                if count in self._graphs:
                    self._graphs[count].launch()
                else:
                    self._enqueue(count)
                self._worker.stream.synchronize()
                for name, result in results.items():
                    result[start : start + count] = self._buffers[name].host[:count]
        except (self._worker.cuda.Error, GraphError) as error:
            raise BackendError(f"{self._record.path}: the GPU failed: {error}") from None
        return results

    def free(self) -> None:
        """Each goes with its last reference or by its own free(), here in the thread that has the context."""
        errors = []

        def attempt(function: Any) -> None:
            try:
                function()
            except (self._worker.cuda.Error, GraphError) as error:
                errors.append(error)  # Of a lost device nothing can be freed, but the rest must be tried.

        for graph in self._graphs.values():
            attempt(graph.free)
        self._graphs.clear()
        self._contexts.clear()
        if self._scratch is not None:
            attempt(self._scratch.free)
        for thing in (self.cropper, *self._buffers.values()):
            if thing is not None:
                attempt(thing.free)
        self._buffers.clear()
        self._scratch = self.cropper = self._engine = self._runtime = self._logger = None
        if errors:
            logging.getLogger(__name__).error("GPU memory of %s could not be freed: %s", self._model, errors[0])

    def _add_tensor(self, side: dict[str, TensorSpec], name: str, shape: tuple[int, ...]) -> None:
        dtype = np.dtype(_DTYPES[self._engine.get_tensor_dtype(name).name])
        side[name] = TensorSpec((None, *shape[1:]), dtype)
        self._buffers[name] = Buffer(self._worker, (self._limit, *shape[1:]), dtype)

    def _load_cropper(self) -> None:
        """Crops are cut on the GPU where the kernel is there; else on the CPU, and ``notes`` says why."""
        if not self._is_pose:
            return
        cubin, self._without_cropper = read_kernel(self._record.fingerprint.sm)
        (name,) = self.inputs
        if cubin:
            try:
                self.cropper = GpuCropper(self._worker, cubin, self._buffers[name].host.shape)
            except self._worker.cuda.Error as error:
                self._without_cropper = f"the kernel cannot be loaded ({error})"

    def _prepare(self, rows: int) -> None:
        """Context and graph for a batch size. A graph belongs to the shapes and the state of one context."""
        self._contexts[rows] = self._new_context()
        self._set_shapes(self._contexts[rows], rows)
        # The first run does what a change of shapes brings with it, which must not be recorded.
        self._enqueue(rows)
        self._worker.stream.synchronize()
        if self._without_graphs:
            return
        try:
            self._graphs[rows] = CudaGraph(self._worker.stream.handle, lambda: self._enqueue(rows))
        except GraphError as error:
            self._without_graphs = str(error)
            logging.getLogger(__name__).warning("%s runs without CUDA graphs: %s", self._model, error)

    def _new_context(self) -> Any:
        """An execution context in the scratch memory that all of them share, for one runs at a time."""
        trt, engine = self._trt, self._engine
        newer = hasattr(trt.ICudaEngine, "device_memory_size_v2")  # From 10.1 on.
        size = max(256, engine.device_memory_size_v2 if newer else engine.device_memory_size)
        if self._scratch is None:
            self._scratch = self._worker.cuda.mem_alloc(size)
        if newer:
            context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        else:
            context = engine.create_execution_context_without_device_memory()
        if context is None:
            raise BackendError(f"{self._record.path}: {self._reason('no execution context')}")
        if newer:
            context.set_device_memory(int(self._scratch), size)
        else:
            context.device_memory = int(self._scratch)
        for name, buffer in self._buffers.items():
            context.set_tensor_address(name, int(buffer.device))
        return context

    def _set_shapes(self, context: Any, rows: int) -> None:
        for name in self.inputs:
            shape = (rows, *self._buffers[name].host.shape[1:])
            if not context.set_input_shape(name, shape):
                raise BackendError(f"input {name!r} {shape}: {self._reason('shape refused')}")

    def _enqueue(self, rows: int) -> None:
        """The engine and the download of its outputs, into the stream."""
        context = self._contexts.get(rows)
        if context is None:
            context = self._contexts[0]
            self._set_shapes(context, rows)
        if not context.execute_async_v3(self._worker.stream.handle):
            raise BackendError(f"{self._record.path}: {self._reason('execution failed')}")
        for name in self.outputs:
            self._buffers[name].download(rows)

    def _reason(self, what: str) -> str:
        errors = self._logger.errors
        return errors[-1] if errors else what


def _free(worker: GpuWorker, network: _Network) -> None:
    try:
        worker.do(network.free)
    finally:
        worker.release()
