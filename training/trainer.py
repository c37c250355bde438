"""The training loop, for any task: Lightning Fabric, AdamW, warm-up, clipping, EMA, resume, logs, validation.

A task is an object with
- ``model``: the network, a torch module,
- ``train_dataset``: map-style, with an ``epoch`` attribute; an example depends on (seed, epoch, index) alone,
- ``loss(model, batch) -> dict`` of scalar tensors with the entry ``total``,
- ``validate(model) -> dict`` of floats; called with the averaged weights,
- ``save(model, path)``: writes the network for use (``probpose export`` reads it); called with the averaged weights.
"""

from __future__ import annotations

import copy
import csv
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from probpose_training.checkpoint import read_tensors

LOOK_EVERY = 20  # Steps from one line of the log to the next, and on a GPU from one look at the loss to the next.


@dataclass(frozen=True)
class TrainConfig:
    """Schedule and optimiser. ``batch_size`` is per process; lengths are in epochs unless their name says steps.

    schedule: ``cosine`` to zero, or ``step``: times 0.1 at each of ``milestones``.
    layer_decay: learning-rate factor per backbone layer, counted from the last; 1 = none.
    ema: decay of the averaged weights per step; 0 = none.
    threads: CPU threads of this process; 0 = torch's choice.
    """

    epochs: int = 210
    batch_size: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 0.1
    layer_decay: float = 1.0
    warmup_steps: int = 500
    clip_norm: float = 1.0
    schedule: str = "cosine"
    milestones: tuple[int, ...] = (170, 200)
    ema: float = 0.0
    precision: str = "32-true"
    accelerator: str = "auto"
    seed: int = 0
    workers: int = 2
    threads: int = 0
    validate_every: int = 10
    save_every: int = 1

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "step"):
            raise ValueError(f"schedule must be cosine or step, got {self.schedule!r}")
        for name in ("epochs", "batch_size", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class EpochSampler(Sampler[int]):
    """This process's share of a permutation drawn from (seed, epoch), from batch ``start`` on; no short last batch.

    Global batch b consists of ``world * batch_size`` neighbours in the permutation, whatever the number of processes.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.length, self.batch_size, self.seed, self.rank, self.world = length, batch_size, seed, rank, world
        self.epoch, self.start = 0, 0
        if self.batches == 0:
            raise ValueError(
                f"batch_size {batch_size} x {world} processes is more than the {length} examples there are"
            )

    @property
    def batches(self) -> int:
        return self.length // (self.batch_size * self.world)

    def __iter__(self):
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        order = order[: self.batches * self.batch_size * self.world].reshape(self.batches, self.world, self.batch_size)
        return iter(order[self.start :, self.rank].ravel().tolist())

    def __len__(self) -> int:
        return (self.batches - self.start) * self.batch_size


def learning_rate_factor(step: int, config: TrainConfig, steps_per_epoch: int) -> float:
    """Factor on the learning rate at an optimiser step: linear warm-up, then the schedule."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "step":
        return warmup * 0.1 ** sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
    return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, step / (config.epochs * steps_per_epoch))))


def parameter_groups(model: torch.nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Parameters by (weight decay or not, layer): 1-D tensors and position embeddings are not decayed."""
    depth_of = getattr(model, "layer_of", lambda name: (1, 1))  # (layer of this parameter, number of layers)
    groups: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layer, layers = depth_of(name)
            decayed = parameter.ndim > 1 and "pos_embed" not in name
            groups.setdefault((decayed, config.layer_decay ** (layers - layer)), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": config.weight_decay * decayed, "scale": scale}
        for (decayed, scale), parameters in groups.items()
    ]


def fit(task: Any, config: TrainConfig, out: Path, limit_steps: int | None = None) -> Path:
    """Train and return the path of the network, ``out/model.pt``. Goes on from ``out/last.pt`` if it is there.

    ``limit_steps``: stop after this many optimiser steps in all, as an interruption would.
    """
    cv2.setNumThreads(0)  # a forked worker hangs on a thread pool that its parent has used
    if config.threads:
        torch.set_num_threads(config.threads)
    # One process, unless torchrun started more and says so.
    local, world = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=local,
        num_nodes=world // local,
        precision=config.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    fabric.seed_everything(config.seed, verbose=False)
    out.mkdir(parents=True, exist_ok=True)

    if fabric.device.type == "cuda" and world > 1:  # torch has no synchronised batch norm for CPUs
        task.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(task.model)
    task.model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(parameter_groups(task.model, config), lr=config.learning_rate)
    model, optimizer = fabric.setup(task.model, optimizer)
    average = copy.deepcopy(task.model).eval() if config.ema else None
    sampler = EpochSampler(
        len(task.train_dataset), config.batch_size, config.seed, fabric.global_rank, fabric.world_size
    )

    step, last = 0, out / "last.pt"
    if last.is_file():
        step = _restore(last, task, optimizer, average)
        fabric.print(f"resumed {last} at step {step}")
    total = config.epochs * sampler.batches
    stop = min(total, limit_steps or total)
    log = _Log(out, step) if fabric.is_global_zero else None
    # To look at a number the CPU waits for the GPU: there it looks every so many steps, and before anything is saved.
    on_gpu, healthy = fabric.device.type == "cuda", torch.ones((), dtype=torch.bool, device=fabric.device)
    progress = tqdm(total=total, initial=step, unit="step", disable=not fabric.is_global_zero, mininterval=2)
    while step < stop:
        sampler.epoch, sampler.start = divmod(step, sampler.batches)
        task.train_dataset.epoch = sampler.epoch
        loader = DataLoader(
            task.train_dataset, batch_size=config.batch_size, sampler=sampler, num_workers=config.workers,
            pin_memory=on_gpu, generator=torch.Generator(),  # its own: dropout's numbers must not depend on resuming
        )  # fmt: skip
        model.train()
        for batch in loader:
            factor = learning_rate_factor(step, config, sampler.batches)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * group["scale"] * factor
            losses = task.loss(model, fabric.to_device(batch))
            healthy &= torch.isfinite(losses["total"].detach())
            looks = (
                not on_gpu or (step + 1) % LOOK_EVERY == 0 or step + 1 in (stop, (sampler.epoch + 1) * sampler.batches)
            )
            if looks and not healthy:
                values = {name: float(value.detach()) for name, value in losses.items()}
                raise RuntimeError(f"loss not finite at step {step}: {values}; lower learning_rate or check the data")
            fabric.backward(losses["total"])
            if config.clip_norm:
                fabric.clip_gradients(model, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if average is not None:
                _update_average(average, task.model, min(config.ema, (1 + step) / (10 + step)))
            if log and step % LOOK_EVERY == 0:
                values = {name: float(value.detach()) for name, value in losses.items()}
                log.write(step, {"lr": config.learning_rate * factor, **values})
                progress.set_postfix({name: f"{value:.4f}" for name, value in values.items()}, refresh=False)
            progress.update()
            if step >= stop:
                break
        epoch = step // sampler.batches
        whole = step % sampler.batches == 0
        if log and whole and (epoch % config.validate_every == 0 or step == total):
            log.write(
                step, {f"val/{name}": value for name, value in task.validate(average or task.model).items()}, echo=True
            )
        if fabric.is_global_zero and (not whole or epoch % config.save_every == 0 or step >= stop):
            _save(last, task, optimizer, average, step)
        fabric.barrier()
    progress.close()
    if fabric.is_global_zero:
        task.save(average or task.model, out / "model.pt")
    return out / "model.pt"


def _save(path: Path, task: Any, optimizer: Any, average: torch.nn.Module | None, step: int) -> None:
    """Written beside and renamed: an interruption leaves the old file whole."""
    state = {
        "step": step,
        "model": task.model.state_dict(),
        "average": average.state_dict() if average is not None else None,
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def _restore(path: Path, task: Any, optimizer: Any, average: torch.nn.Module | None) -> int:
    state = read_tensors(path)
    task.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if average is not None and state["average"] is not None:
        average.load_state_dict(state["average"])
    torch.set_rng_state(state["rng"])
    if state.get("cuda_rng") is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_rng"])
    return state["step"]


@torch.no_grad()
def _update_average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


class _Log:
    """metrics.csv (step, name, value) and TensorBoard, where installed. Rows after ``step`` are from a lost run."""

    def __init__(self, out: Path, step: int) -> None:
        self.path = out / "metrics.csv"
        rows = [row for row in csv.reader(self.path.open())][1:] if self.path.is_file() else []
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "name", "value"], *(row for row in rows if int(row[0]) <= step)])
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board: Any = SummaryWriter(str(out), purge_step=step + 1)
        except ImportError:
            self.board = None

    def write(self, step: int, values: dict[str, float], echo: bool = False) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([step, name, f"{value:.6g}"] for name, value in values.items())
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        if echo:
            tqdm.write(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
