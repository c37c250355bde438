"""The reference folder beside the repository: golden vectors, and the recipe that makes their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "../shared/reference"
needs_reference = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference folder ../shared is not there")


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / "golden" / name) as data:
        return dict(data)


def layout(name: str) -> list[tuple[str, tuple[int, ...], str]]:
    """(key, shape, dtype) of every tensor of a state_dict list, in order."""
    rows = [line.split("\t") for line in (FOLDER / name).read_text().splitlines() if not line.startswith("#")]
    return [(key, tuple(int(n) for n in shape.strip("[]").split(",") if n), dtype) for key, shape, dtype in rows]


def recipe(rows: list[tuple[str, tuple[int, ...], str]], seed: int = 101, final_scale: float = 1.0):
    """The recipe's weights (GOLDEN.md): dict of arrays, float32, and 0 for the counters of batches."""
    weights = {}
    for i, (key, shape, dtype) in enumerate(rows):
        if dtype == "int64":
            weights[key] = np.zeros(shape, np.int64)
            continue
        g = np.random.default_rng([seed, i]).standard_normal(shape)
        if key.endswith("running_var"):
            value = np.exp(0.2 * g)
        elif key.endswith("running_mean"):
            value = 0.1 * g
        elif key.endswith("pos_embed"):
            value = 0.5 * g
        elif len(shape) == 1:
            value = 1 + 0.1 * g if key.endswith("weight") else 0.1 * g
        elif len(shape) == 2:
            value = g / np.sqrt(shape[1])
        elif "deconv" in key:
            value = g * np.sqrt(2 / (4 * shape[0]))
        else:
            value = g * np.sqrt(2 / np.prod(shape[1:]))
        weights[key] = (value * final_scale if key == "head.final_layer.weight" else value).astype(np.float32)
    return weights
