"""``probpose doctor``: what is installed, what is missing, and how to put it right.

One line for each thing: "ok", "MISSING" (nothing runs without it) or "-" (something optional is not there), what was
found, and below it the command that puts it right. The exit status is 1 if something that is needed is missing.

examples:
  probpose doctor
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """name, whether it is there, what was found, the fix if it is not; needed: the runtime cannot do without it."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    needed: bool = False


# module -> (what it is for, the fix, needed by the runtime)
TRAINING = "make test, or in the repository: pip install -e .[training]"
MODULES: dict[str, tuple[str, str, bool]] = {
    "numpy": ("arrays", "pip install numpy", True),
    "cv2": ("images", "pip install opencv-python-headless, or apt install python3-opencv", True),
    "onnxruntime": ("networks on the CPU", "pip install onnxruntime", True),
    "yaml": ("configuration files", "pip install pyyaml, or apt install python3-yaml", False),
    "tqdm": ("progress bars", "pip install tqdm, or apt install python3-tqdm", True),
    "scipy": ("ids of people over time", "pip install scipy, or apt install python3-scipy", True),
    "imageio_ffmpeg": ("MP4 that browsers play", "pip install imageio-ffmpeg", False),
    "rosbags": ("ROS 2 bags without ROS", "pip install rosbags", False),
    "torch": ("training and export", TRAINING, False),
    "onnx": ("training and export", TRAINING, False),
    "lightning_fabric": ("training", TRAINING, False),
    "pycocotools": ("evaluating", TRAINING, False),
    "jinja2": ("reports", TRAINING, False),
    "matplotlib": ("reports", TRAINING, False),
    "openvino": ("the backend openvino, for 8-bit models on CPUs", "pip install openvino", False),
    "tensorrt": (
        "networks on an NVIDIA GPU", "on a Jetson: sudo apt install python3-libnvinfer, and a virtual environment with "
        "--system-site-packages; elsewhere: pip install tensorrt", False,
    ),
    "pycuda.driver": ("networks on an NVIDIA GPU", "PATH=/usr/local/cuda/bin:$PATH pip install pycuda", False),
    "rclpy": ("the ROS node", "source /opt/ros/<distribution>/setup.bash, or run 'make demo'", False),
    "probpose_msgs.msg": ("the ROS node", "colcon build, then source install/setup.bash; or run 'make demo'", False),
    "launch_ros": ("ros2 launch", "sudo apt install ros-$ROS_DISTRO-launch-ros", False),
    "foxglove_msgs.msg": ("the topic annotations", "sudo apt install ros-$ROS_DISTRO-foxglove-msgs", False),
    "vision_msgs.msg": ("the topic detections", "sudo apt install ros-$ROS_DISTRO-vision-msgs", False),
    "hri_msgs.msg": ("the topics of REP-155", "sudo apt install ros-$ROS_DISTRO-hri-msgs", False),
}  # fmt: skip
# module -> (oldest version, its package on PyPI, the command that needs it; the runtime itself where that is empty)
OLDEST = {
    "numpy": ((1, 21), "numpy", ""),
    "cv2": ((4, 5), "opencv-python-headless", ""),
    "scipy": ((1, 12), "scipy", "probpose calibrate"),
}
SHARED_MEMORY = 256 * 2**20  # a few processes with the segments of config/fastdds_shm.xml


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("doctor", help="what is installed, what is missing, the exact fix")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    findings = list(examine())
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "ok" if finding.ok else "MISSING" if finding.needed else "-"
        print(f"{mark:8}{finding.name:{width}}  {finding.found}")
        if not finding.ok:
            print(f"{'':8}{'':{width}}  fix: {here(finding.fix)}")
    broken = [finding.name for finding in findings if finding.needed and not finding.ok]
    print(f"the runtime cannot run: {', '.join(broken)}" if broken else "the runtime can run: probpose run photo.jpg")
    return 1 if broken else 0


def here(fix: str) -> str:
    """A fix as it is typed on this machine: the pip of this very Python, and this ROS."""
    if sys.prefix != sys.base_prefix and os.environ.get("VIRTUAL_ENV") != sys.prefix:  # its pip is not first on PATH
        fix = re.sub(r"\bpip install", f"{sys.prefix}/bin/pip install", fix)
    if "$ROS_DISTRO" in fix and "ROS_DISTRO" not in os.environ:
        fix += ", where ROS comes from apt (source /opt/ros/<distribution>/setup.bash first)"
    return fix


def examine() -> Iterator[Finding]:
    """Every finding, in the order of the table."""
    version = platform.python_version()
    found = f"{version} ({sys.executable})"
    yield Finding("python", sys.version_info >= (3, 10), found, "use Python 3.10 or later", True)
    for module, (purpose, fix, needed) in MODULES.items():
        yield _module(module, purpose, fix, needed)
    yield from _models()
    yield _calibration()
    if Path("/dev/shm").is_dir():
        yield _shared_memory(shutil.disk_usage("/dev/shm").free)
    yield from _gpu()


def _module(module: str, purpose: str, fix: str, needed: bool) -> Finding:
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - a broken installation raises anything, and that is what to report
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "") in module
        what = "not installed" if absent else f"{type(error).__name__}: {_first_line(error)}"
        return Finding(module, False, f"for {purpose}; {what}", fix, needed)
    found = str(getattr(loaded, "__version__", "installed"))
    oldest, package, user = OLDEST.get(module, ((), "", ""))
    if _version(found) < oldest:
        told = f"{found}: older than {'.'.join(map(str, oldest))}" + (f", which {user} needs" if user else "")
        return Finding(module, False, told, f"pip install --upgrade {package}", needed and not user)
    if module == "onnxruntime":
        found += f" ({', '.join(loaded.get_available_providers())})"
    if module == "torch":
        # On a Jetson PyPI's torch has no CUDA; the runtime needs neither, so this is no fault.
        cuda = f"CUDA {loaded.version.cuda}" if loaded.cuda.is_available() else "CPU only; the runtime needs no torch"
        found += f" ({cuda})"
    return Finding(module, True, found, needed=needed)


def _models() -> Iterator[Finding]:
    from probpose_ros.config import PipelineConfig

    config = PipelineConfig()
    for kind, name in (("detector", config.detector), ("pose model", config.model)):
        try:
            found = _load(kind, name)
        except Exception as error:  # noqa: BLE001 - also what a missing onnxruntime raises
            fix = "install the package with its models/ folder, or 'probpose fetch NAME', or name an .onnx file"
            yield Finding(kind, False, _first_line(error), fix, needed=True)
        else:
            yield Finding(kind, True, found, needed=True)


def _load(kind: str, name: str) -> str:
    from probpose_ros.detector import Detector
    from probpose_ros.pose import PoseModel

    model = Detector(name) if kind == "detector" else PoseModel(name)
    return f"{model.path} ({model.info.name}, {model.info.precision}, {model.path.stat().st_size / 1e6:.1f} MB)"


def _calibration() -> Finding:
    """Of the defaults; a params file or --calibration may name another one."""
    from probpose_ros.calibration import beside, load_calibration
    from probpose_ros.config import PipelineConfig
    from probpose_ros.models import find_model

    try:
        path = beside(find_model(PipelineConfig().model))
        if not path.is_file():
            fix = "probpose calibrate, on labelled images of your site (docs/calibrate.md)"
            return Finding("calibration", False, "none beside the default model: no region is valid", fix)
        load_calibration(path)
    except (ValueError, OSError) as error:
        return Finding("calibration", False, _first_line(error), "probpose calibrate, or set the option to ''")
    return Finding("calibration", True, str(path))


def _shared_memory(free: int) -> Finding:
    """Room for images between processes: where there is little, Fast DDS loses those that are sent best effort."""
    fix = "in a container: --shm-size=1g or --ipc=host; else: sudo mount -o remount,size=1g /dev/shm"
    return Finding("shared memory", free >= SHARED_MEMORY, f"{free / 2**20:.0f} MiB free in /dev/shm", fix)


def _version(text: str) -> tuple[int, ...]:
    """1.26.4 -> (1, 26)"""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _gpu() -> Iterator[Finding]:
    """The GPU as CUDA and TensorRT see it, and which of the default models have an engine for it."""
    from probpose_ros.backends import engine
    from probpose_ros.backends.gpu_crop import find_nvcc, kernel_path
    from probpose_ros.config import PipelineConfig
    from probpose_ros.models import find_model

    if board := _jetson():
        yield Finding("board", True, board)
    yield _cuda_driver()
    fix = "sudo apt install nvidia-jetpack; elsewhere the CUDA toolkit"
    nvcc = find_nvcc()
    yield Finding("nvcc", nvcc is not None, str(nvcc or "not there; compiles pycuda and the crop kernel"), fix)
    try:
        device = engine.this_device()
    except engine.EngineError as error:
        yield Finding("GPU", False, "not used; onnxruntime is", _first_line(error))
        return
    found = f"{device.name} (sm_{device.sm}, CUDA {device.cuda}, TensorRT {device.tensorrt}, {device.memory_mb} MB)"
    yield Finding("GPU", True, found)
    try:
        engine.probe_gpu()
    except engine.EngineError as error:
        fix = "install the TensorRT of this JetPack (docs/tensorrt.md)"
        yield Finding("TensorRT's kernels", False, _first_line(error), fix)
    else:
        yield Finding("TensorRT's kernels", True, f"this TensorRT builds for sm_{device.sm}")
    config = PipelineConfig()
    for kind, name in (("detector engine", config.detector), ("pose engine", config.model)):
        try:
            built = engine.find_engine(find_model(name), device)
        except engine.EngineError as error:
            yield Finding(kind, False, "none for this machine", _first_line(error))
        except OSError:
            continue  # No such model; its own row says so.
        else:
            values = built.fingerprint
            yield Finding(kind, True, f"{built.path} ({values.precision}, batch 1 to {values.max_batch})")
    kernel = kernel_path(device.sm)
    fix = engine.build_command(config.model)
    yield Finding("crop kernel", kernel.is_file(), f"{'' if kernel.is_file() else 'no '}{kernel}", fix)


def _jetson() -> str:
    """The board and its L4T release ("# R36 (release), REVISION: 4.0, ..." is 36.4.0, JetPack 6.1); empty elsewhere."""
    from probpose_ros.backends.engine import JETSON

    if not JETSON.is_file():
        return ""
    model = Path("/proc/device-tree/model")
    name = model.read_text(errors="replace").strip("\0\n") if model.is_file() else "Jetson"
    found = re.search(r"R(\d+).*?REVISION: ([\d.]+)", JETSON.read_text(errors="replace"))
    return f"{name}, L4T {found[1]}.{found[2]}" if found else name


def _cuda_driver() -> Finding:
    """The driver's library by itself, without pycuda: whether a GPU could be used at all."""
    fix = "install NVIDIA's driver; on a Jetson it belongs to L4T; in a container: docker run --runtime nvidia"
    try:
        version = ctypes.c_int()
        if status := ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)):
            return Finding("CUDA driver", False, f"cuDriverGetVersion failed with CUDA error {status}", fix)
    except (OSError, AttributeError) as error:
        return Finding("CUDA driver", False, _first_line(error), fix)
    return Finding("CUDA driver", True, f"CUDA {version.value // 1000}.{version.value % 1000 // 10}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
