"""What only an NVIDIA GPU can show: ``pytest -m gpu -s test/test_gpu.py``, on a machine with TensorRT and pycuda.

Engines of the bundled models are built into a folder of the test's own: minutes. The photographs are those that
scikit-image ships. A table of speeds is printed at the end; it is for docs/tensorrt.md, with the board's name.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from probpose_ros.backends import BackendError, load
from probpose_ros.backends import engine as engines
from probpose_ros.backends.numerics import LIMITS, beyond_limits, compare, inputs_of, model_info
from probpose_ros.cli import main
from probpose_ros.config import PipelineConfig
from probpose_ros.detector import Detector
from probpose_ros.geometry import CropTransform, cut_crops
from probpose_ros.models import find_model
from probpose_ros.pipeline import Pipeline

pytestmark = pytest.mark.gpu

PEOPLE, RUNS = 8, 300
MODEL, DETECTOR = PipelineConfig.model, PipelineConfig.detector


@pytest.fixture(scope="module")
def device():
    try:
        return engines.this_device()
    except engines.EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> tuple[Path, list[np.ndarray]]:
    """scikit-image's astronaut, whole and in parts that cut her off, in a folder and in memory."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    astronaut = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    images = [astronaut, astronaut[:, ::-1].copy(), astronaut[:300], astronaut[100:, 60:420], astronaut[:400, 150:]]
    images += [cv2.convertScaleAbs(image, alpha=gain) for image in images for gain in (0.5, 1.4)]
    folder = tmp_path_factory.mktemp("photographs")
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i:02}.png"), image)
    return folder, images


@pytest.fixture(scope="module", autouse=True)
def cache(device, photographs, tmp_path_factory):
    """Engines of both models in half precision, compared with onnxruntime by the command itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROBPOSE_ENGINES", str(tmp_path_factory.mktemp("engines")))
        for name in (DETECTOR, MODEL):
            assert main(["build-engine", name, "--images", str(photographs[0]), "--max-people", str(PEOPLE)]) == 0
        yield


@pytest.fixture(scope="module")
def reference():
    path = find_model(MODEL)
    session = load(path, "onnxruntime")
    return session, model_info(session, path)


def crops_of(info, images: list[np.ndarray]) -> np.ndarray:
    return inputs_of(info, images, Detector(DETECTOR, backend="onnxruntime"))


def free_memory() -> int:
    """Bytes of GPU memory that are free, asked in a context of this call's own."""
    cuda = importlib.import_module("pycuda.driver")
    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        return cuda.mem_get_info()[0]
    finally:
        context.pop()
        context.detach()


@pytest.mark.parametrize("name", [MODEL, DETECTOR])
@pytest.mark.parametrize("options", [["--precision", "fp32"], ["--strongly-typed", "--force"], ["--precision", "int8"]],
                         ids=" ".join)  # fmt: skip
def test_every_precision_is_within_its_limits(photographs, device, tmp_path, monkeypatch, name, options):
    """build-engine refuses what is beyond the limits; this also prints by how much each precision stays below them."""
    monkeypatch.setenv("PROBPOSE_ENGINES", str(tmp_path))
    folder = str(photographs[0])
    calibration = ["--calibration-images", folder] if "int8" in options else []
    if "--strongly-typed" in options and device.tensorrt.startswith("8"):
        pytest.skip("TensorRT 8 has no strongly typed networks")
    assert main(["build-engine", name, "--images", folder, *options, *calibration]) == 0
    (built,) = engines.all_engines()
    assert built.report["compared"] > 0
    print(f"\n{name} {' '.join(options)}: {built.report}")


def test_half_precision_promise(reference, photographs):
    """Keypoints within 0.25 crop px on 99 % of the confident ones, presence within 0.01, on crops of people."""
    session, info = reference
    with closing(load(find_model(MODEL), "tensorrt")) as engine:
        report = compare(session, engine, crops_of(info, photographs[1]), "pose")
    assert LIMITS["fp16"]["pose"]["keypoints_p99"] == 0.25 and LIMITS["fp16"]["pose"]["presence"] == 0.01
    assert report["compared"] >= 50 and not beyond_limits(report, "pose"), report


def test_graphs_change_nothing_and_every_batch_size_has_one(reference, photographs, monkeypatch):
    _, info = reference
    crops = np.resize(crops_of(info, photographs[1]), (PEOPLE + 3, info.input_size[1], info.input_size[0], 3))
    path = find_model(MODEL)
    with closing(load(path, "tensorrt")) as graphs:
        assert "CUDA graphs" in graphs.backend and "no CUDA graphs" not in graphs.backend, graphs.backend
        monkeypatch.setattr("probpose_ros.backends.tensorrt.GRAPH_SIZES", 0)
        with closing(load(path, "tensorrt")) as plain:
            for rows in (*range(1, PEOPLE + 4), 1, 5, 2):
                a, b = graphs.run(crops[:rows]), plain.run(crops[:rows])
                for name in a:
                    np.testing.assert_allclose(a[name], b[name], atol=1e-3, err_msg=f"{name}, {rows} rows")


def test_crops_of_the_gpu_are_opencvs(device):
    """The kernel itself, on the GPU: bytes equal to cv2.warpAffine's, for windows in, across and outside the image."""
    from probpose_ros.backends.gpu import Buffer, GpuWorker
    from probpose_ros.backends.gpu_crop import GpuCropper, compile_kernel

    random = np.random.default_rng(0)
    size, limit = (192, 256), 16
    images = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((720, 1280), (97, 61), (1080, 1920))]
    transforms = []
    for image in images:
        corners = random.uniform(-0.3, 1, (5, 2)) * image.shape[1::-1]
        boxes = np.concatenate([corners, corners + random.uniform(2, 600, (5, 2))], axis=1)
        transforms.append([CropTransform.from_bbox(box, size, rotation=a) for box, a in zip(boxes, (0, 0, 0, 0.4, -2))])
    worker, cubin = GpuWorker.acquire(), compile_kernel(device.sm).read_bytes()

    def cut() -> np.ndarray:
        crops = Buffer(worker, (limit, size[1], size[0], 3), np.uint8)
        cropper = GpuCropper(worker, cubin, crops.host.shape)
        cropper.upload(images)
        windows = [(i, transform) for i, its in enumerate(transforms) for transform in its]
        cropper.cut(windows, crops.device)
        crops.download(len(windows))
        worker.stream.synchronize()
        result = crops.host[: len(windows)].copy()
        cropper.free()
        crops.free()
        return result

    try:
        found = worker.do(cut)
    finally:
        worker.release()
    expected = cut_crops(images, transforms, size)
    if int(cv2.__version__.split(".")[0]) < 5:
        assert np.array_equal(found, expected)
    else:
        assert np.abs(found.astype(int) - expected).mean() < 1.5


def test_pipeline_and_fallback_give_the_same_people(photographs):
    """Both networks on the GPU, crops cut there, several cameras in one batch; beside onnxruntime."""
    images = photographs[1][:4]
    gpu, cpu = (Pipeline(PipelineConfig(backend=backend)) for backend in ("tensorrt", "onnxruntime"))
    assert gpu.pose.cuts_crops, gpu.backend
    for a, b in zip(gpu.process(images), cpu.process(images)):
        assert len(a.people) == len(b.people)
        for one, other in zip(a.people, b.people):
            sure = other.presence >= 0.5
            scale = (other.window[2] - other.window[0]) / gpu.pose.info.input_size[0]
            distance = np.linalg.norm(one.keypoints - other.keypoints, axis=1)[sure]
            assert np.quantile(distance, 0.9) <= max(1.0, 2 * scale)
    gpu.close()


def test_memory_comes_back_on_suspend_and_does_not_grow(photographs):
    image, config = photographs[1][0], PipelineConfig(backend="tensorrt")
    pipeline = Pipeline(config)
    pipeline(image)
    pipeline.suspend()
    empty = free_memory()
    held = []
    for _ in range(5):
        pipeline.resume()
        for _ in range(RUNS // 3):
            pipeline(image)
        held.append(free_memory())
        pipeline.suspend()
        assert free_memory() > empty - 32 * 2**20
    assert held[-1] > held[0] - 32 * 2**20 and held[0] < empty
    pipeline.close()


def test_calls_from_many_threads(reference, photographs):
    session, info = reference
    crops = crops_of(info, photographs[1][:1])
    results: list[np.ndarray] = []
    with closing(load(find_model(MODEL), "tensorrt")) as engine:
        calls = [threading.Thread(target=lambda: results.append(engine.run(crops)["keypoints"])) for _ in range(16)]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
    assert len(results) == 16 and all(np.array_equal(result, results[0]) for result in results)


def test_truncated_and_foreign_engines_are_refused(tmp_path, monkeypatch, device):
    path = find_model(MODEL)
    built = engines.find_engine(path, device)
    content = built.path.read_bytes()
    try:
        built.path.write_bytes(content[: len(content) // 2])
        with pytest.raises(BackendError, match="cut off or replaced; rebuild it: .*probpose build-engine"):
            load(path, "tensorrt")
    finally:
        built.path.write_bytes(content)
    # What TensorRT itself says of half a file, should a sidecar ever lie about it.
    with pytest.raises(BackendError, match="TensorRT cannot load it"):
        lying = engines.store(content[: len(content) // 2], path.name, built.fingerprint, built.metadata)
        from probpose_ros.backends.tensorrt import TensorRTSession

        TensorRTSession(path, lying)
    built.path.write_bytes(content)
    engines.admit(built, built.report)


def test_speed_table(reference, photographs, device, monkeypatch, capsys):
    """Printed, for docs/tensorrt.md: milliseconds, the median and the 99th percentile of 300 runs after 50 others."""
    session, info = reference
    image = cv2.resize(photographs[1][0], (1280, 720))
    path, rows = find_model(MODEL), []
    boxes = np.array([[40 * i, 20 * i, 40 * i + 200, 20 * i + 400] for i in range(PEOPLE)], float)
    transforms = [CropTransform.from_bbox(box, info.input_size, info.padding) for box in boxes]

    def measure(call: Callable[..., object], *args: object, runs: int = RUNS) -> tuple[float, float]:
        for _ in range(runs // 6):
            call(*args)
        times = []
        for _ in range(runs):
            started = time.perf_counter()
            call(*args)
            times.append(1e3 * (time.perf_counter() - started))
        return float(np.median(times)), float(np.quantile(times, 0.99))

    for people in (1, 2, 4, PEOPLE):
        its = [transforms[:people]]
        crops = cut_crops([image], its, info.input_size)
        with closing(load(path, "tensorrt")) as engine:
            rows.append((people, "crops cut on the GPU, graph", *measure(engine.run_crops, [image], its)))
            rows.append((people, "crops given, graph", *measure(engine.run, crops)))
        with monkeypatch.context() as patch:
            patch.setattr("probpose_ros.backends.tensorrt.GRAPH_SIZES", 0)
            with closing(load(path, "tensorrt")) as engine:
                rows.append((people, "crops given, no graph", *measure(engine.run, crops)))
        rows.append((people, "cutting on the CPU", *measure(cut_crops, [image], its, info.input_size)))
        rows.append((people, "onnxruntime on the CPU", *measure(session.run, crops, runs=12)))
    pipeline = Pipeline(PipelineConfig(backend="tensorrt"))
    rows.append(("-", "whole pipeline, 1280x720, astronaut", *measure(pipeline, image)))
    pipeline.close()
    with capsys.disabled():
        print(f"\n{device.name}, TensorRT {device.tensorrt}, CUDA {device.cuda}; {MODEL}, fp16")
        print("| people | what | median ms | p99 ms |\n|---|---|---|---|")
        for people, what, median, p99 in rows:
            print(f"| {people} | {what} | {median:.2f} | {p99:.2f} |")
    with_graph, without = rows[1][2], rows[2][2]
    assert RUNS < 100 or with_graph < 1.1 * without  # Over the doubles there are few runs, and times mean nothing.
    logging.getLogger(__name__).info("graph / no graph for one person: %.2f", with_graph / without)
