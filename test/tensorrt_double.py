"""Doubles of TensorRT and pycuda that fail like the real ones.

An engine of the double is the ONNX file itself behind a header, and running it runs onnxruntime. So a session over the
double gives real numbers, and a mistake in shapes, addresses, threads or order gives wrong ones or an error. What a
version of the real TensorRT lacks (test/tensorrt_api.json) its double lacks too. GPU memory is a table of arrays by
address, and as with CUDA nothing can be done without a context that is current in the calling thread.
"""

from __future__ import annotations

import enum
import json
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import onnxruntime

RECORD = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())
UNSUPPORTED_SM = "Target GPU SM 87 is not supported by this TensorRT release."
OUT_OF_MEMORY = "Requested amount of GPU memory (1073741824 bytes) could not be allocated."


@dataclass
class Machine:
    """A double of a machine: what it has, what goes wrong on it, and what was done to it.

    parse_error, build_error, execute_error: what TensorRT logs when it fails there. sm_supported: kernels for this GPU.
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
    pinned: int = 0
    wrong_thread: int = 0
    contexts: int = 0
    builds: list[dict] = field(default_factory=list)

    def need_context(self) -> None:
        if not getattr(self.current, "context", None):
            raise self.cuda.LogicError("cuMemAlloc failed: invalid device context")

    @property
    def modules(self) -> dict[str, ModuleType]:
        pycuda = ModuleType("pycuda")
        pycuda.driver = self.cuda = make_pycuda(self)
        return {"tensorrt": make_tensorrt(self), "pycuda": pycuda, "pycuda.driver": pycuda.driver}


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
            return Context()

    class Stream:
        def __init__(self) -> None:
            machine.need_context()
            self.handle = 4242

        def synchronize(self) -> None:
            machine.need_context()

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            machine.need_context()
            if sum(a.nbytes for a in machine.allocations.values()) + size > machine.memory:
                raise MemoryError_("cuMemAlloc failed: out of memory")
            self.address = 0x1000 + max(machine.allocations, default=0) + size
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
        weakref.finalize(array, release_pinned)
        return array

    def memcpy_htod_async(device: DeviceAllocation, host: np.ndarray, stream: Stream) -> None:
        machine.need_context()
        assert host.flags.c_contiguous
        machine.allocations[int(device)][: host.nbytes] = host.reshape(-1).view(np.uint8)

    def memcpy_dtoh_async(host: np.ndarray, device: DeviceAllocation, stream: Stream) -> None:
        machine.need_context()
        host.reshape(-1).view(np.uint8)[:] = machine.allocations[int(device)][: host.nbytes]

    for thing in (Error, LogicError, Device, Stream, Context, pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async):
        setattr(cuda, thing.__name__, thing)
    cuda.MemoryError = MemoryError_
    cuda.mem_alloc = DeviceAllocation
    cuda.init = lambda: None
    cuda.get_driver_version = lambda: machine.driver
    return cuda


def make_tensorrt(machine: Machine) -> ModuleType:
    trt = ModuleType("tensorrt")
    trt.__version__ = machine.version
    trt.BuilderFlag = enum.IntEnum("BuilderFlag", "FP16 OBEY_PRECISION_CONSTRAINTS", start=0)
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
                assert monitor.step_complete("Tactics", 0) and monitor.step_complete("Building", 0)
                monitor.phase_finish("Tactics")
                monitor.phase_finish("Building")
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
            self.set_flags, self.pools, self.profiles, self.cache = set(), {}, [], b""

        def set_flag(self, flag: enum.IntEnum) -> None:
            self.set_flags.add(flag.name)

        def set_memory_pool_limit(self, pool: enum.IntEnum, size: int) -> None:
            self.pools[pool.name] = size

        def add_optimization_profile(self, profile: Profile) -> int:
            self.profiles.append(profile)
            return 0

        def create_timing_cache(self, content: bytes) -> SimpleNamespace:
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
            return Engine(header["shapes"], model, self.logger)

    class Engine:
        def __init__(self, shapes: dict, model: bytes, logger: ILogger) -> None:
            self.shapes, self.logger = shapes, logger
            self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
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

        def create_execution_context(self) -> ExecutionContext | None:
            machine.need_context()
            if machine.memory < 1000:
                self.logger.fail(OUT_OF_MEMORY)
                return None
            return ExecutionContext(self)

    class ExecutionContext:
        def __init__(self, engine: Engine) -> None:
            self.engine, self.addresses, self.shape = engine, {}, {}

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

        def execute_async_v3(self, stream: int) -> bool:
            machine.need_context()
            assert stream == 4242
            if machine.execute_error:
                self.engine.logger.fail(machine.execute_error)
                return False
            feed = {}
            for name, shape in self.shape.items():
                dtype, size = self.engine.tensors[name][1], int(np.prod(shape))
                memory = machine.allocations[self.addresses[name]]
                feed[name] = memory[: size * dtype.itemsize].view(dtype).reshape(shape)
            for node, value in zip(self.engine.session.get_outputs(), self.engine.session.run(None, feed)):
                value = np.ascontiguousarray(value + value.dtype.type(machine.noise))
                machine.allocations[self.addresses[node.name]][: value.nbytes] = value.reshape(-1).view(np.uint8)
            return True

    for thing in (ILogger, IProgressMonitor, Builder, OnnxParser, Runtime):
        setattr(trt, thing.__name__, thing)
    trt.ILayer, trt.IBuilderConfig = Layer, Config
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
