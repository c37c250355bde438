"""models/manifest.yaml: what can be fetched. Read strictly; reading it touches no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from probpose_ros.models import model_dirs

MAX_BYTES = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestError(ValueError):
    """The manifest cannot be used: names the entry, what was found and what is allowed."""


@dataclass(frozen=True)
class Entry:
    """One model.

    url: http or https. file: the name it is kept under. member: its name in a zip, without folders; empty if the URL
    gives the file itself. sha256, size (bytes): of the file, None where not known.
    """

    name: str
    what: str
    url: str
    file: str
    licence: str
    page: str = ""
    member: str = ""
    sha256: str | None = None
    size: int | None = None


def find_manifest() -> Path:
    """The manifest beside the bundled models."""
    for folder in model_dirs():
        if (path := folder / "manifest.yaml").is_file():
            return path
    raise FileNotFoundError("models/manifest.yaml is not there; install the package with its models/ folder")


def read_manifest(path: str | Path | None = None) -> dict[str, Entry]:
    """The entries by name, in the file's order; path: None for the bundled one."""
    import yaml

    path = find_manifest() if path is None else Path(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ManifestError(f"{path}: {size} bytes; a manifest has at most {MAX_BYTES}")
    try:
        values = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: bytes that are no text
        raise ManifestError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict) or not values:
        raise ManifestError(f"{path}: must map names to entries, got {type(values).__name__}")
    return {str(name): _entry(name, value, f"{path}: {name!r}") for name, value in values.items()}


def check_sha256(text: Any, where: str) -> str:
    """The hash in lower case."""
    if not isinstance(text, str) or not _SHA256.fullmatch(text.lower()):
        raise ManifestError(f"{where} must be 64 hexadecimal digits, got {text!r}")
    return text.lower()


def _entry(name: Any, values: Any, where: str) -> Entry:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ManifestError(f"{where}: a name has letters, digits, '_', '-' and '.'")
    if not isinstance(values, dict):
        raise ManifestError(f"{where} must be an entry with keys, got {type(values).__name__}")
    known = [spec.name for spec in fields(Entry) if spec.name != "name"]
    if unknown := [key for key in values if key not in known]:
        raise ManifestError(f"{where}: unknown {_listed(unknown)}; known are {_listed(known)}")
    if missing := [key for key in ("what", "url", "file", "licence") if not values.get(key)]:
        raise ManifestError(f"{where}: {_listed(missing)} missing")
    for key, value in values.items():
        if key not in ("sha256", "size") and not isinstance(value, str):
            raise ManifestError(f"{where}: {key} must be text, got {value!r}")
    entry = Entry(name=name, **values)
    if urlsplit(entry.url).scheme not in ("http", "https"):
        raise ManifestError(f"{where}: url must begin with https:// or http://, got {entry.url!r}")
    if not _NAME.fullmatch(entry.file):
        raise ManifestError(f"{where}: file must be a plain file name, got {entry.file!r}")
    if entry.size is not None and (isinstance(entry.size, bool) or not isinstance(entry.size, int) or entry.size < 1):
        raise ManifestError(f"{where}: size must be a whole number of bytes, got {entry.size!r}")
    if entry.sha256 is not None:
        check_sha256(entry.sha256, f"{where}: sha256")
    return entry


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(str(name) for name in names)
