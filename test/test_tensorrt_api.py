"""Every name of TensorRT's Python API that our code uses exists in the real bindings of each supported version.

The record was made by test/tensorrt_names.py from the real bindings. Where tensorrt is installed, it is asked itself.
"""

from __future__ import annotations

import json

import pytest
from tensorrt_names import RECORD, has, used_names

RECORDED = json.loads(RECORD.read_text())
# Used only behind hasattr, or where the version is known to have them.
NOT_IN = {
    "8": {"IBuilderConfig.progress_monitor", "IProgressMonitor", "IProgressMonitor.__init__",
          "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "ExecutionContextAllocationStrategy",
          "ExecutionContextAllocationStrategy.USER_MANAGED", "ICudaEngine.device_memory_size_v2",
          "IExecutionContext.set_device_memory"},
    "10": set(),
    "11": {"BuilderFlag.FP16", "BuilderFlag.INT8", "BuilderFlag.OBEY_PRECISION_CONSTRAINTS", "ILayer.precision",
           "ILayer.set_output_type", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "ICudaEngine.device_memory_size",
           "ICudaEngine.create_execution_context_without_device_memory"},
}  # fmt: skip


def test_the_record_is_of_this_code():
    """A new name in the code needs a new record."""
    assert set(RECORDED["names"]) == used_names()
    assert len(used_names()) > 50  # The reader of our code finds something.
    versions = {".".join(version.split(".")[:2]) for version in RECORDED["versions"]}
    assert versions >= {"8.6", "10.3", "10.13", "10.16"} and any(version.startswith("11.") for version in versions)


@pytest.mark.parametrize("version", RECORDED["versions"])
def test_names_exist_in(version):
    assert used_names() - set(RECORDED["versions"][version]) == NOT_IN[version.split(".")[0]]


def test_names_exist_in_the_installed_version():
    tensorrt = pytest.importorskip("tensorrt", reason="tensorrt is not installed here")
    missing = {name for name in used_names() if not has(tensorrt, name)}
    assert missing == NOT_IN[tensorrt.__version__.split(".")[0]]
