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
    return _names(".onnx")


def _names(suffix: str) -> list[str]:
    return sorted({file.name[: -len(suffix)] for folder in model_dirs() for file in folder.glob(f"*{suffix}")})


def find_model(name_or_path: str | Path) -> Path:
    """Path of a model: text with a folder separator or the ending ``.onnx`` is a path, anything else a bundled name."""
    return find_file(name_or_path, ".onnx", "model")


def find_file(name_or_path: str | Path, suffix: str, kind: str) -> Path:
    """Path of a file of the bundled folders by name, or of any file; ``kind`` is its name in errors."""
    text = os.fspath(name_or_path)
    if text.endswith(suffix) or os.sep in text or "/" in text:
        path = Path(text).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{text}: no such {kind} file")
        return path
    for folder in model_dirs():
        if (path := folder / f"{text}{suffix}").is_file():
            return path
    known = ", ".join(_names(suffix)) or "none"
    raise FileNotFoundError(
        f"{kind} {text!r} is not bundled (there are: {known}); name one of these or a file that ends in {suffix}"
    )
