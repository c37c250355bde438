"""Every name of TensorRT's Python API that our code uses exists in the real bindings of each supported version.

The record was made by test/tensorrt_names.py from the real bindings. Where tensorrt is installed, it is asked itself.
"""

from __future__ import annotations

import json

import pytest
from tensorrt_names import RECORD, has, used_calls, used_names

RECORDED = json.loads(RECORD.read_text())
# Used only behind hasattr, or where the version is known to have them.
NOT_IN = {
    "8": {"IBuilderConfig.progress_monitor", "IProgressMonitor", "IProgressMonitor.__init__",
          "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "ExecutionContextAllocationStrategy",
          "ExecutionContextAllocationStrategy.USER_MANAGED", "ICudaEngine.device_memory_size_v2",
          "IExecutionContext.set_device_memory"},
    "10.0": {"ICudaEngine.device_memory_size_v2", "IExecutionContext.set_device_memory"},
    "11": {"BuilderFlag.FP16", "BuilderFlag.INT8", "BuilderFlag.OBEY_PRECISION_CONSTRAINTS", "ILayer.precision",
           "ILayer.set_output_type", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "ICudaEngine.device_memory_size",
           "ICudaEngine.create_execution_context_without_device_memory"},
}  # fmt: skip


def not_in(version: str) -> set[str]:
    return next((names for start, names in NOT_IN.items() if f"{version}.".startswith(f"{start}.")), set())


def test_the_record_is_of_this_code():
    """A new name in the code needs a new record."""
    assert set(RECORDED["names"]) == used_names()
    assert len(used_names()) > 50  # The reader of our code finds something.
    versions = {".".join(version.split(".")[:2]) for version in RECORDED["versions"]}
    assert versions >= {"8.6", "10.0", "10.3", "10.13", "10.16"} and any(name.startswith("11.") for name in versions)


@pytest.mark.parametrize("version", RECORDED["versions"])
def test_names_exist_in(version):
    assert used_names() - set(RECORDED["versions"][version]) == not_in(version)


@pytest.mark.parametrize("version", RECORDED["versions"])
def test_calls_have_as_many_arguments_as_the_methods_of(version):
    taken = RECORDED["signatures"][version]
    there = {(name, count) for name, count in used_calls() if name in RECORDED["versions"][version]}
    assert len(there) > 25 and {name for name, _ in there} == set(taken)
    if "ICudaEngine.device_memory_size_v2" in not_in(version):  # Then the call with a strategy is not reached.
        there -= {("ICudaEngine.create_execution_context", 1)}
    wrong = {(name, n) for name, n in there if not any(least <= n <= most for least, most in taken[name])}
    assert not wrong, f"TensorRT {version} takes {[(name, taken[name]) for name, _ in wrong]}"


def test_names_exist_in_the_installed_version():
    tensorrt = pytest.importorskip("tensorrt", reason="tensorrt is not installed here")
    missing = {name for name in used_names() if not has(tensorrt, name)}
    assert missing == not_in(tensorrt.__version__)
