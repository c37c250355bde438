"""CUDA graphs over a driver library in C that checks what ctypes hands it, and the signatures in cuda.h."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from probpose_ros.backends import cuda_graph
from probpose_ros.backends.cuda_graph import CudaGraph, GraphError

# 64-bit handles, whose upper half would be lost by a wrong type.
LIBRARY = r"""
#include <stdint.h>
typedef uint64_t handle;
static const handle STREAM = 0x7f0000001111, GRAPH = 0x7f0000002222, EXEC = 0x7f0000003333;
static int capturing, exists, launches, fail;
int state(int what) { return what == 0 ? capturing : what == 1 ? exists : launches; }
void fail_in(int step) { fail = step; }
int cuStreamBeginCapture_v2(handle s, int mode) {
    if (s != STREAM || mode != 1 || capturing) return 1;
    if (fail == 1) return 801;
    capturing = 1; return 0; }
int cuStreamEndCapture(handle s, handle* g) {
    if (s != STREAM || !capturing) return 1;
    capturing = 0;
    if (fail == 2) return 901;
    *g = GRAPH; exists = 1; return 0; }
int cuGraphInstantiateWithFlags(handle* e, handle g, unsigned long long flags) {
    if (g != GRAPH || flags) return 1;
    if (fail == 3) return 2;
    *e = EXEC; exists |= 2; return 0; }
int cuGraphLaunch(handle e, handle s) {
    if (e != EXEC || s != STREAM) return 1;
    if (fail == 4) return 719;
    ++launches; return 0; }
int cuGraphDestroy(handle g) { if (g != GRAPH) return 1; exists &= ~1; return 0; }
int cuGraphExecDestroy(handle e) { if (e != EXEC) return 1; exists &= ~2; return 0; }
"""
STREAM = 0x7F0000001111
HEADERS = [Path(p) for p in ("/usr/local/cuda/include/cuda.h", "/usr/include/cuda.h")]


@pytest.fixture
def library(tmp_path, monkeypatch):
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    (tmp_path / "driver.c").write_text(LIBRARY)
    command = ["gcc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so", tmp_path / "driver.c"]
    subprocess.run(command, check=True)
    library = cuda_graph.driver(str(tmp_path / "libcuda.so"))
    monkeypatch.setattr(cuda_graph, "driver", lambda: library)
    return library


def test_record_launch_free(library):
    recorded = []
    graph = CudaGraph(STREAM, lambda: recorded.append(library.state(0)))
    assert recorded == [1] and library.state(0) == 0  # While it was recorded the stream captured, and no longer.
    assert library.state(1) == 2  # The graph itself is gone, its executable is there.
    graph.launch()
    graph.launch()
    assert library.state(2) == 2
    graph.free()
    assert library.state(1) == 0


@pytest.mark.parametrize("step, message", [
    (1, "cuStreamBeginCapture_v2 failed with CUDA error 801"), (2, "cuStreamEndCapture failed with CUDA error 901"),
    (3, "cuGraphInstantiateWithFlags failed with CUDA error 2"),
])  # fmt: skip
def test_a_failure_leaves_nothing(library, step, message):
    library.fail_in(step)
    with pytest.raises(GraphError, match=message):
        CudaGraph(STREAM, lambda: None)
    assert library.state(0) == 0 and library.state(1) == 0


def test_work_that_fails_while_recorded_ends_the_recording(library):
    def work() -> None:
        raise RuntimeError("TensorRT refuses")

    with pytest.raises(GraphError, match="TensorRT refuses"):
        CudaGraph(STREAM, work)
    assert library.state(0) == 0


def test_a_launch_that_fails(library):
    graph = CudaGraph(STREAM, lambda: None)
    library.fail_in(4)
    with pytest.raises(GraphError, match="cuGraphLaunch failed with CUDA error 719"):
        graph.launch()


def test_no_driver():
    with pytest.raises(GraphError, match="the CUDA driver has no graphs"):
        cuda_graph.driver("libcuda-that-is-not-there.so")


@pytest.mark.skipif(not any(header.is_file() for header in HEADERS), reason="no cuda.h of a CUDA toolkit")
def test_signatures_are_those_of_the_header():
    header = next(header for header in HEADERS if header.is_file()).read_text(errors="replace")
    sizes = {"CUstream": 8, "CUgraph": 8, "CUgraphExec": 8, "unsigned long long": 8, "CUstreamCaptureMode": 4}
    for name, types in cuda_graph._SIGNATURES.items():
        public = name.replace("_v2", "").replace("cuGraphInstantiateWithFlags", "cuGraphInstantiate")
        arguments = re.search(rf"CUresult CUDAAPI {public}\(([^)]*)\);", header)
        assert arguments, name
        declared = [argument.strip() for argument in arguments[1].split(",")]
        assert len(declared) == len(types), name
        for text, given in zip(declared, types):
            size = 8 if "*" in text else sizes[text.rsplit(" ", 1)[0]]
            assert cuda_graph.ctypes.sizeof(given) == size, (name, text)
        if public != name:  # The header's macro says which symbol the public name stands for.
            assert re.search(rf"#define\s+{public}\s+\S*{name}\b", header), name
    assert re.search(r"CU_STREAM_CAPTURE_MODE_THREAD_LOCAL\s*=\s*1\b", header)
