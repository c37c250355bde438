"""How much each loss moves the shared features: norms of its gradient, per part of the pose network.

``python bench/loss_gradients.py --recipe training/configs/probpose_small.yaml --model model.pt --set data.root=DIR``

Presence, visibility and quality share the backbone with the maps; a loss whose gradient is several times larger than
the others' is what the backbone learns. The weights of the recipe are not applied, so that they can be chosen from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from probpose_training.configuration import load
from probpose_training.pose_task import PoseTask

LOSSES = ("map", "presence", "visibility", "quality")


def parts(model: torch.nn.Module) -> dict[str, list[Tensor]]:
    """The trained parameters: each stage of the backbone, the decoder."""
    groups = {f"stage {i}": list(stage.parameters()) for i, stage in enumerate(model.backbone.stages)}
    groups["decoder"] = list(model.head.decoder.parameters())
    return {name: trained for name, group in groups.items() if (trained := [p for p in group if p.requires_grad])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path, help="model.pt of a training run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of probpose train")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    task = PoseTask(load(args.recipe, [*args.set, f"pretrained={args.model}"]))
    task.model.train()
    groups = parts(task.model)
    norms = {(loss, part): 0.0 for loss in LOSSES for part in groups}
    order = torch.randperm(len(task.train_dataset), generator=torch.Generator().manual_seed(0)).tolist()
    for start in range(0, args.batches * args.batch_size, args.batch_size):
        examples = [task.train_dataset[i] for i in order[start : start + args.batch_size]]
        batch = {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
        losses = task.loss(task.model, batch)
        for loss in LOSSES:
            for part, parameters in groups.items():
                gradients = torch.autograd.grad(losses[loss], parameters, retain_graph=True, allow_unused=True)
                square = sum(float(g.square().sum()) for g in gradients if g is not None)
                norms[loss, part] += square**0.5 / args.batches
    print(f"| mean norm of the gradient, {args.batches} batches of {args.batch_size} | " + " | ".join(LOSSES) + " |")
    print("|---|" + "---|" * len(LOSSES))
    for part in groups:
        print(f"| {part} | " + " | ".join(f"{norms[loss, part]:.3f}" for loss in LOSSES) + " |")


if __name__ == "__main__":
    main()
