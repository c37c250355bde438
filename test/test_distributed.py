"""Two processes under torchrun take the same step as one with the same batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_pose_training import paint_people

torch = pytest.importorskip("torch", reason="training tests need torch")
pytest.importorskip("lightning_fabric", reason="training tests need lightning-fabric")

SCRIPT = Path(__file__).with_name("distributed_step.py")


def test_two_processes_have_the_gradients_of_one(tmp_path):
    paint_people(tmp_path, 8)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for start, batch_size in (([sys.executable], 8), (torchrun, 4)):
        command = [*start, str(SCRIPT), str(tmp_path), str(batch_size), str(tmp_path / f"{batch_size}.pt")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{batch_size}.pt", weights_only=True) for batch_size in (8, 4))
    largest = max(float(gradient.abs().max()) for gradient in one)
    assert largest > 1e-3
    for a, b in zip(one, two, strict=True):
        assert float((a - b).abs().max()) < 1e-5 * max(1.0, largest)
