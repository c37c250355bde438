"""A pytest plugin that runs the GPU tests where there is no GPU, over the doubles: ``pytest -p over_doubles -m gpu``.

It shows that the tests themselves work, not that TensorRT does; the speeds it prints mean nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from tensorrt_double import Machine, install  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    machine = install(Machine(os.environ.get("TENSORRT_DOUBLE", "10.3.0")), pytest.MonkeyPatch())

    def mem_get_info() -> tuple[int, int]:
        machine.need_context()
        used = sum(array.nbytes for array in machine.allocations.values())
        return machine.memory - used, machine.memory

    machine.cuda.mem_get_info = mem_get_info


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if hasattr(item.module, "RUNS"):
            item.module.RUNS = 6
