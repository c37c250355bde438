"""Where model files are: a bundled model by name, or any file by path."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def model_dirs() -> list[Path]:
    """Existing folders of bundled models, in search order: repository checkout, ROS workspace, Python environment."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    candidates = [Path(__file__).parents[1] / "models"]
    candidates += [prefix / "share/probpose_ros/models" for prefix in [*prefixes, Path(sys.prefix)]]
    return [folder for folder in dict.fromkeys(candidates) if folder.is_dir()]


def model_names() -> list[str]:
    """Names of the bundled models that are there, without duplicates."""
    return sorted({file.stem for folder in model_dirs() for file in folder.glob("*.onnx")})


def find_model(name_or_path: str | Path) -> Path:
    """Path of a model: text with a folder separator or the ending ``.onnx`` is a path, anything else a bundled name."""
    text = os.fspath(name_or_path)
    if text.endswith(".onnx") or os.sep in text or "/" in text:
        path = Path(text).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{text}: no such model file")
        return path
    for folder in model_dirs():
        if (path := folder / f"{text}.onnx").is_file():
            return path
    known = ", ".join(model_names()) or "none"
    raise FileNotFoundError(f"model {text!r} is not bundled (there are: {known}); name one of these or an .onnx file")
