"""Doubles of TensorRT and pycuda that fail like the real ones.

An engine of the double is the ONNX file itself behind a header, and running it runs onnxruntime. So a session over the
double gives real numbers, and a mistake in shapes, addresses, threads or order gives wrong ones or an error. What a
version of the real TensorRT lacks (test/tensorrt_api.json) its double lacks too. GPU memory is a table of arrays by
address, and as with CUDA nothing can be done without a context that is current in the calling thread.
"""

from __future__ import annotations

import ctypes
import enum
import json
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from probpose_ros.backends import cuda_graph, gpu_crop
from probpose_ros.backends.gpu import GpuWorker

RECORD = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())
UNSUPPORTED_SM = "Target GPU SM 87 is not supported by this TensorRT release."
OUT_OF_MEMORY = "Requested amount of GPU memory (1073741824 bytes) could not be allocated."


@dataclass
class Machine:
    """A double of a machine: what it has, what goes wrong on it, and what was done to it.

    parse_error, build_error, context_error, execute_error: what TensorRT logs when it fails there. sm_supported: it has
    kernels for this GPU.
    kernel_error: what loading a compiled kernel says. graph_error: CUDA's status when a recording ends. lost: CUDA's
    words, from all calls, when the GPU is gone.
    memory: bytes of GPU memory. noise: added to the results, as of a bad engine. log: what was built and freed.
    """

    version: str = "10.3.0"
    sm: tuple[int, int] = (8, 7)
    driver: int = 12060
    sm_supported: bool = True
    parse_error: str = ""
    build_error: str = ""
    execute_error: str = ""
    memory: int = 10**9
    noise: float = 0.0
    current: threading.local = field(default_factory=threading.local)
    allocations: dict[int, np.ndarray] = field(default_factory=dict)
    context_error: str = ""
    kernel_error: str = ""
    lost: str = ""
    graph_error: int = 0
    recording: list | None = None  # what a CUDA graph in the making has so far
    graphs: dict[int, list] = field(default_factory=dict)  # finished ones, by handle
    launches: int = 0
    engine_runs: int = 0
    uploads: list[int] = field(default_factory=list)  # bytes of each host -> GPU copy
    pinned: int = 0
    wrong_thread: int = 0
    contexts: int = 0
    retained: int = 0
    builds: list[dict] = field(default_factory=list)

    def need_context(self) -> None:
        if not getattr(self.current, "context", None):
            raise self.cuda.LogicError("cuMemAlloc failed: invalid device context")
        if self.lost:
            raise self.cuda.LogicError(self.lost)

    def enqueue(self, work: Callable[[], None]) -> None:
        """Into the stream: done at once, or recorded."""
        self.need_context()
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def may_wait(self, what: str) -> None:
        """Waiting and allocating are errors while a graph is recorded, as in CUDA."""
        self.need_context()
        if self.recording is not None:
            raise self.cuda.LogicError(f"{what} failed: operation not permitted when stream is capturing")

    def find(self, address: int, size: int) -> np.ndarray:
        """``size`` bytes of GPU memory from an address on, which may lie inside an allocation."""
        for start, array in self.allocations.items():
            if start <= address and address + size <= start + array.nbytes:
                return array[address - start : address - start + size]
        raise self.cuda.LogicError("an illegal memory access was encountered")

    @property
    def modules(self) -> dict[str, ModuleType]:
        pycuda = ModuleType("pycuda")
        pycuda.__spec__ = ModuleSpec("pycuda", None)
        pycuda.driver = self.cuda = make_pycuda(self)
        pycuda.compiler = make_compiler(self)
        modules = {"pycuda": pycuda, "pycuda.driver": pycuda.driver, "pycuda.compiler": pycuda.compiler}
        return {"tensorrt": make_tensorrt(self), **modules}


def exact_session(model: bytes) -> onnxruntime.InferenceSession:
    """onnxruntime that computes QuantizeLinear and DequantizeLinear as they stand.

    By itself it merges them into integer operators, and where their scales are half it then computes something else.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def install(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Puts the double in the place of what is imported, for one test."""
    monkeypatch.setattr(GpuWorker, "_shared", None)  # What a failed test has left behind.
    monkeypatch.setattr(cuda_graph, "driver", lambda: DriverLibrary(machine))
    for name, module in machine.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return machine


class DriverLibrary:
    """A double of libcuda.so's graph functions, as ctypes calls them."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def cuStreamBeginCapture_v2(self, stream: ctypes.c_void_p, mode: int) -> int:  # noqa: N802
        assert stream.value == 4242 and mode == 1 and self.machine.recording is None
        self.machine.need_context()
        self.machine.recording = []
        return 0

    def cuStreamEndCapture(self, stream: ctypes.c_void_p, graph: Any) -> int:  # noqa: N802
        recorded, self.machine.recording = self.machine.recording, None
        if self.machine.graph_error:
            return self.machine.graph_error
        graph._obj.value = 0x7_0000_0010
        self.recorded = recorded
        return 0

    def cuGraphInstantiateWithFlags(self, executable: Any, graph: ctypes.c_void_p, flags: int) -> int:  # noqa: N802
        assert graph.value == 0x7_0000_0010 and flags == 0
        executable._obj.value = 0x7_0000_0100 + 16 * len(self.machine.graphs)
        self.machine.graphs[executable._obj.value] = self.recorded
        return 0

    def cuGraphDestroy(self, graph: ctypes.c_void_p) -> int:  # noqa: N802
        return 0

    def cuGraphLaunch(self, executable: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:  # noqa: N802
        if self.machine.lost or not getattr(self.machine.current, "context", None):
            return 719 if self.machine.lost else 201  # CUDA_ERROR_LAUNCH_FAILED, CUDA_ERROR_INVALID_CONTEXT
        assert stream.value == 4242
        self.machine.launches += 1
        for work in self.machine.graphs[executable.value]:
            work()
        return 0

    def cuGraphExecDestroy(self, executable: ctypes.c_void_p) -> int:  # noqa: N802
        del self.machine.graphs[executable.value]
        return 0


@cache
def cpu_kernel() -> Callable[..., None]:
    """The kernel's source, compiled by gcc as C++ with the few words of CUDA that it uses, called like a launch."""
    folder = Path(tempfile.mkdtemp())
    (folder / "kernel.cpp").write_text(CUDA_ON_CPU.replace("KERNEL", gpu_crop.SOURCE))
    command = ["g++", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-o", folder / "kernel.so", folder / "kernel.cpp"]
    subprocess.run(command, check=True)
    launch = ctypes.CDLL(str(folder / "kernel.so")).launch

    def run(image, to_image, crops, height, width, crop_height, crop_width, block, grid) -> None:
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (image, to_image, crops)]
        sizes = (ctypes.c_int * 10)(height, width, crop_height, crop_width, *block, *grid)
        launch(*pointers, sizes)

    return run


CUDA_ON_CPU = r"""
#include <cmath>
#define __global__
struct dim { int x, y, z; };
static thread_local dim blockIdx, blockDim, threadIdx;
static inline int __double2int_rn(double x) { return (int)std::nearbyint(x); }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
KERNEL
extern "C" void launch(
    const unsigned char* image, const double* to_image, unsigned char* crops, const int* s) {
    blockDim = {s[4], s[5], s[6]};
    for (int z = 0; z < s[9]; ++z) for (int y = 0; y < s[8]; ++y) for (int x = 0; x < s[7]; ++x)
        for (int v = 0; v < s[5]; ++v) for (int u = 0; u < s[4]; ++u) {
            blockIdx = {x, y, z};
            threadIdx = {u, v, 0};
            cut_crops(image, s[0], s[1], to_image, crops, s[2], s[3]);
        }
}
"""


def make_compiler(machine: Machine) -> ModuleType:
    compiler = ModuleType("pycuda.compiler")

    def compile(source: str, nvcc: str, no_extern_c: bool, arch: str, cache_dir: bool) -> bytes:
        assert Path(nvcc).is_file() and no_extern_c and cache_dir is False
        assert arch == f"sm_{10 * machine.sm[0] + machine.sm[1]}"
        if machine.kernel_error:
            error = machine.cuda.CompileError("nvcc compilation of /tmp/kernel.cu failed")
            error.stderr = f"a warning\n{machine.kernel_error}\n"
            raise error
        return b"a cubin"

    compiler.compile = compile
    return compiler


def make_pycuda(machine: Machine) -> ModuleType:
    cuda = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    class MemoryError_(Error):
        pass

    class Context:
        def push(self) -> None:
            machine.current.context = self
            machine.contexts += 1

        @staticmethod
        def pop() -> None:
            machine.need_context()
            machine.current.context = None
            machine.contexts -= 1

        def detach(self) -> None:
            machine.retained -= 1

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        def compute_capability(self) -> tuple[int, int]:
            return machine.sm

        def name(self) -> str:
            return "Orin"

        def total_memory(self) -> int:
            return 8 * 2**30

        def retain_primary_context(self) -> Context:
            machine.retained += 1
            return Context()

    class Stream:
        def __init__(self) -> None:
            machine.need_context()
            self.handle = 4242

        def synchronize(self) -> None:
            machine.may_wait("cuStreamSynchronize")

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            machine.may_wait("cuMemAlloc")
            if sum(a.nbytes for a in machine.allocations.values()) + size > machine.memory:
                raise MemoryError_("cuMemAlloc failed: out of memory")
            # Beyond 32 bits, as real ones are; aligned as CUDA does.
            last = max(machine.allocations, default=0x7_0000_0000)
            self.address = last + -(-(machine.allocations[last].nbytes if machine.allocations else 1) // 512) * 512
            machine.allocations[self.address] = np.full(size, 0xAA, np.uint8)

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            machine.need_context()
            del machine.allocations[self.address]

    def release_pinned() -> None:
        machine.pinned -= 1
        if not getattr(machine.current, "context", None):
            machine.wrong_thread += 1

    def pagelocked_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        machine.need_context()
        machine.pinned += 1
        array = np.full(shape, 77, dtype)
        weakref.finalize(array, release_pinned).atexit = False
        return array

    def memcpy_htod_async(device: DeviceAllocation, host: np.ndarray, stream: Stream) -> None:
        assert host.flags.c_contiguous and host.nbytes
        machine.uploads.append(host.nbytes)
        target = machine.find(int(device), host.nbytes)
        machine.enqueue(lambda: np.copyto(target, host.reshape(-1).view(np.uint8)))

    def memcpy_dtoh_async(host: np.ndarray, device: DeviceAllocation, stream: Stream) -> None:
        source = machine.find(int(device), host.nbytes)
        machine.enqueue(lambda: np.copyto(host.reshape(-1).view(np.uint8), source))

    class Function:
        """The kernel, compiled for the CPU from the same source; arguments as pycuda takes them."""

        def __call__(self, image, height, width, to_image, crops, crop_height, crop_width, block, grid, stream) -> None:
            assert isinstance(image, DeviceAllocation) and type(to_image) is type(crops) is np.uintp
            assert all(type(n) is np.int32 for n in (height, width, crop_height, crop_width))
            assert np.prod(block) <= 1024 and all(type(n) is int for n in (*block, *grid))
            arrays = (
                machine.find(int(image), 3 * int(height) * int(width)), machine.find(int(to_image), 48 * grid[2]),
                machine.find(int(crops), 3 * grid[2] * int(crop_height) * int(crop_width)),
            )  # fmt: skip
            sizes = (int(height), int(width), int(crop_height), int(crop_width))
            machine.enqueue(lambda: cpu_kernel()(*arrays, *sizes, block, grid))

    def module_from_buffer(content: bytes) -> SimpleNamespace:
        machine.need_context()
        if machine.kernel_error:
            raise LogicError(machine.kernel_error)
        assert content == b"a cubin"
        return SimpleNamespace(get_function=lambda name: {"cut_crops": Function()}[name])

    cuda.module_from_buffer = module_from_buffer
    for thing in (Error, LogicError, Device, Stream, Context, pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async):
        setattr(cuda, thing.__name__, thing)
    cuda.MemoryError = MemoryError_
    cuda.CompileError = type("CompileError", (Error,), {})
    cuda.mem_alloc = DeviceAllocation
    cuda.init = lambda: None
    cuda.get_driver_version = lambda: machine.driver
    return cuda


def make_tensorrt(machine: Machine) -> ModuleType:
    trt = ModuleType("tensorrt")
    trt.__version__ = machine.version
    trt.BuilderFlag = enum.IntEnum("BuilderFlag", "FP16 INT8 OBEY_PRECISION_CONSTRAINTS TF32", start=0)
    trt.MemoryPoolType = enum.IntEnum("MemoryPoolType", "WORKSPACE")
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("Flag", "EXPLICIT_BATCH STRONGLY_TYPED", start=0)
    trt.TensorIOMode = enum.IntEnum("TensorIOMode", "NONE INPUT OUTPUT", start=0)
    trt.DataType = enum.IntEnum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 INT64", start=0)
    kinds = {np.float32: "FLOAT", np.float16: "HALF", np.int64: "INT64", np.uint8: "UINT8", np.bool_: "BOOL"}

    def data_type(dtype: np.dtype) -> enum.IntEnum:
        return trt.DataType[kinds[np.dtype(dtype).type]]

    class ILogger:
        Severity = enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)

        def fail(self, message: str) -> None:
            self.log(self.Severity.ERROR, message)

    class IProgressMonitor:
        pass

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Network:
            return Network(flags, self.logger)

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            if not machine.sm_supported:
                self.logger.fail(f"IBuilder::buildSerializedNetwork: Error Code 9: API Usage Error ({UNSUPPORTED_SM})")
                return None
            if network.model is None:
                return b"an identity"
            if machine.build_error:
                self.logger.fail(machine.build_error)
                return None
            if monitor := getattr(config, "progress_monitor", None):
                monitor.phase_start("Building", None, 2)
                monitor.phase_start("Tactics", "Building", 1)
                goes_on = monitor.step_complete("Tactics", 0) and monitor.step_complete("Building", 0)
                monitor.phase_finish("Tactics")
                monitor.phase_finish("Building")
                if not goes_on:
                    self.logger.fail("the build was cancelled by the progress monitor")
                    return None
            machine.builds.append({"flags": network.flags, "layers": network.layers, **vars(config)})
            header = {"version": machine.version, "sm": machine.sm, "shapes": config.profiles[0].shapes}
            return json.dumps(header).encode() + b"\n" + network.model

    class Profile:
        def __init__(self) -> None:
            self.shapes: dict[str, list] = {}

        def set_shape(self, name: str, *shapes: tuple) -> None:
            assert len(shapes) == 3 and all(-1 not in shape for shape in shapes)
            self.shapes[name] = shapes

    class Config:
        def __init__(self) -> None:
            self.set_flags, self.pools, self.profiles, self.cache = {"TF32"}, {}, [], b""

        def set_flag(self, flag: enum.IntEnum) -> None:
            self.set_flags.add(flag.name)

        def clear_flag(self, flag: enum.IntEnum) -> None:
            self.set_flags.remove(flag.name)

        def set_memory_pool_limit(self, pool: enum.IntEnum, size: int) -> None:
            self.pools[pool.name] = size

        def add_optimization_profile(self, profile: Profile) -> int:
            self.profiles.append(profile)
            return 0

        def create_timing_cache(self, content: bytes) -> SimpleNamespace | None:
            if content and not content.startswith(b"measured "):
                return None
            return SimpleNamespace(content=content, serialize=lambda: content + b"measured ")

        def set_timing_cache(self, cache: SimpleNamespace, ignore_mismatch: bool) -> bool:
            self.cache = cache
            return True

        def get_timing_cache(self) -> SimpleNamespace:
            return self.cache

    class Network:
        def __init__(self, flags: int, logger: ILogger) -> None:
            self.flags, self.logger, self.model, self.layers, self.inputs = flags, logger, None, [], []

        def add_input(self, name: str, dtype: enum.IntEnum, shape: tuple[int, ...]) -> SimpleNamespace:
            return SimpleNamespace(name=name, dtype=dtype, shape=shape)

        def add_identity(self, tensor: SimpleNamespace) -> SimpleNamespace:
            return SimpleNamespace(get_output=lambda i: tensor)

        def mark_output(self, tensor: SimpleNamespace) -> None:
            pass

        num_inputs = property(lambda self: len(self.inputs))
        num_layers = property(lambda self: len(self.layers))

        def get_input(self, i: int) -> SimpleNamespace:
            return self.inputs[i]

        def get_layer(self, i: int) -> Layer:
            return self.layers[i]

    class Layer:
        precision = None
        num_outputs = 1
        kinds = {"Conv": "CONVOLUTION", "ReduceSum": "REDUCE", "ReduceMean": "REDUCE", "Cast": "CAST"}
        kinds["Constant"] = "CONSTANT"

        def __init__(self, node: onnx.NodeProto) -> None:
            self.name, self.type = node.name, SimpleNamespace(name=self.kinds.get(node.op_type, "ELEMENTWISE"))
            self.output_types: dict[int, enum.IntEnum] = {}

        def get_output(self, i: int) -> SimpleNamespace:
            return SimpleNamespace(dtype=trt.DataType.FLOAT)

        def set_output_type(self, i: int, dtype: enum.IntEnum) -> None:
            self.output_types[i] = dtype

    class OnnxParser:
        def __init__(self, network: Network, logger: ILogger) -> None:
            self.network, self.logger = network, logger

        num_errors = property(lambda self: 1 if machine.parse_error else 0)

        def parse(self, content: bytes) -> bool:
            if machine.parse_error:
                return False
            self.network.model = content
            graph = onnx.load_from_string(content).graph
            self.network.layers = [Layer(node) for node in graph.node]
            for value in graph.input:
                shape = tuple(d.dim_value or -1 for d in value.type.tensor_type.shape.dim)
                self.network.inputs.append(SimpleNamespace(name=value.name, shape=shape))
            return True

        def get_error(self, i: int) -> SimpleNamespace:
            return SimpleNamespace(desc=lambda: machine.parse_error)

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            header, _, model = content.partition(b"\n")
            header = json.loads(header)
            if header["version"] != machine.version or tuple(header["sm"]) != machine.sm:
                self.logger.fail("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Version tag mismatch)")
                return None
            try:
                return Engine(header["shapes"], model, self.logger)
            except Exception:  # onnxruntime's exceptions share no base; what TensorRT says of a file that is cut off
                self.logger.fail("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization failed)")
                return None

    class Engine:
        def __init__(self, shapes: dict, model: bytes, logger: ILogger) -> None:
            self.shapes, self.logger = shapes, logger
            self.session = exact_session(model)
            types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}
            self.tensors = {
                node.name: (mode, np.dtype(types[node.type]), [d if isinstance(d, int) else -1 for d in node.shape])
                for mode, nodes in (("INPUT", self.session.get_inputs()), ("OUTPUT", self.session.get_outputs()))
                for node in nodes
            }

        num_io_tensors = property(lambda self: len(self.tensors))

        def get_tensor_name(self, i: int) -> str:
            return list(self.tensors)[i]

        def get_tensor_mode(self, name: str) -> enum.IntEnum:
            return trt.TensorIOMode[self.tensors[name][0]]

        def get_tensor_dtype(self, name: str) -> enum.IntEnum:
            return data_type(self.tensors[name][1])

        def get_tensor_shape(self, name: str) -> list[int]:
            return self.tensors[name][2]

        def create_execution_context(self, strategy=None) -> ExecutionContext | None:
            machine.may_wait("createExecutionContext")
            assert strategy is None or strategy.name == "USER_MANAGED"
            if machine.context_error:
                self.logger.fail(machine.context_error)
                return None
            return ExecutionContext(self)

        def create_execution_context_without_device_memory(self) -> ExecutionContext | None:
            return self.create_execution_context()

        device_memory_size = device_memory_size_v2 = 4096

    class ExecutionContext:
        def __init__(self, engine: Engine) -> None:
            self.engine, self.addresses, self.shape, self.flushed, self.scratch = engine, {}, {}, None, None

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            low, _, high = self.engine.shapes[name]
            if not all(a <= n <= b for a, n, b in zip(low, shape, high)):
                self.engine.logger.fail(f"IExecutionContext::setInputShape: {shape} is not in the profile's range")
                return False
            self.shape[name] = shape
            return True

        def set_device_memory(self, address: int, size: int) -> None:
            assert size >= 4096
            self._set_scratch(address)

        def _set_scratch(self, address: int) -> None:
            assert address % 256 == 0
            self.scratch = machine.find(address, 4096)

        device_memory = property(fset=_set_scratch)

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            """Of outputs too; an engine whose graph leaves a size open has -1 there, its context has the size."""
            zeros = {n: np.zeros(shape, self.engine.tensors[n][1]) for n, shape in self.shape.items()}
            (value,) = self.engine.session.run([name], zeros)
            return value.shape

        def execute_async_v3(self, stream: int) -> bool:
            machine.need_context()
            assert stream == 4242 and self.scratch is not None
            if machine.execute_error:
                self.engine.logger.fail(machine.execute_error)
                return False
            if machine.recording is not None and self.flushed != self.shape:
                self.engine.logger.fail("the first run after a change of shapes cannot be recorded")
                return False
            self.flushed = dict(self.shape)
            machine.enqueue(self.compute)
            return True

        def compute(self) -> None:
            machine.engine_runs += 1
            feed = {}
            for name, shape in self.shape.items():
                dtype = self.engine.tensors[name][1]
                memory = machine.find(self.addresses[name], int(np.prod(shape)) * dtype.itemsize)
                feed[name] = memory.view(dtype).reshape(shape)
            for node, value in zip(self.engine.session.get_outputs(), self.engine.session.run(None, feed)):
                value = np.ascontiguousarray(value + value.dtype.type(machine.noise))
                machine.find(self.addresses[node.name], value.nbytes)[:] = value.reshape(-1).view(np.uint8)

    for thing in (ILogger, IProgressMonitor, Builder, OnnxParser, Runtime):
        setattr(trt, thing.__name__, thing)
    trt.ILayer, trt.IBuilderConfig, trt.ICudaEngine, trt.IExecutionContext = Layer, Config, Engine, ExecutionContext
    trt.ExecutionContextAllocationStrategy = enum.IntEnum("Strategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED", start=0)
    trt.__spec__ = ModuleSpec("tensorrt", None)
    _take_away(trt, next(names for v, names in RECORD["versions"].items() if v.startswith(machine.version)))
    return trt


def _take_away(trt: ModuleType, present: list[str]) -> None:
    """Removes what the real version lacks."""
    for name in set(RECORD["names"]) - set(present):
        owner, _, attribute = name.rpartition(".")
        holder = getattr(trt, owner, None) if owner else trt
        if isinstance(holder, type) and issubclass(holder, enum.IntEnum):
            left = {n: int(m) for n, m in holder.__members__.items() if n != attribute}
            setattr(trt, owner, enum.IntEnum(owner, left))
        elif holder is not None and attribute in vars(holder):
            delattr(holder, attribute)
