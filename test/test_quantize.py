"""int8: what TensorRT needs of the graph, the ranges, and the numbers on photographs."""

from __future__ import annotations

import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from tensorrt_double import Machine, exact_session, install
from test_export import random_model
from test_network import SMALL, TINY

from probpose_ros.backends import BackendError, load, quantize
from probpose_ros.backends.engine import EngineError
from probpose_ros.backends.engine_network import network_file, unpack
from probpose_ros.backends.numerics import beyond_limits, compare, inputs_of, model_info, read_images
from probpose_ros.backends.quantize import PERCENTILE, body_layers, quantized, quiet_layers, ranges
from probpose_ros.cli import main
from probpose_training.checkpoint import codec_of, pose_info
from probpose_training.export import example_crops, export_pose
from probpose_training.network import NetworkConfig
from probpose_training.tensorrt_check import VERSIONS, check_tensorrt

PHOTOGRAPHS = Path(__file__).parents[1] / "../shared/data/coco_val.tar"
MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.onnx"))
NETWORKS = {"conv": NetworkConfig(**SMALL), "vit": TINY}


@cache
def exported(name: str, precision: str = "fp32") -> Path:
    config, path = NETWORKS[name], Path(tempfile.mkdtemp()) / f"{name}-{precision}.onnx"
    info = pose_info(config, "test")
    export_pose(random_model(config), codec_of(info), info, path, with_probmap=True, precision=precision)
    return path


def unpacked(path: Path) -> onnx.ModelProto:
    model = onnx.load(path)
    unpack(model)
    return model


def outputs(content: onnx.ModelProto | bytes, images: np.ndarray) -> list[np.ndarray]:
    content = content if isinstance(content, bytes) else content.SerializeToString()
    return exact_session(content).run(None, {"image": images})


@pytest.mark.parametrize("name, precision", [("conv", "fp32"), ("conv", "fp16"), ("vit", "fp32")])
def test_what_tensorrt_needs(name, precision):
    """Weak types for 8.6 in opset 17, written types for 10 and later in 19: each passes the tables of its versions."""
    path, images = exported(name, precision), example_crops(NETWORKS[name].input_size, 3)
    for strong, versions in ((False, VERSIONS[:1]), (True, VERSIONS[1:])):
        model = onnx.load_from_string(network_file(path, precision, "int8", strong, images))
        onnx.checker.check_model(model, full_check=True)
        assert not check_tensorrt(model, versions)
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        steps = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
        assert steps and len(steps) % 2 == 0
        for node in steps:
            scale, zero = (constants[value] for value in node.input[1:])
            assert zero.dtype == np.int8 and not zero.any() and zero.shape == scale.shape
            assert scale.dtype == (np.float16 if strong else np.float32) and (scale > 0).all()
        # Only what a layer takes in is quantised; nothing stands between a pair and its layer.
        by_output = {output: node for node in model.graph.node for output in node.output}
        layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")
                  and by_output.get(n.input[1], n).op_type == "DequantizeLinear"]  # fmt: skip
        body = {node.name for node in body_layers(onnx.load_from_string(network_file(path, precision, "fp16", True)))}
        assert 1 <= len(layers) < len(body) and {node.name for node in layers} < body  # all but the noisy ones
        for node in layers:
            assert by_output[node.input[0]].op_type == "DequantizeLinear"
            assert not node.name.startswith("/model/head")
        kept = [n for n in model.graph.node if n.op_type == "Conv" and n.name.startswith("/model/head")]
        assert kept and all(by_output.get(n.input[0], n).op_type != "DequantizeLinear" for n in kept)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_types_change_little_of_int8(name):
    """The graph for TensorRT 8.6 and that for 10 compute the same, to the rounding of half and what follows from it."""
    path, images = exported(name), example_crops(NETWORKS[name].input_size, 3)
    weak, strong = (outputs(network_file(path, "fp32", "int8", typed, images), images) for typed in (False, True))
    plain = outputs(path.read_bytes(), images)
    for a, b, exact in zip(weak[1:4], strong[1:4], plain[1:4]):  # presence, visibility, quality
        assert np.abs(a - b).max() < 0.02 and np.abs(a - exact).max() < 0.1
    assert any(np.abs(a - exact).max() > 0 for a, exact in zip(weak, plain))  # It did round.


def layer(weight: np.ndarray) -> onnx.ModelProto:
    """Two matrix products; the second is of the body (the first is the network's first layer)."""
    k, m = weight.shape
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        graph (float[B,{k}] image) => (float[B,{m}] y) {{ t = MatMul (image, eye)  y = MatMul (t, w) }}""")
    for node in model.graph.node:
        node.name = f"/model/{node.output[0]}"
    model.graph.initializer.extend(
        numpy_helper.from_array(v.astype(np.float32), s) for s, v in {"eye": np.eye(k), "w": weight}.items()
    )
    return model


def test_rounding_is_that_of_symmetric_eight_bits():
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(64, 8)).astype(np.float32), random.normal(size=(8, 3)) * [1, 10, 0.01]
    model = quantized(layer(weight), x)
    top = ranges(layer(weight), ["t"], x, 4)["t"]
    rounded = np.rint(x / (top / 127)).clip(-128, 127) * top / 127
    scales = np.abs(weight).max(0) / 127
    expected = rounded @ (np.rint(weight / scales) * scales)
    np.testing.assert_allclose(outputs(model, x)[0], expected, rtol=1e-4, atol=1e-5)


def test_ranges_are_percentiles_of_magnitudes():
    x = np.random.default_rng(1).standard_t(3, (50000, 8)).astype(np.float32)  # Heavy tails: a few are cut off.
    found = ranges(layer(np.ones((8, 2))), ["t", "t"], x, 4096)
    exact = np.percentile(np.abs(x), PERCENTILE)
    assert list(found) == ["t"] and exact < 0.9 * np.abs(x).max()
    assert found["t"] == pytest.approx(exact, abs=2 * float(np.abs(x).max()) / 4096)


def test_a_channel_of_zeros_keeps_a_scale():
    x = np.ones((4, 8), np.float32)
    model = quantized(layer(np.zeros((8, 2))), x)
    np.testing.assert_array_equal(outputs(model, x)[0], 0)


def test_the_layers_with_the_most_noise_for_their_work_stay_in_half():
    """Measured here as it is meant: of one output, with all layers, with the chosen ones, with the others."""
    model, images = unpacked(exported("conv")), example_crops(NETWORKS["conv"].input_size, 6)
    layers = body_layers(model)
    scales = {name: top / 127 for name, top in ranges(model, [n.input[0] for n in layers], images, 4).items()}
    quiet = quiet_layers(model, layers, scales, images, 4)
    noisy = [node for node in layers if node not in quiet]
    ends = quantize._ends(model)
    assert 1 <= len(noisy) < len(layers) and any("/head/final_layer" in name for name in ends)
    exact = quantize._run(model, ends, images, 4)

    def noise(of: list[onnx.NodeProto]) -> float:
        found = quantize._run(quantize._with_pairs(model, of, scales), ends, images, 4)
        return sum(float(np.var(a - b) / np.var(b)) for a, b in zip(found, exact))

    assert noise(quiet) < 2 * quantize.NOISE_LEFT * noise(layers) and noise(noisy) > 0.5 * noise(layers)


def test_work_is_counted_as_multiplications():
    model = unpacked(exported("conv"))
    (weights,) = (list(t.dims) for t in model.graph.initializer if t.name == body_layers(model)[0].input[1])
    work = quantize._multiplications(model)[body_layers(model)[0].name]
    assert work % np.prod(weights) == 0 and work // np.prod(weights) > 1  # so many places in the output
    assert quantize._multiplications(layer(np.ones((8, 3))))["/model/y"] == 24


def test_a_graph_without_layers_is_refused():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> graph (float[2] x) => (float[2] y) { y = Exp (x) }'
    )
    with pytest.raises(BackendError, match="no convolution or matrix product"):
        quantized(model, np.zeros((1, 2), np.float32))


def test_int8_without_photographs_is_refused():
    with pytest.raises(EngineError, match="--calibration-images DIR"):
        network_file(exported("conv"), "fp32", "int8", False)


def test_fp16_network_for_tensorrt_11_is_the_exporters():
    """A board makes of the file that ships what 'probpose export --precision fp16-typed' makes of the checkpoint."""
    made = onnx.load_from_string(network_file(exported("conv"), "fp32", "fp16", True))
    given = onnx.load(exported("conv", "fp16-typed"))
    assert made.graph == given.graph
    # From weights that are stored in half already: the same numbers, for they only lose their Casts.
    stored = onnx.load_from_string(network_file(exported("conv", "fp16"), "fp16", "fp16", True))
    images = example_crops(NETWORKS["conv"].input_size)
    for a, b in zip(outputs(made, images)[1:4], outputs(stored, images)[1:4]):
        np.testing.assert_allclose(a, b, atol=2e-3)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS.is_file(), reason="the photographs ../shared/data/coco_val.tar are not there")
@pytest.mark.skipif(not MODELS, reason="no bundled models in models/")
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_bundled_models_within_the_limits_on_photographs(tmp_path, path):
    """int8, ranges from 12 photographs, held on 12 others; written types, as TensorRT 10 and 11 get it."""
    with tarfile.open(PHOTOGRAPHS) as archive:
        for member in [m for m in archive.getmembers() if m.name.endswith(".jpg")][:24]:
            (tmp_path / Path(member.name).name).write_bytes(archive.extractfile(member).read())
    images = read_images(tmp_path, 24)
    reference = load(path, "onnxruntime")
    info = model_info(reference, path)
    if info.precision == "int8":
        pytest.skip("this file is int8 already")
    inputs = inputs_of(info, images[1::2])
    for precision in ("int8", "fp16"):
        if (path.stem, precision) == ("probpose_small_192x256", "fp16"):
            pytest.xfail("0.50 crop px at 99 %, 0.25 allowed: models/probpose_small_192x256.md says so")
        content = network_file(path, info.precision, precision, True, inputs_of(info, images[::2]))
        report = compare(reference, Exact(content), inputs, info.kind)
        assert report["compared"] > 100 and not beyond_limits(report, info.kind, precision), report


class Exact:
    """A session for compare(), of :func:`exact_session`."""

    def __init__(self, content: bytes) -> None:
        self._session = exact_session(content)
        self.outputs = {output.name: None for output in self._session.get_outputs()}

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self._session.run(None, {"image": images})))


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0.106"])
def test_build_engine_in_int8(tmp_path, monkeypatch, capsys, version):
    monkeypatch.setenv("PROBPOSE_ENGINES", str(tmp_path / "engines"))
    machine = install(Machine(version), monkeypatch)
    path = exported("conv")
    (tmp_path / "photos").mkdir()
    for i, crop in enumerate(example_crops((160, 120))):
        cv2.imwrite(str(tmp_path / f"photos/{i}.png"), crop)
    options = ["--precision", "int8", "--max-people", "2", "--no-compare"]
    assert main(["build-engine", str(path), *options]) == 2
    assert "--calibration-images DIR" in capsys.readouterr().err
    assert main(["build-engine", str(path), *options, "--calibration-images", str(tmp_path / "photos")]) == 0
    (done,) = machine.builds
    strong = not version.startswith("8")
    assert done["flags"] == (2 if strong else 1)
    assert done["set_flags"] == (set() if strong else {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"})
    built = load(path, "tensorrt")
    assert f"{version} int8" in built.backend and model_info(built, path).precision == "int8"
    expected = load(path, "onnxruntime").run(example_crops(NETWORKS["conv"].input_size))
    found = built.run(example_crops(NETWORKS["conv"].input_size))
    assert 0 < np.abs(found["presence"] - expected["presence"]).max() < 0.1
    built.close()


def test_write_onnx_needs_no_tensorrt(tmp_path, monkeypatch):
    """What a board makes of the file that ships, as a file; 'probpose compare' holds it against the original."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    path, made = exported("conv"), tmp_path / "made.onnx"
    assert main(["build-engine", str(path), "--strongly-typed", "--write-onnx", str(made)]) == 0
    session = load(made, "onnxruntime")
    assert model_info(session, made).precision == "fp16-typed"
    images = example_crops(NETWORKS["conv"].input_size, 3)
    np.testing.assert_allclose(
        session.run(images)["presence"], load(path, "onnxruntime").run(images)["presence"], atol=0.01
    )
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for i, crop in enumerate(images):
        cv2.imwrite(str(photographs / f"{i}.png"), crop)
    options = ["--precision", "int8", "--calibration-images", str(photographs), "--write-onnx", str(made)]
    assert main(["build-engine", str(path), *options]) == 0
    assert model_info(load(made, "onnxruntime"), made).precision == "int8"
