"""``probpose build-engine``: an ONNX model -> a TensorRT engine in the user's cache, compared with onnxruntime."""

from __future__ import annotations

import argparse
import json
import time
from contextlib import closing
from pathlib import Path


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("build-engine", help="make the TensorRT engine of a model for this GPU")
    parser.add_argument("model", metavar="MODEL", help="name of a bundled model, or path of an ONNX file")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help="(default: fp16)")
    people = "largest batch; of a detector: cameras (default: 8)"
    parser.add_argument("--max-people", type=int, default=8, metavar="N", help=people)
    parser.add_argument("--workspace", type=int, metavar="MB", help="scratch memory (default: an eighth of the GPU's)")
    images = "folder of photographs to compare engine and onnxruntime on"
    parser.add_argument("--images", type=Path, metavar="DIR", help=images)
    parser.add_argument("--no-compare", action="store_true", help="keep the engine without comparing it")
    parser.add_argument("--force", action="store_true", help="build even if the cache has this engine")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--verbose", action="store_true", help="print what TensorRT says")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from probpose_ros.backends import engine as engines
    from probpose_ros.backends import load
    from probpose_ros.backends.numerics import beyond_limits, compare, inputs_of, model_info, read_images
    from probpose_ros.backends.tensorrt import TensorRTSession
    from probpose_ros.models import find_model

    if not 1 <= args.max_people <= 100:
        raise ValueError(f"--max-people {args.max_people}: must be from 1 to 100")
    path = find_model(args.model)
    reference = load(path, "onnxruntime")
    info = model_info(reference, path)
    if not (args.images or args.no_compare or args.dry_run):
        raise ValueError("name a folder of photographs with --images, to compare on, or give --no-compare")
    try:
        device = engines.this_device()
        engines.check_precision(engines.import_tensorrt(), path, info.precision, args.precision)
    except engines.EngineError as error:
        if not args.dry_run:
            raise
        print(f"this would fail here: {error}")
        device = engines.Device("?", "?", 0, "no GPU", 8192)
    workspace = args.workspace or engines.default_workspace_mb(device)
    fingerprint = engines.Fingerprint(
        engines.file_sha256(path), device.tensorrt, device.cuda, device.sm, args.precision, args.max_people
    )
    target = engines.cache_dir() / f"{fingerprint.key}.engine"
    print(f"{path} ({info.kind}, {info.precision} file) -> {target}")
    print(f"  for TensorRT {device.tensorrt}, CUDA {device.cuda}, sm_{device.sm} ({device.name})")
    print(f"  {args.precision}, batch 1 to {args.max_people}, {workspace} MB of workspace")
    if args.dry_run:
        return 0
    if not args.force and any(engine.fingerprint == fingerprint for engine in engines.all_engines()):
        print("it is there already; --force builds it again")
        return 0

    images = read_images(args.images) if args.images else []
    target.parent.mkdir(parents=True, exist_ok=True)
    batch = 1 if info.kind == "detector" else min(2, args.max_people)
    options = engines.BuildOptions(args.precision, args.max_people, batch, workspace, args.verbose)
    timing = target.parent / f"timing-{device.tensorrt}-sm{device.sm}.cache"
    started = time.monotonic()
    content = engines.build(path, info.precision, options, timing)
    built = engines.store(content, path.name, fingerprint, reference.metadata)
    print(f"built in {time.monotonic() - started:.0f} s, {built.size / 1e6:.1f} MB")
    report: dict[str, float] = {}
    if images:
        with closing(TensorRTSession(path, built)) as session:
            inputs = inputs_of(info, images)
            report = compare(reference, session, inputs, info.kind, min(4, args.max_people))
        print(f"beside onnxruntime: {json.dumps({name: round(value, 5) for name, value in report.items()})}")
        if problems := beyond_limits(report, info.kind):
            built.path.unlink()
            raise engines.EngineError(
                f"{path}: the engine is refused, {'; '.join(problems)}; 'probpose export --precision fp16-typed' keeps "
                "fp32 where it matters, or build with --precision fp32"
            )
    engines.admit(built, report)
    print(f"use it: backend auto or tensorrt, model {path}")
    return 0
