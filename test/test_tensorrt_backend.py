"""Building, caching and running engines, over doubles of TensorRT and pycuda (test/tensorrt_double.py)."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from tensorrt_double import OUT_OF_MEMORY, UNSUPPORTED_SM, Machine, install
from test_export import random_model
from test_network import SMALL
from tiny_models import POSE_INFO, person_image, with_changes, write_tiny_pose

from probpose_ros.backends import BackendError, cuda_graph, engine, engine_network, load, tensorrt
from probpose_ros.backends.cuda_graph import GraphError
from probpose_ros.cli import main
from probpose_ros.commands import doctor
from probpose_ros.config import PipelineConfig
from probpose_ros.geometry import CropTransform
from probpose_ros.pipeline import Pipeline
from probpose_training.checkpoint import codec_of, pose_info
from probpose_training.export import example_crops, export_pose, run
from probpose_training.network import NetworkConfig

VERSIONS = ("8.6.1", "10.0.1", "10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
CROPS = np.random.default_rng(0).integers(0, 256, (5, 64, 48, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBPOSE_ENGINES", str(tmp_path / "engines"))
    return tmp_path / "engines"


@pytest.fixture
def machine(folder, monkeypatch, nvcc):
    return install(Machine(), monkeypatch)


@pytest.fixture
def nvcc(tmp_path, monkeypatch):
    """A compiler in the PATH; the double of pycuda never calls it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return tmp_path / "bin/nvcc"


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), person_image((40, 20, 120, 220), (180, 30, 260, 200)))
    return tmp_path / "images"


@pytest.fixture
def model(tmp_path):
    return write_tiny_pose(tmp_path / "pose.onnx")


def build(model, *options):
    return main(["build-engine", str(model), *(options or ("--no-compare", "--max-people", "2"))])


def assert_nothing_left(machine):
    assert not machine.allocations and machine.pinned == 0 and machine.contexts == 0 and machine.wrong_thread == 0
    assert not machine.graphs and machine.recording is None and machine.retained == 0


# --- building


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("typed", [False, True])
def test_build_for_every_version(folder, tmp_path, monkeypatch, images, capsys, version, typed):
    machine = install(Machine(version), monkeypatch)
    info = with_changes(POSE_INFO, precision="fp16-typed" if typed else "fp32")
    path = write_tiny_pose(tmp_path / "pose.onnx", info)
    status = build(path, "--images", str(images), "--max-people", "3", "--workspace", "100")
    assert status == 0
    assert "beside onnxruntime" in capsys.readouterr().out
    (done,) = machine.builds
    assert done["pools"] == {"WORKSPACE": 100 * 2**20}
    assert done["profiles"][0].shapes == {"image": ((1, 64, 48, 3), (2, 64, 48, 3), (3, 64, 48, 3))}
    strong = (typed and not version.startswith("8")) or version.startswith("11")
    assert ("FP16" in done["set_flags"]) == (not strong) and "TF32" not in done["set_flags"]
    assert done["flags"] == (1 << 1 if strong else 1 << 0)
    (sidecar,) = folder.glob("*.json")
    content = json.loads(sidecar.read_text())
    assert content["fingerprint"]["sm"] == 87 and content["fingerprint"]["cuda"] == "12.6"
    assert content["report"]["compared"] > 0
    # The types that TensorRT 11 needs are written into the file that had none: that rounds, and nothing else does.
    assert (content["report"]["keypoints_p99"] > 0) == (version.startswith("11") and not typed)
    assert_nothing_left(machine)


def test_weakly_typed_networks_keep_fp32_after_the_network(machine, model):
    """The tiny model has no layer of a network proper, so all its arithmetic must be held in fp32."""
    assert build(model) == 0
    (done,) = machine.builds
    assert "OBEY_PRECISION_CONSTRAINTS" in done["set_flags"]
    held = [layer for layer in done["layers"] if layer.type.name not in ("CONSTANT", "CAST")]
    assert held and all(layer.precision.name == "FLOAT" and layer.output_types for layer in held)


def test_islands_of_a_real_graph(machine, tmp_path):
    layers = [("/model/backbone/Conv", "CONVOLUTION"), ("/model/ln/Norm", "NORMALIZATION"), ("/maps/Sub", "UNARY")]
    trt, held = machine.modules["tensorrt"], []

    class Layer:
        num_outputs = 1

        def __init__(self, name, kind):
            self.name, self.type = name, type("Type", (), {"name": kind})

        def get_output(self, i):
            return type("Tensor", (), {"dtype": trt.DataType.FLOAT})

        def set_output_type(self, i, dtype):
            held.append(self.name)

    network = type("Network", (), {"num_layers": 3, "get_layer": staticmethod(lambda i: Layer(*layers[i]))})
    config = type("Config", (), {"set_flag": staticmethod(lambda flag: None)})
    engine._keep_islands(trt, network, config)
    assert held == ["/model/ln/Norm", "/maps/Sub"]


def test_weights_stored_in_half_are_unpacked(machine, tmp_path):
    """TensorRT gets the same network with constants for weights, and no Cast of one."""
    config = NetworkConfig(**SMALL)
    info = pose_info(config, "test")
    export_pose(random_model(config), codec_of(info), info, tmp_path / "m.onnx", True, precision="fp16")
    packed = onnx.load(tmp_path / "m.onnx")
    plain = onnx.load_from_string(engine_network.network_file(tmp_path / "m.onnx", "fp16", "fp16", strong=False))
    onnx.checker.check_model(plain, full_check=True)
    constants = {tensor.name for tensor in plain.graph.initializer}
    convolutions = [node for node in plain.graph.node if node.op_type == "Conv"]
    assert convolutions and all(node.input[1] in constants for node in convolutions)
    assert not all(node.input[1] in {t.name for t in packed.graph.initializer} for node in convolutions)
    crops = example_crops(config.input_size, 2)
    for a, b in zip(run(packed, crops), run(plain, crops)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert build(tmp_path / "m.onnx") == 0


def test_second_build_uses_the_cache_and_the_timings(machine, model, folder, capsys):
    assert build(model) == build(model) == 0
    assert len(machine.builds) == 1 and "it is there already" in capsys.readouterr().out
    (timing,) = folder.glob("timing-10.3.0-sm87.cache")
    assert timing.read_bytes() == b"measured "
    again = ("--no-compare", "--max-people", "2", "--force")
    assert build(model, *again) == 0
    assert timing.read_bytes() == b"measured measured "
    timing.write_bytes(b"cut off")  # What TensorRT cannot read is measured anew.
    assert build(model, *again) == 0
    assert timing.read_bytes() == b"measured "


@pytest.mark.parametrize("changes, message", [
    ({"sm_supported": False}, rf"builds nothing for this GPU: .*{UNSUPPORTED_SM}.*belongs to this JetPack"),
    ({"parse_error": "In node 3 with name: and operator: Foo (importFallback): UNSUPPORTED_NODE"}, "UNSUPPORTED_NODE"),
    ({"build_error": OUT_OF_MEMORY}, "could not be allocated.*less --workspace"),
    ({"noise": 0.3}, r"the engine is refused, .*keypoints_p99 differ by .* \(at most 0.25\).*with --strongly-typed"),
    ({"memory": 5000}, "no GPU memory for its buffers"),
    ({"context_error": OUT_OF_MEMORY}, "could not be allocated"),
])  # fmt: skip
def test_a_failed_build_leaves_no_engine(machine, model, images, folder, capsys, changes, message):
    vars(machine).update(changes)
    assert build(model, "--images", str(images)) == 2
    error = capsys.readouterr().err.splitlines()[-1]  # Progress bars come first.
    assert error.startswith("probpose: error: ") and re.search(message, error), error
    assert not list(folder.glob("*.json"))
    assert_nothing_left(machine)


@pytest.mark.parametrize("error, status", [(KeyboardInterrupt, 130), (OSError("the terminal has gone"), 0)])
def test_what_goes_wrong_while_progress_is_drawn(machine, model, folder, monkeypatch, error, status):
    """It happens in a call from C++, which no exception may cross: Ctrl-C ends the build in good order."""
    monkeypatch.setattr("tqdm.tqdm.update", lambda *args: (_ for _ in ()).throw(error))
    assert build(model) == status
    assert len(list(folder.glob("*.json"))) == (status == 0)
    assert_nothing_left(machine)


def test_one_logger_serves_the_process(machine, model):
    """TensorRT keeps the first that it is given, so that one must outlive all; old errors are not told again."""
    trt = machine.modules["tensorrt"]
    logger = engine.get_logger(trt)
    logger.fail("an error of an earlier call")
    assert engine.get_logger(trt) is logger and not logger.errors


def test_commands_that_are_told_can_be_typed(machine, tmp_path, monkeypatch, capsys):
    """They name the model by its path, whatever it is, and the program as it can be found."""
    (tmp_path / "my models").mkdir()
    path = write_tiny_pose(tmp_path / "my models/pose.onnx")
    assert build(path) == 0
    next(engine.cache_dir().glob("*.engine")).write_bytes(b"")
    for found, program in (("/usr/bin/probpose", "probpose"), (None, "ros2 run probpose_ros probpose")):
        monkeypatch.setattr(engine.shutil, "which", lambda name, found=found: found)
        command = refused(path).partition("; rebuild it: ")[2]
        assert command.startswith(f"{program} build-engine ")
        arguments = shlex.split(command)[len(program.split()) :]
        assert main([*arguments[: arguments.index("--images")], "--no-compare", "--dry-run"]) == 0
        assert "batch 1 to 2" in capsys.readouterr().out


def test_dry_run_does_nothing(machine, model, folder, capsys):
    assert build(model, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "TensorRT 10.3.0, CUDA 12.6, sm_87" in out and "1024 MB of workspace" in out
    assert not machine.builds and not folder.exists()


@pytest.mark.skipif("tensorrt" in sys.modules, reason="tensorrt is installed")
def test_without_tensorrt(folder, model, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert build(model) == 2
    error = capsys.readouterr().err
    assert "tensorrt cannot be imported" in error and "apt install python3-libnvinfer" in error
    assert build(model, "--dry-run") == 0
    assert "this would fail here: tensorrt cannot be imported" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert build(model, "--max-people", "2") == 2
    assert "name a folder of photographs with --images" in capsys.readouterr().err


def test_without_photographs_of_the_user_scikit_images_serve(machine, model, capsys):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    assert build(model, "--max-people", "2") == 0
    assert '"compared": ' in capsys.readouterr().out
    (engine_of_model,) = engine.all_engines()
    assert engine_of_model.report["compared"] > 0


# --- running


@pytest.mark.parametrize("version", VERSIONS)
def test_session_equals_onnxruntime(folder, tmp_path, monkeypatch, version):
    machine = install(Machine(version), monkeypatch)
    path = write_tiny_pose(tmp_path / "pose.onnx", with_changes(POSE_INFO, precision="fp16-typed"))
    assert build(path) == 0
    session, reference = load(path, "tensorrt"), load(path, "onnxruntime")
    assert session.backend.startswith(f"tensorrt {version} fp16 (engine ") and session.metadata == reference.metadata
    # Twice the engine's largest batch and one more; then fewer, so that old rows would show.
    for crops in (CROPS, CROPS[3:4], CROPS[:2]):
        found, expected = session.run(crops), reference.run({"image": crops})
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
    session.close()
    session.close()
    assert_nothing_left(machine)
    with pytest.raises(BackendError, match="the session is closed or suspended"):
        session.run(CROPS)


def test_two_networks_share_one_thread_and_callers_come_from_any(machine, model, tiny_detector_model):
    assert build(model) == build(tiny_detector_model) == 0
    pose, detector = load(model, "tensorrt"), load(tiny_detector_model, "tensorrt")
    assert machine.contexts == 1
    results = []
    threads = [threading.Thread(target=lambda: results.append(pose.run(CROPS[:2])["keypoints"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    canvas = person_image((40, 40, 100, 120), size=(160, 160))
    assert detector.run(canvas[None])["scores"].max() == np.float32(0.9)
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(np.array_equal(result, results[0]) for result in results)
    pose.close()
    assert detector.run(canvas[None])["scores"].max() == np.float32(0.9)
    detector.close()
    assert_nothing_left(machine)


def test_a_dropped_session_frees_itself(machine, model):
    assert build(model) == 0
    session = load(model, "tensorrt")
    assert machine.allocations and machine.pinned
    del session
    gc.collect()
    assert_nothing_left(machine)


AT_EXIT = """
import atexit, sys
sys.path[:0] = {paths!r}
import pytest
from tensorrt_double import Machine, install
machine = Machine()
# The first to be registered is the last to run.
atexit.register(lambda: print("left:", machine.allocations, machine.pinned, machine.contexts, machine.wrong_thread))
install(machine, pytest.MonkeyPatch())
from probpose_ros.backends import load
session = load({model!r}, "tensorrt")
assert machine.allocations and machine.contexts == 1
"""


def test_sessions_still_open_when_the_process_ends_are_freed(machine, model, folder):
    """Else pycuda aborts: "The context stack was not empty upon module cleanup"."""
    assert build(model) == 0
    here = Path(__file__).parent
    program = AT_EXIT.format(paths=[str(here), str(here.parent)], model=str(model))
    environment = {**os.environ, "PROBPOSE_ENGINES": str(folder)}
    answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert answer.returncode == 0 and "left: {} 0 0 0" in answer.stdout, answer


def test_wrong_input_is_refused(machine, model):
    assert build(model) == 0
    session = load(model, "tensorrt")
    for wrong in (CROPS.astype(np.float32), CROPS[:, :32], CROPS[0]):
        with pytest.raises(BackendError, match="input 'image' is uint8"):
            session.run(wrong)
    session.close()


# --- CUDA graphs, crops on the GPU, memory


def test_a_graph_for_every_batch_size(machine, model):
    """All of it happens at load; afterwards a frame is one launch, and the engine is never enqueued again."""
    assert build(model) == 0
    session = load(model, "tensorrt")
    assert len(machine.graphs) == 2 and machine.launches == 0 and machine.engine_runs == 2
    reference = load(model, "onnxruntime")
    for rows in (1, 2, 1, 5):  # five: 2 + 2 + 1
        np.testing.assert_allclose(
            session.run(CROPS[:rows])["keypoints"], reference.run(CROPS[:rows])["keypoints"], atol=1e-6
        )
    assert machine.launches == 6 and machine.engine_runs == 8
    session.close()
    assert_nothing_left(machine)


@pytest.mark.parametrize("changes", [{"graph_error": 901}, {"driver_missing": True}])
def test_without_graphs_it_runs_and_says_so(machine, model, monkeypatch, caplog, changes):
    """901: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, of a network that needs the CPU midway."""
    assert build(model) == 0
    machine.graph_error = changes.get("graph_error", 0)
    if changes.get("driver_missing"):
        monkeypatch.setattr(cuda_graph, "driver", lambda: (_ for _ in ()).throw(GraphError("no graphs before 11.4")))
    session = load(model, "tensorrt")
    reason = "no graphs before 11.4" if changes.get("driver_missing") else "CUDA error 901"
    assert "no CUDA graphs" in session.backend and reason in session.backend and reason in caplog.text
    expected = load(model, "onnxruntime").run(CROPS)["keypoints"]
    np.testing.assert_allclose(session.run(CROPS)["keypoints"], expected, atol=1e-6)
    assert machine.launches == 0
    session.close()
    assert_nothing_left(machine)


def test_batches_beyond_the_graphs_share_one_context(machine, model, monkeypatch):
    monkeypatch.setattr(tensorrt, "GRAPH_SIZES", 1)
    assert build(model, "--no-compare", "--max-people", "4") == 0
    session, reference = load(model, "tensorrt"), load(model, "onnxruntime")
    for rows in (4, 1, 3, 4):
        np.testing.assert_allclose(
            session.run(CROPS[:rows])["keypoints"], reference.run(CROPS[:rows])["keypoints"], atol=1e-6
        )
    assert machine.launches == 1
    session.close()
    assert_nothing_left(machine)


def cases_of_crops():
    """Images of different size, of which one has nobody, one is not contiguous, and windows leave them."""
    random = np.random.default_rng(3)
    images = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((120, 160), (50, 40), (90, 200))]
    images.append(np.asfortranarray(images[0][:, ::-1]))
    boxes = [[(10, 20, 60, 110), (-30, -20, 40, 60), (100, 50, 220, 190)], [], [(150, 10, 190, 80)], [(0, 0, 159, 119)]]
    transforms = [[CropTransform.from_bbox(np.array(box), (48, 64)) for box in its] for its in boxes]
    return images, transforms


def test_crops_on_the_gpu_are_those_of_the_cpu(machine, model):
    """Five crops through an engine for two at a time; each image is uploaded once, that without people not at all."""
    assert build(model) == 0
    session, reference = load(model, "tensorrt"), load(model, "onnxruntime")
    images, transforms = cases_of_crops()
    machine.uploads.clear()
    found, expected = session.run_crops(images, transforms), reference.run_crops(images, transforms)
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name
    assert sorted(machine.uploads)[-3:] == sorted(images[i].size for i in (0, 2, 3))
    assert sum(machine.uploads) == images[0].size + images[2].size + images[3].size + 5 * 48
    # Larger frames, then smaller ones: memory is taken anew, and then kept.
    larger = [np.repeat(image, 2, axis=0) for image in images]
    for frames in (larger, images):
        found, expected = session.run_crops(frames, transforms), reference.run_crops(frames, transforms)
        assert np.array_equal(found["keypoints"], expected["keypoints"])
    session.close()
    assert_nothing_left(machine)


def test_without_the_kernel_the_cpu_cuts_and_it_says_so(machine, model, folder):
    assert build(model) == 0
    (kernel,) = folder.glob("crop-sm87-*.cubin")
    machine.kernel_error = "cuModuleLoadDataEx failed: device kernel image is invalid"
    session = load(model, "tensorrt")
    assert not session.crops_on_gpu and "crops on the CPU: the kernel cannot be loaded" in session.backend
    session.close()
    machine.kernel_error = ""
    kernel.unlink()
    session = load(model, "tensorrt")
    assert not session.crops_on_gpu and "crops on the CPU: no crop kernel in the engine cache" in session.backend
    session.close()
    assert_nothing_left(machine)


def test_a_kernel_that_does_not_compile_costs_no_engine(machine, model, folder, capsys):
    machine.kernel_error = "nvcc fatal   : Failed to preprocess host compiler properties."
    assert build(model) == 0
    assert f"nvcc does not compile the crop kernel: {machine.kernel_error}" in capsys.readouterr().out
    assert not list(folder.glob("*.cubin")) and list(folder.glob("*.engine"))


def test_suspend_frees_everything_and_resume_takes_it_again(machine, model, tiny_detector_model):
    assert build(model) == build(tiny_detector_model) == 0
    config = PipelineConfig(model=str(model), detector=str(tiny_detector_model), backend="tensorrt")
    pipeline, image = Pipeline(config), person_image((40, 20, 120, 220))
    (expected,) = pipeline(image).people
    for _ in range(3):
        pipeline.suspend()
        pipeline.suspend()
        assert_nothing_left(machine)
        with pytest.raises(BackendError, match="closed or suspended"):
            pipeline(image)
        pipeline.resume()
        pipeline.resume()
        assert machine.contexts == 1 and machine.allocations
        assert np.array_equal(pipeline(image).people[0].keypoints, expected.keypoints)
    pipeline.close()
    assert_nothing_left(machine)


def test_resume_of_an_engine_that_has_gone(machine, model, folder, caplog):
    assert build(model) == 0
    strict, lenient = load(model, "tensorrt"), load(model, "tensorrt", allow_fallback=True)
    strict.suspend()
    lenient.suspend()
    assert_nothing_left(machine)
    next(folder.glob("*.engine")).unlink()
    with pytest.raises(BackendError, match="cannot be read.*rebuild it: .*probpose build-engine"):
        strict.resume()
    lenient.resume()
    assert "cannot be read" in lenient.problem and "cannot be read" in caplog.text
    assert lenient.run(CROPS)["keypoints"].shape == (5, 17, 2)
    assert_nothing_left(machine)


def test_memory_that_runs_out_on_resume_is_freed(machine, model):
    assert build(model) == 0
    session = load(model, "tensorrt")
    session.suspend()
    machine.memory = 20_000
    with pytest.raises(BackendError, match="no GPU memory for its buffers"):
        session.resume()
    assert_nothing_left(machine)
    machine.memory = 10**9
    session.resume()
    assert session.run(CROPS)["keypoints"].shape == (5, 17, 2)
    session.close()
    assert_nothing_left(machine)


def test_doctor_says_what_the_gpu_lacks(machine, monkeypatch):
    """Without engines, with them, and with a TensorRT that does not know the GPU (10.13.3 on an Orin)."""
    config = PipelineConfig()

    def findings():
        return {finding.name: finding for finding in doctor._gpu()}

    found = findings()
    assert found["GPU"].ok and "Orin (sm_87, CUDA 12.6, TensorRT 10.3.0, 8192 MB)" in found["GPU"].found
    assert found["nvcc"].ok and found["TensorRT's kernels"].ok
    assert not found["pose engine"].ok and "probpose build-engine" in found["pose engine"].fix
    assert not found["crop kernel"].ok and "probpose build-engine" in found["crop kernel"].fix
    assert build(config.model) == 0
    found = findings()
    assert found["pose engine"].ok and "fp16, batch 1 to 2" in found["pose engine"].found
    assert found["crop kernel"].ok and not found["detector engine"].ok
    machine.sm_supported = False
    found = findings()
    assert UNSUPPORTED_SM in found["TensorRT's kernels"].found and "JetPack" in found["TensorRT's kernels"].fix


# --- what is refused, and what happens then


def refused(model, **options) -> str:
    with pytest.raises(BackendError) as caught:
        load(model, "tensorrt", **options)
    return str(caught.value)


def test_no_engine(machine, model):
    assert "build it: " in refused(model) and f"probpose build-engine {model}" in refused(model)
    assert not machine.builds


def test_auto_without_an_engine_says_so_where_tensorrt_is_installed(machine, model, caplog, monkeypatch):
    session = load(model, "auto")
    assert session.backend == "onnxruntime" and f"probpose build-engine {model}" in session.problem
    assert "not TensorRT but onnxruntime" in caplog.text
    assert not machine.builds
    caplog.clear()
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert "probpose build-engine" in load(model, "auto").problem  # Somebody forgot pycuda.
    caplog.clear()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert not load(model, "auto").problem and not caplog.text  # A machine without a GPU is fine as it is.
    monkeypatch.setattr(engine, "JETSON", model)  # A Jetson, in an environment that does not see its TensorRT.
    assert "probpose build-engine" in load(model, "auto").problem


def test_foreign_stale_truncated_and_changed_engines(machine, model, folder, monkeypatch, caplog):
    assert build(model) == 0
    (file,) = folder.glob("*.engine")
    content = file.read_bytes()
    rebuild = "probpose build-engine"

    file.write_bytes(content[:-100])
    assert "cut off or replaced" in refused(model) and rebuild in refused(model)
    file.write_bytes(content[:-1] + b"\0")
    assert "its content has changed" in refused(model) and rebuild in refused(model)
    file.unlink()
    assert "cannot be read" in refused(model) and rebuild in refused(model)
    file.write_bytes(content)

    for other in (Machine("10.16.1.11"), Machine(sm=(11, 0)), Machine(driver=13000)):
        install(other, monkeypatch)
        message = refused(model)
        assert "built for TensorRT 10.3.0, CUDA 12.6, sm_87, but this is TensorRT" in message and rebuild in message
        with caplog.at_level(logging.ERROR):
            session = load(model, "auto")
        assert session.backend == "onnxruntime" and "not TensorRT but" in caplog.text
        assert "but this is TensorRT" in session.problem and rebuild in session.problem
        caplog.clear()
    install(Machine(), monkeypatch)

    write_tiny_pose(model, with_changes(POSE_INFO, name="retrained"))
    assert "stale, built from another version of the file" in refused(model) and rebuild in refused(model)
    for name in ("tensorrt", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)  # Even where TensorRT has gone since, somebody counts on it.
    session = load(model, "auto")
    assert session.backend == "onnxruntime" and "stale" in session.problem and rebuild in session.problem


def test_an_engine_that_lies_about_itself(machine, model, folder):
    """The sidecar fits but TensorRT refuses the file, as after an update that kept the version number."""
    assert build(model) == 0
    (sidecar,) = folder.glob("*.json")
    machine.sm = (8, 9)
    text = json.loads(sidecar.read_text())
    text["fingerprint"]["sm"] = 89
    sidecar.write_text(json.dumps(text))
    message = refused(model)
    assert "TensorRT cannot load it" in message and "Version tag" in message and "probpose build-engine" in message
    assert_nothing_left(machine)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "another"}', '{"format": "probpose engine 1"}'])
def test_broken_sidecars_are_no_engines(machine, model, folder, content):
    assert build(model) == 0
    (sidecar,) = folder.glob("*.json")
    sidecar.write_text(content)
    assert "no TensorRT engine" in refused(model)


def test_lost_device_falls_back_only_if_allowed(machine, model, caplog):
    assert build(model) == 0
    expected = load(model, "onnxruntime").run(CROPS)["keypoints"]
    strict, lenient = load(model, "tensorrt"), load(model, "tensorrt", allow_fallback=True)
    assert lenient.backend.startswith("tensorrt 10.3.0 fp16 (engine ") and not lenient.problem
    np.testing.assert_allclose(lenient.run(CROPS)["keypoints"], expected, atol=1e-6)
    machine.lost = "cuStreamSynchronize failed: unspecified launch failure"
    with pytest.raises(BackendError, match="the GPU failed: .*unspecified launch failure"):
        strict.run(CROPS)
    with caplog.at_level(logging.ERROR):
        np.testing.assert_allclose(lenient.run(CROPS)["keypoints"], expected, atol=1e-6)
    assert "unspecified launch failure" in caplog.text and "could not be freed" in caplog.text
    assert lenient.backend == "onnxruntime" and "launch failure" in lenient.problem
    strict.close()  # Of a lost device nothing can be freed; it must not raise, for a node that ends calls it.
    with pytest.raises(BackendError, match="closed or suspended"):
        strict.run(CROPS)


def test_fallback_at_load_only_if_allowed(machine, model, caplog):
    session = load(model, "tensorrt", allow_fallback=True)
    assert session.backend == "onnxruntime" and "no TensorRT engine" in session.problem
    assert "no TensorRT engine" in caplog.text
    assert session.run(CROPS)["keypoints"].shape == (5, 17, 2)


def test_lost_device_while_cutting_crops(machine, model):
    assert build(model) == 0
    session = load(model, "tensorrt", allow_fallback=True)
    images, transforms = cases_of_crops()
    expected = load(model, "onnxruntime").run_crops(images, transforms)["keypoints"]
    assert session.crops_on_gpu
    machine.lost = "cuLaunchKernel failed: unspecified launch failure"
    np.testing.assert_allclose(session.run_crops(images, transforms)["keypoints"], expected, atol=1e-6)
    assert not session.crops_on_gpu and "launch failure" in session.problem


def test_pipeline_on_engines(machine, model, tiny_detector_model):
    image = person_image((40, 20, 120, 220), (180, 30, 260, 200))
    options = {"model": str(model), "detector": str(tiny_detector_model)}
    expected = Pipeline(PipelineConfig(**options, backend="onnxruntime"))(image)
    assert build(model) == build(tiny_detector_model) == 0
    pipeline = Pipeline(PipelineConfig(**options, backend="tensorrt"))
    assert "pose: tensorrt" in pipeline.backend and "detector: tensorrt" in pipeline.backend
    assert "CUDA graphs, crops on the GPU" in pipeline.backend and not pipeline.backend_problem
    found = pipeline(image)
    assert len(found.people) == len(expected.people) == 2
    for a, b in zip(found.people, expected.people):
        np.testing.assert_allclose(a.keypoints, b.keypoints, atol=1e-4)
    pipeline.close()
    assert_nothing_left(machine)
