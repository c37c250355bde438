"""Crops cut on the GPU: each frame is uploaded once, and one kernel cuts all persons out of it.

The kernel is compiled by ``probpose build-engine`` (nvcc of the CUDA toolkit) into the engine cache; without it the CPU
cuts. Both give the same bytes, so it makes no difference to the network which of them did.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probpose_ros.backends.engine import EngineError, cache_dir, import_pycuda, write
from probpose_ros.backends.gpu import Buffer, GpuWorker
from probpose_ros.geometry import CropTransform

# cv2.warpAffine's arithmetic with INTER_LINEAR on uint8, to the bit: places in the image in steps of 1/1024 px, of
# which a fraction in 32nds is kept; weights of the four neighbours in 1024ths; black outside. The products and sums of
# doubles are written as intrinsics, so that no compiler fuses them into one rounding.
SOURCE = r"""
extern "C" __global__ void cut_crops(
    const unsigned char* image, int height, int width,   // (height, width, 3)
    const double* to_image,                              // six numbers a crop: crop px -> image px
    unsigned char* crops, int crop_height, int crop_width)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int n = blockIdx.z;
    if (x >= crop_width || y >= crop_height) return;

    const double* m = to_image + 6 * n;
    const int image_x = __double2int_rn(__dmul_rn(__dmul_rn(m[0], (double)x), 1024.0))
        + __double2int_rn(__dmul_rn(__dadd_rn(__dmul_rn(m[1], (double)y), m[2]), 1024.0)) + 16;
    const int image_y = __double2int_rn(__dmul_rn(__dmul_rn(m[3], (double)x), 1024.0))
        + __double2int_rn(__dmul_rn(__dadd_rn(__dmul_rn(m[4], (double)y), m[5]), 1024.0)) + 16;
    const int left = image_x >> 10, top = image_y >> 10;
    const int right_weight = (image_x >> 5) & 31, bottom_weight = (image_y >> 5) & 31;

    int sum[3] = {512, 512, 512};
    for (int j = 0; j < 2; ++j) {
        for (int i = 0; i < 2; ++i) {
            const int column = left + i, row = top + j;
            if (column < 0 || column >= width || row < 0 || row >= height) continue;
            const int weight = (i ? right_weight : 32 - right_weight) * (j ? bottom_weight : 32 - bottom_weight);
            const unsigned char* pixel = image + 3 * ((long long)row * width + column);
            for (int c = 0; c < 3; ++c) sum[c] += weight * pixel[c];
        }
    }
    unsigned char* out = crops + 3 * (((long long)n * crop_height + y) * crop_width + x);
    for (int c = 0; c < 3; ++c) out[c] = (unsigned char)(sum[c] >> 10);
}
"""
_BLOCK = (32, 8, 1)


def kernel_path(sm: int, folder: Path | None = None) -> Path:
    """Where the compiled kernel of this source lies for a compute capability (87: Orin)."""
    return (folder or cache_dir()) / f"crop-sm{sm}-{hashlib.sha256(SOURCE.encode()).hexdigest()[:12]}.cubin"


def find_nvcc() -> Path | None:
    """CUDA's compiler: in the PATH, or where JetPack puts it."""
    candidates = (shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc")
    return next((Path(path) for path in candidates if path and Path(path).is_file()), None)


def compile_kernel(sm: int) -> Path:
    """Compiles the kernel into the engine cache; EngineError if that cannot be done here."""
    path = kernel_path(sm)
    if path.is_file():
        return path
    cuda = import_pycuda()
    nvcc = find_nvcc()
    if nvcc is None:
        raise EngineError("nvcc of the CUDA toolkit is not there (sudo apt install nvidia-jetpack)")
    from pycuda.compiler import compile as nvcc_compile

    try:
        cubin = nvcc_compile(SOURCE, nvcc=str(nvcc), no_extern_c=True, arch=f"sm_{sm}", cache_dir=False)
    except (cuda.Error, OSError) as error:
        told = (getattr(error, "stderr", "") or str(error)).strip().splitlines() or [type(error).__name__]
        reason = next((line for line in told if "error" in line or "fatal" in line), told[0])
        raise EngineError(f"nvcc does not compile the crop kernel: {reason}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, cubin)
    return path


def inverted(matrix: np.ndarray) -> np.ndarray:
    """(2, 3) image px -> crop px, as six numbers crop px -> image px, in the order of operations of cv2.warpAffine."""
    a, b, c, d, e, f = np.asarray(matrix, np.float64).ravel()
    scale = 1 / (a * e - b * d)
    a_, b_, d_, e_ = e * scale, -b * scale, -d * scale, a * scale
    return np.array([a_, b_, -a_ * c - b_ * f, d_, e_, -d_ * c - e_ * f])


class GpuCropper:
    """Frames on the GPU and the kernel that cuts. Made, used and freed in the worker's thread.

    Args:
        cubin: the compiled kernel. shape: (most crops of one call of :meth:`cut`, height, width, 3).
    """

    def __init__(self, worker: GpuWorker, cubin: bytes, shape: tuple[int, ...]) -> None:
        self._worker, (limit, self._height, self._width, _) = worker, shape
        self._module = worker.cuda.module_from_buffer(cubin)
        self._kernel = self._module.get_function("cut_crops")
        self._to_image = Buffer(worker, (limit, 6), np.float64)
        self._frames: dict[int, Buffer] = {}
        self._sizes: list[tuple[int, ...]] = []

    def upload(self, images: Sequence[np.ndarray]) -> None:
        """Images (H, W, 3) uint8 to the GPU; the next call of this waits for nothing, so synchronise before it."""
        self._sizes = [image.shape[:2] for image in images]
        for i, image in enumerate(images):
            if i in self._frames and self._frames[i].host.size < image.size:
                self._frames.pop(i).free()
            if i not in self._frames:
                self._frames[i] = Buffer(self._worker, (image.size,), np.uint8)
            frame = self._frames[i]
            np.copyto(frame.host[: image.size].reshape(image.shape), image)
            frame.upload(image.size)

    def cut(self, windows: Sequence[tuple[int, CropTransform]], crops: Any) -> None:
        """Cuts windows (number of the uploaded image, transform) into the GPU memory ``crops`` (N, H, W, 3) uint8."""
        for row, (_, transform) in enumerate(windows):
            self._to_image.host[row] = inverted(transform.matrix)
        self._to_image.upload(len(windows))
        height, width = self._height, self._width
        start = 0
        while start < len(windows):  # One launch for all crops of an image, which stand together.
            image = windows[start][0]
            count = sum(1 for number, _ in windows[start:] if number == image)
            image_height, image_width = self._sizes[image]
            self._kernel(
                self._frames[image].device, np.int32(image_height), np.int32(image_width),
                np.uintp(int(self._to_image.device) + start * 6 * 8),
                np.uintp(int(crops) + start * height * width * 3), np.int32(height), np.int32(width),
                block=_BLOCK, grid=(-(-width // _BLOCK[0]), -(-height // _BLOCK[1]), count), stream=self._worker.stream,
            )  # fmt: skip
            start += count

    def free(self) -> None:
        for buffer in (self._to_image, *self._frames.values()):
            buffer.free()
        self._frames.clear()
        del self._kernel, self._module


def read_kernel(sm: int) -> tuple[bytes, str]:
    """The compiled kernel, or nothing and the reason."""
    path = kernel_path(sm)
    if os.environ.get("PROBPOSE_CPU_CROPS"):
        return b"", "PROBPOSE_CPU_CROPS is set"
    try:
        return path.read_bytes(), ""
    except OSError:
        return b"", "no crop kernel in the engine cache; 'probpose build-engine' makes it"
