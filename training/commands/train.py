"""``probpose train``: a recipe (YAML) -> checkpoints, logs and the exported model.

A recipe names the network, the data and the schedule; --set changes single entries. Started again with the same --out,
training goes on from its last.pt. It also runs under torchrun. model.pt is the checkpoint for 'probpose export';
tensorboard shows the curves.

examples:
  probpose train --config training/configs/probpose_small.yaml --set data.root=data
  probpose train --config my.yaml --set train.epochs=3 --set train.learning_rate=5.0e-4 --out runs/try
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(subparsers) -> None:
    parser = subparsers.add_parser("train", help="train a network from a recipe")
    parser.add_argument(
        "--config", type=Path, required=True, help="the recipe, e.g. training/configs/probpose_small.yaml"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change an entry, e.g. train.epochs=3"
    )
    parser.add_argument("--out", type=Path, help="folder for checkpoints and logs (default: runs/<name of the recipe>)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from probpose_training.configuration import build, load
    from probpose_training.trainer import TrainConfig, fit

    config = load(args.config, args.set)
    train = build(TrainConfig, config.get("train"), "train")
    kind = config.get("task")
    if kind == "pose":
        from probpose_training.pose_task import PoseTask as Task
    elif kind == "detector":
        from probpose_training.detector.task import DetectorTask as Task
    else:
        raise ValueError(f"config {args.config}: task = {kind!r}: must be pose or detector")
    last = fit(Task(config, str(args.config)), train, args.out or Path("runs") / args.config.stem)
    print(last)
    return 0
