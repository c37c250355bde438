"""What nobody may slip in with a file: other files, code, sizes beyond reason."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from probpose_ros.backends import BackendError, load, onnx_file
from probpose_ros.backends.onnx_file import check_onnx
from probpose_ros.untrusted import parse_json, read_bytes

ROOT = Path(__file__).parents[1]


def test_no_code_that_executes_what_it_reads() -> None:
    """Read from the syntax trees: no pickle, no eval, no shell, torch.load only with weights_only, YAML only safe."""
    found = []
    files = [file for part in ("probpose_ros", "training", "bench", "launch") for file in (ROOT / part).rglob("*.py")]
    assert len(files) > 50
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            module = getattr(node, "module", None) or ""
            if {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"} & {*names, module}:
                found.append(f"{file}:{node.lineno} imports {names}")
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            bad = called in ("eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load")
            bad |= called.endswith("torch.load") and keywords.get("weights_only") != "True"
            bad |= called == "np.load" and keywords.get("allow_pickle", "False") != "False"
            bad |= keywords.get("shell", "False") != "False"
            if bad:
                found.append(f"{file}:{node.lineno} {called}")
    assert not found, "\n".join(found)


def external(path: Path, where: str = "initializer", location: str = "weights.bin") -> Path:
    """A model that adds a tensor of another file to its input; it may hide in a constant or in a branch of an If."""
    (path.parent / "weights.bin").write_bytes(np.ones(4, np.float32).tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    nodes, initializers = [helper.make_node("Add", ["x", "w"], ["y"])], [tensor]
    if where != "initializer":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
        initializers = []
    if where == "branch":
        inner = helper.make_graph(nodes, "branch", [], info[1:])
        yes = numpy_helper.from_array(np.array(True), "yes")
        nodes, initializers = [helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)], [yes]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], initializers)
    # The newest onnxruntime for Python 3.10 does not know the newest onnx's version of the format.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["weights.bin", "../../../../etc/passwd", "/etc/passwd"])
@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
def test_a_model_that_names_other_files_is_refused(tmp_path: Path, where: str, location: str) -> None:
    path = external(tmp_path / "m.onnx", where, location)
    with pytest.raises(BackendError, match="keeps its tensors in another file"):
        load(path, "onnxruntime")


def test_the_same_model_with_its_tensors_inside_is_fine(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx")
    onnx.save(onnx.load(path), tmp_path / "whole.onnx")
    session = load(tmp_path / "whole.onnx", "onnxruntime", threads=1)
    np.testing.assert_array_equal(session.run(np.arange(4, dtype=np.float32))["y"], np.arange(4) + 1)


def test_bundled_models_are_whole() -> None:
    models = list((ROOT / "models").glob("*.onnx"))
    assert models
    for path in models:
        check_onnx(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x3a\xff\xff\xff\xff\x0f", b"\x3b\x00", b"\x38\x00", b"text, not a model", b"\x00\x00"]
)
def test_what_is_no_protobuf_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BackendError, match="cannot load it as an ONNX model"):
        check_onnx(tmp_path / "m.onnx")


def test_too_many_fields_and_too_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x07" * 1000)
    check_onnx(path)
    monkeypatch.setattr(onnx_file, "MAX_FIELDS", 999)
    with pytest.raises(BackendError, match="more than 999 fields"):
        check_onnx(path)
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 1999)
    with pytest.raises(BackendError, match="2000 bytes; must have 1 to 1999"):
        check_onnx(path)


def test_bounded_reading(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_bytes(tmp_path / "f", 5) == b"12345"
    with pytest.raises(ValueError, match="f: must have at most 4 bytes"):
        read_bytes(tmp_path / "f", 4)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, b"\xff\xfe\x00", "1" * 31, "-" + "9" * 5000, "NaN", '{"a": Infinity}']
)
def test_json_that_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="not JSON") as error:
        parse_json(text)
    assert "\n" not in str(error.value)


def test_json_that_is_read() -> None:
    assert parse_json('{"a": [1, -2.5, null, "x"]}') == {"a": [1, -2.5, None, "x"]}
    assert parse_json(b"[NaN, 1]", nan=True)[1] == 1
