"""Which names of TensorRT's Python API our code uses, and which of them a version has.

``python test/tensorrt_names.py WHEEL_FOLDER...`` records the latter in tensorrt_api.json: each folder is an unpacked
wheel of the bindings (tensorrt-bindings, tensorrt-cu12-bindings). The bindings are the real ones, imported over
stand-ins of the libraries that they need: shared libraries whose functions do nothing, made with gcc.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

BACKENDS = Path(__file__).parents[1] / "probpose_ros/backends"
RECORD = Path(__file__).with_name("tensorrt_api.json")

# Our variables of TensorRT's types, per file, and what its methods and attributes give.
VARIABLES = {
    "engine.py": {
        "trt": "", "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "tensor": "ITensor",
        "config": "IBuilderConfig", "profile": "IOptimizationProfile", "layer": "ILayer",
        "flags": "NetworkDefinitionCreationFlag", "plan": "IHostMemory",
    },
    "tensorrt.py": {
        "trt": "", "runtime": "Runtime", "context": "IExecutionContext", "engine": "ICudaEngine",
        "self._engine": "ICudaEngine",
    },
}  # fmt: skip
GIVES = {
    "OnnxParser.get_error": "ParserError", "IBuilderConfig.get_timing_cache": "ITimingCache",
    "INetworkDefinition.add_identity": "ILayer", "ILayer.get_output": "ITensor", "ILayer.type": "LayerType",
    "ICudaEngine.get_tensor_dtype": "DataType",
}  # fmt: skip
TEXT = ("ILayer.name", "ITensor.name")  # Python's own from here on.
ENUMS = ("LayerType", "DataType")


def used_names() -> set[str]:
    """Dotted names below the module: ``Builder.create_network``, ``BuilderFlag.FP16``, ``ILogger.Severity.ERROR``."""
    found: set[str] = set()
    for file, variables in VARIABLES.items():
        tree = ast.parse((BACKENDS / file).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (name := _dotted(node, variables)):
                found.add(name)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "hasattr":
                owner, attribute = _dotted(node.args[0], variables), node.args[1]
                if owner is not None and isinstance(attribute, ast.Constant):
                    found.add(f"{owner}.{attribute.value}".lstrip("."))
    return found


def _dotted(node: ast.expr, variables: dict[str, str]) -> str | None:
    """The dotted name of an expression, as its class has it; None if it is not of TensorRT."""
    if isinstance(node, ast.Name):
        return variables.get(node.id)
    if isinstance(node, ast.Call):
        name = _dotted(node.func, variables)
        return GIVES.get(name or "")
    if isinstance(node, ast.Attribute) and ast.unparse(node) in variables:
        return variables[ast.unparse(node)]
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value, variables)
        if owner is None or (owner == "" and node.attr.startswith("__")):
            return None
        owner = GIVES.get(owner, owner)
        if owner in TEXT or (owner in ENUMS and node.attr == "name"):
            return None
        return f"{owner}.{node.attr}".lstrip(".")
    return None


def has(module: ModuleType, name: str) -> bool:
    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


def used_calls() -> set[tuple[str, int]]:
    """Methods that our code calls, each with the number of arguments given."""
    found = set()
    for file, variables in VARIABLES.items():
        for node in ast.walk(ast.parse((BACKENDS / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = _dotted(node.func, variables)
                if name and name[0].isupper() and "." in name and not name.endswith("__init__"):
                    given = [3 if isinstance(argument, ast.Starred) else 1 for argument in node.args]  # set_shape's 3
                    found.add((name, sum(given)))
    return found


def signatures(module: ModuleType) -> dict[str, list[list[int]]]:
    """Fewest and most arguments of each overload of the called methods, from their docstrings."""
    found: dict[str, list[list[int]]] = {}
    for name in sorted({name for name, _ in used_calls() if has(module, name)}):
        value: object = module
        for part in name.split("."):
            value = getattr(value, part)
        for own, text in re.findall(r"^(?:\d+\. )?(\w+)\(self: [\w.]+(.*)\) ->", value.__doc__ or "", re.MULTILINE):
            if own == part:
                most = len(re.findall(r", \w+: ", text))
                found.setdefault(name, []).append([most - text.count(" = "), most])
    return found


def record(wheel: Path) -> tuple[str, list[str], dict[str, list[list[int]]]]:
    """Version of the bindings in an unpacked wheel, those of the used names that they have, and signatures."""
    (library,) = wheel.glob("*/tensorrt.so")
    with tempfile.TemporaryDirectory() as folder:
        _stand_ins(library, Path(folder))
        paths = [str(path) for path in (wheel, Path(__file__).parent, BACKENDS.parents[1])]
        program = (
            f"import json, sys; sys.path[:0] = {paths}\n"
            f"import {library.parent.name} as trt, tensorrt_names as names\n"
            "from probpose_ros.backends import engine\n"
            "engine.get_logger(trt)\n"  # Our classes on top of theirs can be made.
            "with engine._progress(trt, type('Config', (), {})()): pass\n"
            "found = sorted(n for n in names.used_names() if names.has(trt, n))\n"
            "print(json.dumps([trt.__version__, found, names.signatures(trt)]))"
        )
        environment = {**os.environ, "LD_LIBRARY_PATH": folder}
        answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"{wheel}: {answer.stderr.strip().splitlines()[-1]}")
    return tuple(json.loads(answer.stdout.splitlines()[-1]))


def _stand_ins(library: Path, folder: Path) -> None:
    """Empty libraries of the names that ``library`` needs; the first has its undefined functions, which do nothing."""

    def output(*command: str | Path) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    symbols = [line.split() for line in output("nm", "-D", "--undefined-only", library).splitlines()]
    undefined = [name for kind, name in symbols if kind == "U"]
    functions = [name for name in undefined if "@" not in name and not name.startswith(("Py", "_Py"))]
    source = folder / "functions.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions))
    for needed in re.findall(r"\[(libnv\w+\.so\.\d+)\]", output("readelf", "-d", library)):
        output("gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{needed}", "-o", folder / needed, source)
        source.write_text("")


if __name__ == "__main__":
    found = [record(Path(wheel).resolve()) for wheel in sys.argv[1:]]
    recorded = {version: names for version, names, _ in found}
    calls = {version: counts for version, _, counts in found}
    content = {"names": sorted(used_names()), "versions": recorded}
    text = json.dumps(content, indent=1)[:-2] + f',\n "signatures": {json.dumps(calls)}\n}}\n'
    RECORD.write_text(text)
    for version, names in recorded.items():
        print(version, "lacks", sorted(used_names() - set(names)))
