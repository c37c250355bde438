"""``probpose export``: a checkpoint -> one ONNX file, verified before it is written; or a check of such a file.

The file holds preprocessing, network and decoding, and says in its metadata what the runtime has to know. It is run
beside torch first, and written only if both agree.

examples:
  probpose export runs/probpose_small/model.pt --out my.onnx --with-probmap
  probpose export runs/probpose_small/model.pt --out half.onnx --with-probmap --precision fp16-typed
  probpose export my.onnx --check tensorrt           # will TensorRT take it? needs no GPU
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("export", help="write a checkpoint as an ONNX model, verified against torch")
    made_by = "made by train or import-checkpoint; a .onnx is only checked"
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=made_by)
    parser.add_argument("--out", type=Path, metavar="model.onnx", help="the file to write")
    parser.add_argument("--with-probmap", action="store_true", help="add the output probmap (needed for regions)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "fp16-typed", "int8"),
        default="fp32",
        help="fp16: weights stored in half, half the file, computed in fp32 where the runtime does so; fp16-typed: "
        "computed in half by its types (TensorRT 11 builds no other fp16 engine); int8: for CPUs, of an exported .onnx "
        "and with --images (default: fp32)",
    )
    parser.add_argument(
        "--check", choices=("tensorrt",), help="hold every node and type against TensorRT's published operator tables"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="images (not of the test set) to fit int8 to")
    parser.add_argument("--annotations", type=Path, metavar="A.json", help="their persons; needed for a pose model")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    out = args.out
    if args.precision == "int8":
        _quantise(args)
    elif args.checkpoint.suffix == ".onnx":
        if not args.check or out:
            raise ValueError(f"{args.checkpoint} is exported already; check it with --check tensorrt and without --out")
        out = args.checkpoint
    elif out is None:
        raise ValueError("name the file to write with --out")
    else:
        _export(args)
    return _check(out) if args.check else 0


def _export(args: argparse.Namespace) -> None:
    from probpose_training.checkpoint import codec_of, load_checkpoint, read_tensors
    from probpose_training.detector.checkpoint import is_detector, load_detector
    from probpose_training.detector.export import export_detector
    from probpose_training.export import export_pose

    content = read_tensors(args.checkpoint)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(f"{args.out}: exporting, then running it beside torch (a large network takes a minute) ...", flush=True)
    if is_detector(content):
        detector, detector_info = load_detector(content, args.checkpoint)
        differences = export_detector(detector, detector_info, args.out, args.precision)
    else:
        model, info = load_checkpoint(args.checkpoint)
        differences = export_pose(model, codec_of(info), info, args.out, args.with_probmap, args.precision)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, verified; largest differences:")
    for name, value in differences.items():
        print(f"  {name}: {value:.2g}")


def _quantise(args: argparse.Namespace) -> None:
    from probpose_ros.backends import load
    from probpose_ros.model_info import METADATA_KEY, from_json
    from probpose_training.coco import read_coco
    from probpose_training.quantise import canvases, person_crops, quantise

    if args.checkpoint.suffix != ".onnx" or not args.out or not args.images:
        raise ValueError("int8 is made of an exported model.onnx, with --images DIR and --out FILE.onnx")
    text = load(args.checkpoint, "onnxruntime").metadata.get(METADATA_KEY)
    if '"kind": "detector"' in (text or ""):
        info = from_json(text, "detector", str(args.checkpoint))
        examples = canvases(sorted(path for path in args.images.iterdir() if path.is_file()), info)
    else:
        info = from_json(text, "pose", str(args.checkpoint))
        if not args.annotations:
            raise ValueError("a pose model sees persons, not images: add their --annotations")
        examples = person_crops(read_coco(args.annotations), args.images, info)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    quantise(args.checkpoint, info, examples, args.out)
    print(
        f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, fitted to {len(examples)} pictures; "
        "measure it with 'probpose evaluate' before you use it"
    )


def _check(path: Path) -> int:
    from probpose_training.tensorrt_check import VERSIONS, check_tensorrt

    print(f"{path}, by the operator tables of TensorRT (not by TensorRT itself):")
    reasons: dict[str, dict[str, list[str]]] = {version: defaultdict(list) for version in VERSIONS}
    for problem in check_tensorrt(path):
        reasons[problem.version][problem.reason].append(problem.node)
    for version, found in reasons.items():
        print(f"  {version:6} {'every node is supported' if not found else ''}")
        for reason, nodes in found.items():
            print(f"         {reason}: {nodes[0]}" + (f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""))
    return 1 if any(reasons.values()) else 0
