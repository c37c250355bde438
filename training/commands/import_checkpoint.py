"""``probpose import-checkpoint``: an official-layout ProbPose checkpoint -> ours.

Reads tensors only: a file that would unpickle objects is refused, or on request read past them. All sizes are read from
the tensors; only the number of attention heads is not in them (12 in the official files).

examples:
  probpose import-checkpoint ProbPose-s.pth --out checkpoints
  probpose export checkpoints/ProbPose-s.pt --out probpose_s.onnx --with-probmap
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("import-checkpoint", help="convert an official-layout ProbPose checkpoint")
    parser.add_argument("checkpoint", type=Path, metavar="F.pth", help="file of tensors; pickled objects are refused")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that gets <name of F>.pt")
    parser.add_argument("--heads", type=int, default=12, help="attention heads; tensors do not tell (default: 12)")
    objects = "read past pickled objects, such as training logs, instead of refusing the file; none is ever made"
    parser.add_argument("--leave-out-objects", action="store_true", help=objects)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from probpose_training.checkpoint import import_checkpoint, save_checkpoint

    model, info = import_checkpoint(args.checkpoint, args.heads, args.leave_out_objects)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{info.name}.pt"
    save_checkpoint(path, model, info)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    width, height = info.input_size
    print(f"{path}: {parameters:,} parameters, input {width} x {height} px, {args.heads} heads")
    return 0
