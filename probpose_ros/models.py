"""Where model files are: a bundled or fetched model by name, or any file by path."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path


def model_dirs() -> list[Path]:
    """Existing folders of models, in search order: repository checkout, ROS workspace, Python environment, fetched."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    candidates = [Path(__file__).parents[1] / "models"]
    candidates += [prefix / "share/probpose_ros/models" for prefix in [*prefixes, Path(sys.prefix)]]
    candidates.append(user_models())
    return [folder for folder in dict.fromkeys(candidates) if folder.is_dir()]


def user_models() -> Path:
    """Where fetched models are: ``$PROBPOSE_MODELS``, else ``probpose/models`` in the user's cache folder."""
    if folder := os.environ.get("PROBPOSE_MODELS"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "probpose/models"


def file_sha256(path: str | Path) -> str:
    """Of the file's content, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def model_names() -> list[str]:
    """Names of the bundled and fetched models that are there, without duplicates."""
    return _names(".onnx")


def _names(suffix: str) -> list[str]:
    return sorted({file.name[: -len(suffix)] for folder in model_dirs() for file in folder.glob(f"*{suffix}")})


def find_model(name_or_path: str | Path) -> Path:
    """Path of a model: text with a folder separator or the ending ``.onnx`` is a path, anything else a name."""
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
        + ("; more can be had with 'probpose fetch'" if suffix == ".onnx" else "")
    )
