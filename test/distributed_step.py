"""Started by test_distributed.py, alone or under torchrun: one training step; writes the gradients it would apply.

python distributed_step.py FOLDER BATCH_SIZE_PER_PROCESS OUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from probpose_training.configuration import build
from probpose_training.pose_task import PoseTask
from probpose_training.trainer import TrainConfig, fit

folder, batch_size, out = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
source = {"annotations": "people.json", "images": "."}
config = {
    "task": "pose",
    "network": {"input_size": [96, 128], "widths": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "head_width": 16},
    "data": {"root": str(folder), "train": [source], "val": source},
    "train": {
        "epochs": 1,
        "batch_size": batch_size,
        "clip_norm": 0.0,
        "workers": 0,
        "accelerator": "cpu",
        "threads": 1,
    },
}
torch.manual_seed(0)
task = PoseTask(config)
for module in task.model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):  # its batch statistics are each process's own on CPUs: left out
        module.eval()
        module.train = lambda mode=True: None


def save_gradients(optimizer, *args, **kwargs):
    if os.environ.get("RANK", "0") == "0":
        torch.save([p.grad for group in optimizer.param_groups for p in group["params"]], out)


torch.optim.AdamW.step = save_gradients
fit(task, build(TrainConfig, config["train"], "train"), folder / f"run{batch_size}", limit_steps=1)
