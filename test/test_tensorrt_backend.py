"""Building, caching and running engines, over doubles of TensorRT and pycuda (test/tensorrt_double.py)."""

from __future__ import annotations

import gc
import json
import logging
import re
import sys
import threading

import cv2
import numpy as np
import onnx
import pytest
from tensorrt_double import OUT_OF_MEMORY, UNSUPPORTED_SM, Machine
from test_export import random_model
from test_network import SMALL
from tiny_models import POSE_INFO, person_image, with_changes, write_tiny_pose

from probpose_ros.backends import BackendError, engine, load
from probpose_ros.cli import main
from probpose_ros.config import PipelineConfig
from probpose_ros.pipeline import Pipeline
from probpose_training.checkpoint import codec_of, pose_info
from probpose_training.export import example_crops, export_pose, run
from probpose_training.network import NetworkConfig

VERSIONS = ("8.6.1", "10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
CROPS = np.random.default_rng(0).integers(0, 256, (5, 64, 48, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBPOSE_ENGINES", str(tmp_path / "engines"))
    return tmp_path / "engines"


@pytest.fixture
def machine(folder, monkeypatch):
    return install(Machine(), monkeypatch)


def install(machine, monkeypatch):
    for name, module in machine.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return machine


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


# --- building


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("typed", [False, True])
def test_build_for_every_version(folder, tmp_path, monkeypatch, images, capsys, version, typed):
    machine = install(Machine(version), monkeypatch)
    info = with_changes(POSE_INFO, precision="fp16-typed" if typed else "fp32")
    path = write_tiny_pose(tmp_path / "pose.onnx", info)
    status = build(path, "--images", str(images), "--max-people", "3", "--workspace", "100")
    if version.startswith("11") and not typed:
        assert status == 2
        assert "export it with 'probpose export CHECKPOINT --precision fp16-typed" in capsys.readouterr().err
        assert build(path, "--no-compare", "--precision", "fp32") == 0
        return
    assert status == 0
    assert "beside onnxruntime" in capsys.readouterr().out
    (done,) = machine.builds
    assert done["pools"] == {"WORKSPACE": 100 * 2**20}
    assert done["profiles"][0].shapes == {"image": ((1, 64, 48, 3), (2, 64, 48, 3), (3, 64, 48, 3))}
    strong = typed and not version.startswith("8")
    assert ("FP16" in done["set_flags"]) == (not strong)
    (sidecar,) = folder.glob("*.json")
    content = json.loads(sidecar.read_text())
    assert content["fingerprint"]["sm"] == 87 and content["fingerprint"]["cuda"] == "12.6"
    assert content["report"]["compared"] > 0 and content["report"]["keypoints_p99"] == 0
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
    packed, plain = onnx.load(tmp_path / "m.onnx"), onnx.load_from_string(engine.unpacked(tmp_path / "m.onnx"))
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
    assert build(model, "--no-compare", "--max-people", "2", "--force") == 0
    assert timing.read_bytes() == b"measured measured "


@pytest.mark.parametrize("changes, message", [
    ({"sm_supported": False}, rf"builds nothing for this GPU: .*{UNSUPPORTED_SM}.*belongs to this JetPack"),
    ({"parse_error": "In node 3 with name: and operator: Foo (importFallback): UNSUPPORTED_NODE"}, "UNSUPPORTED_NODE"),
    ({"build_error": OUT_OF_MEMORY}, "could not be allocated.*less --workspace"),
    ({"noise": 0.3}, r"the engine is refused, .*keypoints_p99 differ by .* \(at most 0.25\).*fp16-typed"),
    ({"memory": 5000}, "no GPU memory for its buffers"),
    ({"memory": 10}, "could not be allocated"),
])  # fmt: skip
def test_a_failed_build_leaves_no_engine(machine, model, images, folder, capsys, changes, message):
    vars(machine).update(changes)
    assert build(model, "--images", str(images)) == 2
    error = capsys.readouterr().err.splitlines()[-1]  # Progress bars come first.
    assert error.startswith("probpose: error: ") and re.search(message, error), error
    assert not list(folder.glob("*.json"))
    assert_nothing_left(machine)


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
    assert build(model, "--max-people", "2") == 2
    assert "name a folder of photographs with --images" in capsys.readouterr().err


# --- running


@pytest.mark.parametrize("version", VERSIONS)
def test_session_equals_onnxruntime(folder, tmp_path, monkeypatch, version):
    machine = install(Machine(version), monkeypatch)
    path = write_tiny_pose(tmp_path / "pose.onnx", with_changes(POSE_INFO, precision="fp16-typed"))
    assert build(path) == 0
    session, reference = load(path, "tensorrt"), load(path, "onnxruntime")
    assert session.backend == "tensorrt" and session.metadata == reference.metadata
    # Twice the engine's largest batch and one more; then fewer, so that old rows would show.
    for crops in (CROPS, CROPS[3:4], CROPS[:2]):
        found, expected = session.run(crops), reference.run({"image": crops})
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
    session.close()
    session.close()
    assert_nothing_left(machine)
    with pytest.raises(BackendError, match="the session is closed"):
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


def test_wrong_input_is_refused(machine, model):
    assert build(model) == 0
    session = load(model, "tensorrt")
    for wrong in (CROPS.astype(np.float32), CROPS[:, :32], CROPS[0]):
        with pytest.raises(BackendError, match="input 'image' is uint8"):
            session.run(wrong)
    session.close()


# --- what is refused, and what happens then


def refused(model, **options) -> str:
    with pytest.raises(BackendError) as caught:
        load(model, "tensorrt", **options)
    return str(caught.value)


def test_no_engine(machine, model):
    assert f"build it: probpose build-engine {model}" in refused(model)
    assert load(model, "auto").backend == "onnxruntime"
    assert not machine.builds


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
        assert session.backend.startswith("onnxruntime (TensorRT failed:") and "not TensorRT but" in caplog.text
        caplog.clear()
    install(Machine(), monkeypatch)

    write_tiny_pose(model, with_changes(POSE_INFO, name="retrained"))
    assert "stale, built from another version of the file" in refused(model) and rebuild in refused(model)
    assert load(model, "auto").backend == "onnxruntime"


def test_an_engine_that_lies_about_itself(machine, model, folder):
    """The sidecar fits but TensorRT refuses the file, as after an update that kept the version number."""
    assert build(model) == 0
    (sidecar,) = folder.glob("*.json")
    machine.sm = (8, 9)
    text = json.loads(sidecar.read_text())
    text["fingerprint"]["sm"] = 89
    sidecar.write_text(json.dumps(text))
    message = refused(model)
    assert "TensorRT cannot load it" in message and "Version tag" in message and "rebuild: probpose" in message
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
    assert lenient.backend == "tensorrt"
    np.testing.assert_allclose(lenient.run(CROPS)["keypoints"], expected, atol=1e-6)
    machine.execute_error = "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (unspecified launch failure)"
    with pytest.raises(BackendError, match="unspecified launch failure"):
        strict.run(CROPS)
    with caplog.at_level(logging.ERROR):
        np.testing.assert_allclose(lenient.run(CROPS)["keypoints"], expected, atol=1e-6)
    assert "unspecified launch failure" in caplog.text
    assert lenient.backend.startswith("onnxruntime (TensorRT failed:") and "launch failure" in lenient.backend
    strict.close()
    assert_nothing_left(machine)


def test_fallback_at_load_only_if_allowed(machine, model, caplog):
    session = load(model, "tensorrt", allow_fallback=True)
    assert session.backend.startswith("onnxruntime (TensorRT failed: ") and "no TensorRT engine" in caplog.text
    assert session.run(CROPS)["keypoints"].shape == (5, 17, 2)


def test_pipeline_on_engines(machine, model, tiny_detector_model):
    image = person_image((40, 20, 120, 220), (180, 30, 260, 200))
    options = {"model": str(model), "detector": str(tiny_detector_model)}
    expected = Pipeline(PipelineConfig(**options, backend="onnxruntime"))(image)
    assert build(model) == build(tiny_detector_model) == 0
    pipeline = Pipeline(PipelineConfig(**options, backend="tensorrt"))
    assert pipeline.pose.session.backend == pipeline.detector.session.backend == "tensorrt"
    found = pipeline(image)
    assert len(found.people) == len(expected.people) == 2
    for a, b in zip(found.people, expected.people):
        np.testing.assert_allclose(a.keypoints, b.keypoints, atol=1e-4)
    pipeline.close()
    assert_nothing_left(machine)
