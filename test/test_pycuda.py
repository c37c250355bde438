"""Our calls of pycuda, made by the real pycuda over a CUDA driver in C++ whose GPU is this CPU.

The driver is a shared library named libcuda.so.1: memory is malloc, the stream runs at once or is recorded, the crop
kernel is the one that g++ compiled from its source. It refuses what CUDA refuses: calls without a context, copies out
of bounds, waiting while a graph is recorded, kernel arguments of the wrong size. Skipped where pycuda is not installed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorrt_double import CUDA_ON_CPU

from probpose_ros.backends.gpu_crop import SOURCE, kernel_path

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="pycuda is not installed"),
    pytest.mark.skipif(not (shutil.which("g++") and shutil.which("nm")), reason="needs g++ and nm, to make the driver"),
]

DRIVER = r"""
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <vector>
typedef uint64_t u64;
typedef std::vector<std::function<void()>> Graph;
static const u64 CONTEXT = 0x7f0000000042, STREAM = 0x7f0000001111;
static thread_local int depth = 0;  // of the thread's stack of contexts
static std::map<u64, size_t> memory;
static int primary = 0, pinned = 0;
static bool capturing = false;
static Graph recorded;
static int need() { return depth > 0 ? 0 : 201; }
static int put(std::function<void()> work) {
    if (need()) return 201;
    if (capturing) recorded.push_back(work); else work();
    return 0;
}
static bool inside(u64 p, size_t n) {
    for (auto& m : memory) if (m.first <= p && p + n <= m.first + m.second) return true;
    return false;
}
extern "C" {
void launch(const unsigned char*, const double*, unsigned char*, const int*);
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* v) { *v = 12060; return 0; }
int cuDeviceGetCount(int* n) { *n = 1; return 0; }
int cuDeviceGet(int* d, int) { *d = 0; return 0; }
int cuDeviceGetName(char* s, int n, int) { strncpy(s, "Pretended", n); return 0; }
int cuDeviceComputeCapability(int* a, int* b, int) { *a = 8; *b = 7; return 0; }
int cuDeviceGetAttribute(int* v, int what, int) { *v = what == 75 ? 8 : what == 76 ? 7 : 0; return 0; }
int cuDeviceTotalMem_v2(size_t* n, int) { *n = 8ull << 30; return 0; }
int cuDevicePrimaryCtxRetain(u64* c, int) { ++primary; *c = CONTEXT; return 0; }
int cuDevicePrimaryCtxRelease_v2(int) { --primary; return 0; }
int cuDevicePrimaryCtxRelease(int) { --primary; return 0; }
int cuCtxPushCurrent_v2(u64) { ++depth; return 0; }
int cuCtxPopCurrent_v2(u64* c) { if (!depth) return 201; --depth; *c = CONTEXT; return 0; }
int cuCtxGetDevice(int* d) { *d = 0; return need(); }
int cuStreamCreate(u64* s, unsigned) { *s = STREAM; return need(); }
int cuStreamDestroy_v2(u64) { return need(); }
int cuStreamSynchronize(u64) { return capturing ? 900 : need(); }
int cuMemAlloc_v2(u64* p, size_t n) {
    if (capturing || !n) return capturing ? 900 : 1;
    if (need()) return 201;
    void* q = aligned_alloc(512, (n + 511) / 512 * 512);
    memset(q, 0xAA, n);
    memory[*p = (u64)q] = n;
    return 0;
}
int cuMemFree_v2(u64 p) { if (need()) return 201; if (!memory.erase(p)) return 1; free((void*)p); return 0; }
int cuMemHostAlloc(void** p, size_t n, unsigned) { if (need()) return 201; *p = malloc(n); ++pinned; return 0; }
int cuMemFreeHost(void* p) { if (need()) return 201; free(p); --pinned; return 0; }
int cuMemcpyHtoDAsync_v2(u64 d, const void* h, size_t n, u64 s) {
    return s != STREAM || !inside(d, n) ? 1 : put([=] { memcpy((void*)d, h, n); });
}
int cuMemcpyDtoHAsync_v2(void* h, u64 d, size_t n, u64 s) {
    return s != STREAM || !inside(d, n) ? 1 : put([=] { memcpy(h, (void*)d, n); });
}
int cuModuleLoadDataEx(u64* m, const void* p, unsigned, void*, void**) {
    if (memcmp(p, "CUBIN", 5) && memcmp(p, "\x7f" "ELF", 4)) return 200;
    *m = 0x55;
    return need();
}
int cuModuleUnload(u64) { return need(); }
int cuModuleGetFunction(u64* f, u64, const char* name) { *f = 0x66; return strcmp(name, "cut_crops") ? 500 : 0; }
int cuFuncSetBlockShape(u64, int, int, int) { return 0; }
int cuLaunchKernel(u64 f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                   u64 s, void**, void** extra) {
    struct { u64 image; int h, w; u64 to_image, crops; int crop_h, crop_w; } a;
    if (f != 0x66 || s != STREAM || extra[0] != (void*)1 || *(size_t*)extra[3] != sizeof a) return 701;
    memcpy(&a, extra[1], sizeof a);
    if (!inside(a.image, 3l * a.h * a.w) || !inside(a.to_image, 48 * gz) ||
        !inside(a.crops, 3l * gz * a.crop_h * a.crop_w)) return 700;
    return put([=] {
        const int sizes[] = {a.h, a.w, a.crop_h, a.crop_w, (int)bx, (int)by, (int)bz, (int)gx, (int)gy, (int)gz};
        launch((unsigned char*)a.image, (double*)a.to_image, (unsigned char*)a.crops, sizes);
    });
}
int cuStreamBeginCapture_v2(u64 s, int mode) {
    if (s != STREAM || mode != 1 || capturing) return 1;
    capturing = true;
    recorded.clear();
    return need();
}
int cuStreamEndCapture(u64, u64* g) { capturing = false; *g = (u64) new Graph(recorded); return 0; }
int cuGraphInstantiateWithFlags(u64* e, u64 g, unsigned long long) { *e = (u64) new Graph(*(Graph*)g); return 0; }
int cuGraphDestroy(u64 g) { delete (Graph*)g; return 0; }
int cuGraphExecDestroy(u64 g) { delete (Graph*)g; return need(); }
int cuGraphLaunch(u64 e, u64) { if (need()) return 201; for (auto& work : *(Graph*)e) work(); return 0; }
int cuGetErrorString(int, const char** s) { *s = "an error of the pretended driver"; return 0; }
void pretended_state(long* out) { out[0] = memory.size(); out[1] = pinned; out[2] = primary; }
"""

PROGRAM = """
import ctypes, sys
sys.path[:0] = {paths!r}
import numpy as np
from probpose_ros.backends import BackendError
from probpose_ros.backends.cuda_graph import CudaGraph, GraphError
from probpose_ros.backends.gpu import Buffer, GpuWorker
from probpose_ros.backends.gpu_crop import GpuCropper
from probpose_ros.geometry import CropTransform, cut_crops

def state():
    out = (ctypes.c_long * 3)()
    ctypes.CDLL("libcuda.so.1").pretended_state(out)
    return list(out)  # allocations, pinned arrays, references of the primary context

random, size = np.random.default_rng(0), (96, 128)
images = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((200, 300), (31, 17))]
boxes = [(10, 20, 150, 180), (-40, -10, 60, 90), (0, 0, 16, 30)]
transforms = [[CropTransform.from_bbox(np.array(b), size) for b in its] for its in (boxes[:2], boxes[2:])]
windows = [(i, transform) for i, its in enumerate(transforms) for transform in its]
worker = GpuWorker.acquire()

def work():
    crops = Buffer(worker, (4, size[1], size[0], 3), np.uint8)
    cropper = GpuCropper(worker, b"CUBIN of the driver", crops.host.shape)
    cropper.upload(images)
    cropper.cut(windows, crops.device)
    crops.host[:] = 0
    graph = CudaGraph(worker.stream.handle, lambda: crops.download(len(windows)))
    assert not crops.host.any()  # recorded, not run
    graph.launch()
    worker.stream.synchronize()
    found = crops.host[: len(windows)].copy()
    for refused in (worker.stream.synchronize, lambda: worker.cuda.mem_alloc(8)):
        try:
            CudaGraph(worker.stream.handle, refused)
            raise AssertionError("recorded what waits")
        except GraphError as error:
            assert "pretended driver" in str(error)
    for wrong in (lambda: worker.cuda.module_from_buffer(b"no kernel"), lambda: worker.cuda.mem_alloc(0)):
        try:
            wrong()
            raise AssertionError("no error")
        except worker.cuda.Error:
            pass
    for thing in (graph, cropper, crops):
        thing.free()
    return found

found = worker.do(work)
assert np.array_equal(found, cut_crops(images, transforms, size)), "other crops than OpenCV's"
assert state() == [0, 0, 1], state()
worker.release()
worker._thread.join(10)
assert state() == [0, 0, 0], state()

class Session:
    pass

import weakref
session, worker = Session(), GpuWorker.acquire()
weakref.finalize(session, GpuWorker.release, worker)  # as a TensorRTSession that nobody closes
print("all is well")
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    """A folder with the driver: all that pycuda's bindings need of it."""
    folder = tmp_path_factory.mktemp("driver")
    (bindings,) = Path(importlib.util.find_spec("pycuda").submodule_search_locations[0]).glob("_driver*.so")
    symbols = subprocess.run(["nm", "-D", "--undefined-only", bindings], check=True, capture_output=True, text=True)
    needed = set(re.findall(r" U (cu[A-Z]\w+)", symbols.stdout)) - set(re.findall(r"int (cu[A-Z]\w+)\(", DRIVER))
    rest = "".join(f"int {name}() {{ return 801; }}\n" for name in sorted(needed))  # CUDA_ERROR_NOT_SUPPORTED
    (folder / "driver.cpp").write_text(CUDA_ON_CPU.replace("KERNEL", SOURCE) + DRIVER + rest + "}\n")
    command = ["g++", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, "-o", folder / "libcuda.so.1", folder / "driver.cpp"], check=True)
    return folder


def run(driver: Path, program: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), **environment}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)


def test_pycuda_does_what_we_mean(driver):
    answer = run(driver, PROGRAM.format(paths=[str(HERE.parent)]))
    # At the end of the process too: pycuda aborts it where a thread ends with a context.
    assert answer.returncode == 0 and "all is well" in answer.stdout and not answer.stderr, answer


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc of the CUDA toolkit")
def test_pycuda_compiles_the_kernel(driver, tmp_path):
    lines = [f"import sys; sys.path.insert(0, {str(HERE.parent)!r})", "from probpose_ros.backends import gpu_crop"]
    answer = run(driver, "\n".join([*lines, "gpu_crop.compile_kernel(87)"]), PROBPOSE_ENGINES=str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    assert kernel_path(87, tmp_path).read_bytes()[:4] == b"\x7fELF"
