"""The examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("codec", "config", "detector", "geometry", "model_info", "oks", "pipeline", "skeleton", "types")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(f"probpose_ros.{name}")).failed == 0


def test_there_are_examples():
    modules = [importlib.import_module(f"probpose_ros.{name}") for name in MODULES]
    assert sum(doctest.testmod(module).attempted for module in modules) >= 5
