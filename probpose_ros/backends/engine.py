"""TensorRT engines on disk: what one belongs to, where it lies, why it is refused, and how it is built.

An engine runs on one TensorRT version and one GPU architecture alone. So it lies in the user's cache under a name made
of everything it depends on, beside a JSON file that says so in words. Nothing here builds unless build() is called,
which only ``probpose build-engine`` does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from probpose_ros.backends import BackendError
from probpose_ros.models import file_sha256

PRECISIONS = ("int8", "fp16", "fp32")  # Of several engines the first of these is used.
FORMAT = "probpose engine 2"
JETSON = Path("/etc/nv_tegra_release")  # The board's release; no other machine has the file.
# The convolution that gives the maps' logits, by its node's name: sparsemax turns their rounding into other cells.
LOGITS = "/head/final_layer"
# The first, narrow layers of a convolutional backbone: few operations, and half the rounding of the whole network.
FIRST = ("/backbone/stem", "/backbone/stages.0/")
# Layers of a weakly typed network that may run in half: those of the network itself. What follows it (sparsemax,
# decode, probabilities) keeps fp32, and so do the kinds below, wherever they are.
NETWORK = "/model/"
_FLOAT_KINDS = ("NORMALIZATION", "REDUCE", "UNARY", "TOPK")
_UNTYPED_KINDS = ("CONSTANT", "SHAPE", "CAST")  # They have no arithmetic whose precision could be chosen.


class EngineError(BackendError):
    """No engine, or not one for this machine; the message holds the command that makes it."""


@dataclass(frozen=True)
class Fingerprint:
    """All that an engine depends on.

    onnx_sha256: of the model file. tensorrt: its version. cuda: the driver's CUDA version. sm: compute capability, 87
    is an Orin. precision: one of PRECISIONS. strong: built by the network's own types. max_batch: it takes 1 to this
    many inputs at a time.
    """

    onnx_sha256: str
    tensorrt: str
    cuda: str
    sm: int
    precision: str
    strong: bool
    max_batch: int

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Device:
    """The machine's part of a fingerprint, and names for messages."""

    tensorrt: str
    cuda: str
    sm: int
    name: str
    memory_mb: int


def this_device() -> Device:
    """Asks pycuda and tensorrt; EngineError with the fix if one of them is missing or there is no GPU."""
    trt, cuda = import_tensorrt(), import_pycuda()
    try:
        cuda.init()
        device = cuda.Device(0)
        version = cuda.get_driver_version()
    except cuda.Error as error:
        raise EngineError(f"CUDA cannot be used ({error}); on a Jetson, is the user in the group 'video'?") from None
    major, minor = device.compute_capability()
    name, memory = device.name(), device.total_memory() // 2**20
    return Device(trt.__version__, f"{version // 1000}.{version % 1000 // 10}", 10 * major + minor, name, memory)


def import_tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise EngineError(
            f"tensorrt cannot be imported ({error}); on a Jetson: sudo apt install python3-libnvinfer, and make the "
            "virtual environment with --system-site-packages (docs/tensorrt.md)"
        ) from None
    if int(tensorrt.__version__.split(".")[0]) < 8 or not hasattr(tensorrt, "TensorIOMode"):
        raise EngineError(f"TensorRT {tensorrt.__version__} is too old; 8.6 to 11 are supported")
    return tensorrt


def import_pycuda() -> Any:
    try:
        import pycuda.driver
    except ImportError as error:
        raise EngineError(
            f"pycuda cannot be imported ({error}); install it with PATH=/usr/local/cuda/bin:$PATH pip install pycuda"
        ) from None
    return pycuda.driver


def cache_dir() -> Path:
    """``$PROBPOSE_ENGINES``, else ``probpose/engines`` in the user's cache folder."""
    if folder := os.environ.get("PROBPOSE_ENGINES"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "probpose/engines"


def build_command(model: Path | str, fingerprint: Fingerprint | None = None) -> str:
    """What a user types to get the engine: the usual one, or another one like ``fingerprint``.

    In a ROS workspace nothing of the package lies in the PATH, and ``ros2 run`` finds the program.
    """
    program = "probpose" if shutil.which("probpose") else "ros2 run probpose_ros probpose"
    command = f"{program} build-engine {shlex.quote(str(model))}"
    if fingerprint is None:
        return f"{command} --images DIR"
    options = f"--precision {fingerprint.precision} --max-people {fingerprint.max_batch} --images DIR"
    options += " --strongly-typed" if fingerprint.strong else ""
    options += " --calibration-images DIR" if fingerprint.precision == "int8" else ""
    return f"{command} {options}"


@dataclass(frozen=True)
class Engine:
    """An engine file and what is known of it.

    model: name of the ONNX file. metadata: of it. report: of the comparison after the build. sha256, size: of the
    engine file.
    """

    path: Path
    model: str
    fingerprint: Fingerprint
    metadata: dict[str, str]
    report: dict[str, Any]
    sha256: str
    size: int

    def read(self, model: Path) -> bytes:
        """The file's content; EngineError if it is not the one that was built from ``model``."""
        how = f"rebuild it: {build_command(model, self.fingerprint)}"
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise EngineError(f"{self.path}: cannot be read ({error}); {how}") from None
        if len(content) != self.size:
            raise EngineError(f"{self.path}: {len(content)} bytes instead of {self.size}, cut off or replaced; {how}")
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise EngineError(f"{self.path}: its content has changed since it was built; {how}")
        return content


def all_engines() -> Iterator[Engine]:
    """Every engine in the cache; broken entries are left out. Reads small text files, neither TensorRT nor the GPU."""
    for sidecar in sorted(cache_dir().glob("*.json")):
        try:
            content = json.loads(sidecar.read_text(encoding="utf-8"))
            if content["format"] == FORMAT:
                fingerprint = Fingerprint(**content["fingerprint"])
                known = {name: content[name] for name in ("model", "metadata", "report", "sha256", "size")}
                yield Engine(path=sidecar.with_suffix(".engine"), fingerprint=fingerprint, **known)
        except (OSError, ValueError, KeyError, TypeError):
            continue


def no_engine(model: Path) -> str:
    """Empty if some engine was built from this very file, for whatever machine; else why there is none."""
    engines = list(all_engines())
    sha256 = file_sha256(model) if engines else ""
    if any(engine.fingerprint.onnx_sha256 == sha256 for engine in engines):
        return ""
    stale = any(engine.model == model.name for engine in engines)
    what = "its engine is stale, built from another version of the file" if stale else "no TensorRT engine"
    return f"{model}: {what} ({cache_dir()}); build it: {build_command(model)}"


def could_run(model: Path) -> bool:
    """Whether somebody would expect TensorRT to run this model: it is installed, this is a Jetson, or it ran an earlier
    version of the model."""
    expected = importlib.util.find_spec("tensorrt") is not None or JETSON.is_file()
    return expected or any(engine.model == model.name for engine in all_engines())


def find_engine(model: Path, device: Device) -> Engine:
    """The engine of the model for this machine: the lowest precision that somebody asked for, the larger batch first.

    Raises:
        EngineError: there is none, or only foreign and stale ones; says which and how to build one.
    """
    if reason := no_engine(model):
        raise EngineError(reason)
    sha256 = file_sha256(model)
    found = [engine for engine in all_engines() if engine.fingerprint.onnx_sha256 == sha256]
    here = [e for e in found if (e.fingerprint.tensorrt, e.fingerprint.cuda, e.fingerprint.sm) == _place(device)]
    if here:
        return min(here, key=_preference)
    have = f"this is TensorRT {device.tensorrt}, CUDA {device.cuda}, sm_{device.sm}"
    others = "; ".join(
        f"TensorRT {e.fingerprint.tensorrt}, CUDA {e.fingerprint.cuda}, sm_{e.fingerprint.sm}" for e in found
    )
    how = build_command(model, found[0].fingerprint)
    raise EngineError(f"{model}: its engines were built for {others}, but {have}; rebuild: {how}")


def _preference(engine: Engine) -> tuple[int, bool, int]:
    values = engine.fingerprint
    return PRECISIONS.index(values.precision), not values.strong, -values.max_batch


def _place(device: Device) -> tuple[str, str, int]:
    return device.tensorrt, device.cuda, device.sm


@dataclass(frozen=True)
class BuildOptions:
    """precision, strong, max_batch: as in Fingerprint. opt_batch: the batch it is tuned for. workspace_mb: most scratch
    memory."""

    precision: str = "fp16"
    strong: bool = False
    max_batch: int = 8
    opt_batch: int = 2
    workspace_mb: int = 1024
    verbose: bool = False


def default_workspace_mb(device: Device) -> int:
    """A Jetson shares its memory between CPU and GPU: an eighth, so that a board of 8 GB lives on, and 4 GB at most."""
    return min(4096, max(256, device.memory_mb // 8))


def choose_typing(trt: Any, model: Path, model_precision: str, precision: str, strong: bool) -> bool:
    """Whether the network is built by its own types: on request, if the file is typed in half, for int8, or if TensorRT
    knows nothing else.

    Args:
        model_precision: of the file's metadata (ModelInfo.precision). strong: the request.

    Raises:
        EngineError: the wanted precision cannot come out of this file, or not so with this TensorRT.
    """
    if precision not in PRECISIONS:
        raise EngineError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if model_precision == "fp16-typed" and precision != "fp16":
        raise EngineError(f"{model} computes in half by its types; for {precision} take the fp32 or fp16 file of it")
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        if strong:
            raise EngineError(f"TensorRT {trt.__version__} has no strongly typed networks (10 and later do)")
        return False
    return strong or precision == "int8" or model_precision == "fp16-typed" or not hasattr(trt.BuilderFlag, "FP16")


def build(network_file: bytes, name: str, options: BuildOptions, timing_cache: Path) -> bytes:
    """The serialized engine; minutes on a Jetson.

    Args:
        network_file: ONNX, as :func:`probpose_ros.backends.engine_network.network_file` makes it for ``options``.
        name: of the model, for messages.
        timing_cache: file of measured kernels, read and written; a second build is then much faster.

    Raises:
        EngineError: in words, what TensorRT refused: the GPU, an operator, the memory.
    """
    trt = import_tensorrt()
    logger = get_logger(trt, options.verbose)
    try:
        builder = trt.Builder(logger)
        check_gpu(trt, builder, logger)
        network = builder.create_network(_network_flags(trt, options.strong))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(network_file):
            errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
            raise EngineError(f"{name}: TensorRT {trt.__version__} cannot take this network: {errors}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * 2**20)
        # On by default: it multiplies with mantissas of 10 bits, as half does, and fp32 is there to round less.
        config.clear_flag(trt.BuilderFlag.TF32)
        if options.precision != "fp32" and not options.strong:
            config.set_flag(trt.BuilderFlag.FP16)
            if options.precision == "int8":
                config.set_flag(trt.BuilderFlag.INT8)
            _keep_islands(trt, network, config)
        profile = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            rest = tuple(tensor.shape)[1:]
            sizes = (1, min(options.opt_batch, options.max_batch), options.max_batch)
            profile.set_shape(tensor.name, *((size, *rest) for size in sizes))
        config.add_optimization_profile(profile)
        timings = config.create_timing_cache(timing_cache.read_bytes() if timing_cache.is_file() else b"")
        if timings is None:  # A file that TensorRT cannot read.
            timings = config.create_timing_cache(b"")
        config.set_timing_cache(timings, True)  # True: measurements of another machine are ignored, not an error.
        with _progress(trt, config) as monitor:
            plan = builder.build_serialized_network(network, config)
    except (RuntimeError, MemoryError, TypeError) as error:
        # TypeError: pybind11 turns a null builder into it.
        raise EngineError(f"TensorRT {trt.__version__} failed: {_reason(logger, error)}") from None
    if monitor and monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise EngineError(f"{name}: no engine: {_reason(logger)}")
    write(timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def probe_gpu() -> None:
    """EngineError if the installed TensorRT builds nothing for this GPU; a few seconds."""
    trt = import_tensorrt()
    logger = get_logger(trt)
    try:
        check_gpu(trt, trt.Builder(logger), logger)
    except (RuntimeError, TypeError) as error:
        raise EngineError(f"TensorRT {trt.__version__} failed: {_reason(logger, error)}") from None


def check_gpu(trt: Any, builder: Any, logger: Any) -> None:
    """Builds one identity layer: a TensorRT without kernels for this GPU says so here, not minutes later."""
    network = builder.create_network(_network_flags(trt, hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")))
    tensor = network.add_input("x", trt.DataType.FLOAT, (1, 8))
    network.mark_output(network.add_identity(tensor).get_output(0))
    if builder.build_serialized_network(network, builder.create_builder_config()) is None:
        raise EngineError(
            f"TensorRT {trt.__version__} builds nothing for this GPU: {_reason(logger)}; install the version that "
            "belongs to this JetPack (docs/tensorrt.md)"
        )


def store(engine: bytes, model: str, fingerprint: Fingerprint, metadata: dict[str, str]) -> Engine:
    """Writes the engine file into the cache. No node finds it before admit()."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    path = cache_dir() / f"{fingerprint.key}.engine"
    path.with_suffix(".json").unlink(missing_ok=True)
    write(path, engine)
    return Engine(path, model, fingerprint, metadata, {}, hashlib.sha256(engine).hexdigest(), len(engine))


def admit(engine: Engine, report: dict[str, Any]) -> None:
    """Writes the file beside the engine that makes it one of the cache. report: of the comparison, empty without."""
    content = {
        "format": FORMAT, "model": engine.model, "fingerprint": asdict(engine.fingerprint), "metadata": engine.metadata,
        "report": report, "sha256": engine.sha256, "size": engine.size,
        "built": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": platform.node(),
    }  # fmt: skip
    write(engine.path.with_suffix(".json"), json.dumps(content, indent=1).encode())


def write(path: Path, content: bytes) -> None:
    """Whoever reads meanwhile finds the whole old file, or the whole new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def get_logger(trt: Any, verbose: bool = False) -> Any:
    """The process's logger, which keeps errors, because TensorRT's calls return only that they failed; now empty."""
    logger = _logger(trt)
    logger.verbose = verbose
    logger.errors.clear()
    return logger


@cache
def _logger(trt: Any) -> Any:
    """Made once and never freed: TensorRT keeps the first logger that it is given, beyond those who gave it."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.verbose = False

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            if self.verbose and severity != trt.ILogger.Severity.VERBOSE:
                print(f"[TensorRT] {message}")

    return Logger()


def _network_flags(trt: Any, strong: bool) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    if strong:
        return 1 << int(flags.STRONGLY_TYPED)
    # Before 10 a network without this flag has no dynamic batch; from 10 on there is no other kind.
    return 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0


def _keep_islands(trt: Any, network: Any, config: Any) -> None:
    """fp32 for the layers where half rounds too much, in a weakly typed network; see NETWORK."""
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        kind = layer.type.name
        exact = any(part in layer.name for part in (LOGITS, *FIRST))
        may_be_half = layer.name.startswith(NETWORK) and kind not in _FLOAT_KINDS and not exact
        if may_be_half or kind in _UNTYPED_KINDS:
            continue
        types = [layer.get_output(j).dtype for j in range(layer.num_outputs)]
        if types and all(dtype == trt.DataType.FLOAT for dtype in types):
            layer.precision = trt.DataType.FLOAT
            for j in range(layer.num_outputs):
                layer.set_output_type(j, trt.DataType.FLOAT)


@contextmanager
def _progress(trt: Any, config: Any) -> Iterator[Any]:
    """A progress bar per phase of the build, where TensorRT reports them (10 and later); one line elsewhere.

    Gives the monitor, whose ``interrupted`` says that Ctrl-C ended the build; None where there is none.
    """
    if not hasattr(trt, "IProgressMonitor"):
        print(f"TensorRT {trt.__version__} builds; it reports no progress, and takes minutes")
        yield None
        return
    from tqdm import tqdm

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Called from C++, which an exception must not reach."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.bars: dict[str, tqdm] = {}
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            def start() -> None:
                self.bars[phase_name] = tqdm(total=num_steps, desc=phase_name, leave=parent_phase is None)

            self._attempt(start)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._attempt(lambda: self.bars[phase_name].update(step + 1 - self.bars[phase_name].n))
            return not self.interrupted  # False ends the build.

        def phase_finish(self, phase_name: str) -> None:
            self._attempt(lambda: self.bars.pop(phase_name).close())

        def _attempt(self, function: Callable[[], object]) -> None:
            try:
                function()
            except KeyboardInterrupt:
                self.interrupted = True
            except Exception:  # noqa: BLE001 - a bar that cannot be drawn is no reason to lose the build
                pass

    monitor = Monitor()
    config.progress_monitor = monitor
    try:
        yield monitor
    finally:
        for bar in monitor.bars.values():
            bar.close()


def _reason(logger: Any, error: Exception | None = None) -> str:
    reason = logger.errors[-1] if logger.errors else str(error or "TensorRT gave no reason")
    if "emory" in reason:
        reason += " (less --workspace, fewer --max-people, or close other programs)"
    return reason
