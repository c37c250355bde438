"""``probpose export``: a checkpoint -> one ONNX file, verified before it is written."""

from __future__ import annotations

import argparse
from pathlib import Path


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("export", help="write a checkpoint as an ONNX model, verified against torch")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="made by train or import-checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="model.onnx")
    parser.add_argument("--with-probmap", action="store_true", help="add the output probmap (needed for regions)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16"),
        default="fp32",
        help="of the stored weights; fp16 halves the file (default: fp32)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from probpose_training.checkpoint import codec_of, load_checkpoint, read_tensors
    from probpose_training.detector.checkpoint import is_detector, load_detector
    from probpose_training.detector.export import export_detector
    from probpose_training.export import export_pose

    content = read_tensors(args.checkpoint)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if is_detector(content):
        detector, detector_info = load_detector(content, args.checkpoint)
        differences = export_detector(detector, detector_info, args.out, args.precision)
    else:
        model, info = load_checkpoint(args.checkpoint)
        differences = export_pose(model, codec_of(info), info, args.out, args.with_probmap, args.precision)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, verified; largest differences:")
    for name, value in differences.items():
        print(f"  {name}: {value:.2g}")
    return 0
