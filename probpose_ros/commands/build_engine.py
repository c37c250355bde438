"""``probpose build-engine``: an ONNX model -> a TensorRT engine in the user's cache, compared with onnxruntime.

Takes minutes, shows its progress, and has to be done once on each machine: engines do not travel to another GPU or
TensorRT. The node never builds; it uses the engine that fits, or says which command makes it.

examples:
  probpose build-engine probpose_small --images photos     # compared on your photographs before it is admitted
  probpose build-engine probpose_small --images photos --precision int8 --calibration-images others
  probpose build-engine person_detector --max-people 1 --no-compare
  probpose build-engine probpose_small --dry-run           # what would be done
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

VIEWS = 24  # of scikit-image's photographs

if TYPE_CHECKING:
    import numpy as np

    from probpose_ros.detector import Detector
    from probpose_ros.model_info import ModelInfo


def register(subparsers: argparse._SubParsersAction) -> None:
    from probpose_ros.config import PipelineConfig

    parser = subparsers.add_parser("build-engine", help="make the TensorRT engine of a model for this GPU")
    parser.add_argument("model", metavar="MODEL", help="name of a bundled model, or path of an ONNX file")
    parser.add_argument("--precision", choices=("fp16", "int8", "fp32"), default="fp16", help="(default: fp16)")
    people = "largest batch; of a detector: cameras (default: %(default)s)"
    parser.add_argument("--max-people", type=int, default=PipelineConfig().max_people, metavar="N", help=people)
    parser.add_argument("--workspace", type=int, metavar="MB", help="scratch memory (default: an eighth of the GPU's)")
    images = "folder of photographs to compare engine and onnxruntime on (default: those of scikit-image)"
    parser.add_argument("--images", type=Path, metavar="DIR", help=images)
    calibration = "for int8: folder of photographs, best other ones, to measure the ranges of activations on"
    parser.add_argument("--calibration-images", type=Path, metavar="DIR", help=calibration)
    strong = "write half precision into the network's types instead of leaving the choice to TensorRT 10"
    parser.add_argument("--strongly-typed", action="store_true", help=f"{strong} (always so with 11, and for int8)")
    write = "only write the ONNX that TensorRT would be given; needs neither TensorRT nor a GPU, nor torch"
    parser.add_argument("--write-onnx", type=Path, metavar="OUT.onnx", help=write)
    parser.add_argument("--no-compare", action="store_true", help="keep the engine without comparing it")
    parser.add_argument("--force", action="store_true", help="build even if the cache has this engine")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--verbose", action="store_true", help="print what TensorRT says")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from probpose_ros.backends import engine as engines
    from probpose_ros.backends import load
    from probpose_ros.backends.engine_network import network_file
    from probpose_ros.backends.numerics import beyond_limits, compare, inputs_of, model_info
    from probpose_ros.backends.tensorrt import TensorRTSession
    from probpose_ros.models import find_model

    if not 1 <= args.max_people <= 100:
        raise ValueError(f"--max-people {args.max_people}: must be from 1 to 100")
    if args.workspace is not None and args.workspace < 1:
        raise ValueError(f"--workspace {args.workspace}: must be at least 1 MB")
    path = find_model(args.model)
    reference = load(path, "onnxruntime")
    info = model_info(reference, path)
    if args.precision == "int8" and not (args.calibration_images or args.dry_run):
        raise ValueError("int8 needs photographs to measure on: --calibration-images DIR")
    if args.write_onnx:
        return _write_onnx(args, path, info)
    photographs = [] if args.no_compare or args.dry_run else _photographs(args.images)
    strong = args.strongly_typed
    try:
        device = engines.this_device()
        strong = engines.choose_typing(engines.import_tensorrt(), path, info.precision, args.precision, strong)
    except engines.EngineError as error:
        if not args.dry_run:
            raise
        print(f"this would fail here: {error}")
        device = engines.Device("?", "?", 0, "no GPU", 8192)
    workspace = args.workspace or engines.default_workspace_mb(device)
    fingerprint = engines.Fingerprint(
        engines.file_sha256(path), device.tensorrt, device.cuda, device.sm, args.precision, strong, args.max_people
    )
    target = engines.cache_dir() / f"{fingerprint.key}.engine"
    print(f"{path} ({info.kind}, {info.precision} file) -> {target}")
    print(f"  for TensorRT {device.tensorrt}, CUDA {device.cuda}, sm_{device.sm} ({device.name})")
    typing = "types written into the network" if strong else "types chosen by TensorRT"
    print(f"  {args.precision}, {typing}, batch 1 to {args.max_people}, {workspace} MB of workspace")
    if args.dry_run:
        return 0
    if info.kind == "pose":
        _compile_crop_kernel(device.sm)
    if not args.force and any(engine.fingerprint == fingerprint for engine in engines.all_engines()):
        print("it is there already; --force builds it again")
        return 0

    inputs = inputs_of(info, photographs, _detector(info)) if photographs else None
    content = network_file(path, info.precision, args.precision, strong, _calibration_inputs(args, info))

    target.parent.mkdir(parents=True, exist_ok=True)
    batch = 1 if info.kind == "detector" else min(2, args.max_people)
    options = engines.BuildOptions(args.precision, strong, args.max_people, batch, workspace, args.verbose)
    timing = target.parent / f"timing-{device.tensorrt}-sm{device.sm}.cache"
    started = time.monotonic()
    engine = engines.build(content, str(path), options, timing)
    built = engines.store(engine, path.name, fingerprint, _metadata(reference.metadata, args.precision))
    print(f"built in {time.monotonic() - started:.0f} s, {built.size / 1e6:.1f} MB")
    report: dict[str, float] = {}
    if inputs is not None:
        with closing(TensorRTSession(path, built)) as session:
            print(f"runs on {session.backend}")
            report = compare(reference, session, inputs, info.kind, min(4, args.max_people))
        print(f"beside onnxruntime: {json.dumps({name: round(value, 5) for name, value in report.items()})}")
        if problems := beyond_limits(report, info.kind, args.precision):
            built.path.unlink()
            raise engines.EngineError(f"{path}: the engine is refused, {'; '.join(problems)}; {_advice(strong, args)}")
    engines.admit(built, report)
    print(f"use it: backend auto or tensorrt, model {path}")
    return 0


def _photographs(folder: Path | None) -> list[np.ndarray]:
    """What to compare on: the user's, else the demo's views of scikit-image's, in which bodies are cut off."""
    from probpose_ros.backends.numerics import read_images
    from probpose_ros.virtual_camera import VirtualCamera

    if folder:
        return read_images(folder)
    try:
        return list(VirtualCamera(VIEWS))
    except OSError:
        raise ValueError(
            "nothing to compare on: name a folder of photographs with --images (best from your camera), "
            "or pip install scikit-image for its own, or give --no-compare"
        ) from None


def _write_onnx(args: argparse.Namespace, path: Path, info: ModelInfo) -> int:
    """The network as TensorRT gets it: strongly typed for 10 and later, else as for 8.6."""
    import onnx

    from probpose_ros.backends.engine_network import network_file
    from probpose_ros.model_info import METADATA_KEY

    content = network_file(path, info.precision, args.precision, args.strongly_typed, _calibration_inputs(args, info))
    model = onnx.load_from_string(content)
    typed = args.precision == "fp16" and (args.strongly_typed or info.precision == "fp16-typed")
    precision = args.precision if args.precision == "int8" else "fp16-typed" if typed else "fp32"
    onnx.helper.set_model_props(model, {METADATA_KEY: replace(info, precision=precision).to_json()})
    args.write_onnx.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(args.write_onnx))
    print(f"{args.write_onnx}: {precision}, {args.write_onnx.stat().st_size / 1e6:.1f} MB")
    return 0


def _calibration_inputs(args: argparse.Namespace, info: ModelInfo) -> np.ndarray | None:
    from probpose_ros.backends.numerics import inputs_of, read_images

    if args.precision != "int8":
        return None
    inputs = inputs_of(info, read_images(args.calibration_images), _detector(info))
    print(f"int8: measuring the ranges of activations on {len(inputs)} inputs, on the CPU")
    return inputs


def _advice(strong: bool, args: argparse.Namespace) -> str:
    if args.precision == "int8":
        return "give more and more typical --calibration-images, or build with --precision fp16"
    return "build with --precision fp32" if strong else "build with --strongly-typed, or with --precision fp32"


def _metadata(metadata: dict[str, str], precision: str) -> dict[str, str]:
    """The engine's: eight bits make another network, for which a calibration of the file does not hold."""
    from probpose_ros.model_info import METADATA_KEY

    if precision != "int8":
        return metadata
    return {**metadata, METADATA_KEY: json.dumps({**json.loads(metadata[METADATA_KEY]), "precision": "int8"})}


def _compile_crop_kernel(sm: int) -> None:
    from probpose_ros.backends.engine import EngineError
    from probpose_ros.backends.gpu_crop import compile_kernel

    try:
        print(f"crop kernel: {compile_kernel(sm)}")
    except EngineError as error:
        print(f"crops will be cut on the CPU: {error}")


def _detector(info: ModelInfo) -> Detector | None:
    """The default person detector, for crops as the node cuts them; None for a detector, and where it is missing."""
    from probpose_ros.config import PipelineConfig
    from probpose_ros.detector import Detector

    if info.kind != "pose":
        return None
    try:
        return Detector(PipelineConfig.detector, backend="onnxruntime")
    except (ValueError, OSError) as error:
        print(f"no persons are looked for in the photographs, parts of them serve instead: {error}")
        return None
