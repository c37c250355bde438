"""``probpose compare``: two files of one model on real images, such as fp32 and fp16-typed.

Prints the largest differences of every output, and what lies beyond the limits that a half-precision file is held to.
The exit status is 1 if something does.

examples:
  probpose compare pose.onnx pose_half.onnx --images photos
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("compare", help="two files of one model (fp32 and half, say) on real images")
    parser.add_argument("reference", type=Path, metavar="REFERENCE.onnx", help="what the other is held to")
    parser.add_argument("other", type=Path, metavar="OTHER.onnx", help="another file of the same model")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of .jpg or .png photographs")
    parser.add_argument("--backend", default="onnxruntime", help="what runs OTHER (default: onnxruntime)")
    parser.add_argument(
        "--detector", metavar="D", help="crop the people that it finds (default: whole photographs and their quarters)"
    )
    limits = "of which precision the limits hold (default: fp16)"
    parser.add_argument("--limits", choices=("fp16", "int8"), default="fp16", help=limits)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from probpose_ros.backends import load
    from probpose_ros.backends.numerics import beyond_limits, compare, inputs_of, model_info, read_images
    from probpose_ros.detector import Detector

    reference, other = load(args.reference, "onnxruntime"), load(args.other, args.backend)
    info = model_info(reference, args.reference)
    detector = Detector(args.detector, backend="onnxruntime") if args.detector else None
    inputs = inputs_of(info, read_images(args.images), detector)
    report = compare(reference, other, inputs, info.kind)
    print(f"{len(inputs)} inputs; {other.backend} beside onnxruntime:")
    for name, value in report.items():
        print(f"  {name}: {value:.3g}")
    problems = beyond_limits(report, info.kind, args.limits)
    print("\n".join(problems) or "within the limits")
    return 1 if problems else 0
