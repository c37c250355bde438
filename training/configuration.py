"""YAML recipes -> dataclasses, strictly: a key that does not exist is an error that names the keys there are."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


def load(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The recipe with ``key.subkey=value`` overrides applied; values are read as YAML."""
    try:
        config = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"config {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"config {path}: not YAML ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"config {path}: must be a mapping, got {type(config).__name__}")
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"--set {override!r}: must be key=value")
        section = config
        *parents, last = name.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ValueError(f"--set {override!r}: {parent!r} is a value, not a section")
        section[last] = yaml.safe_load(value)
    return config


def build(cls: type[T], values: Mapping[str, Any] | None, where: str) -> T:
    """A dataclass from a mapping; lists become tuples where the field is one; ``where`` names the section in errors."""
    values = dict(values or {})
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{where}: unknown key {', '.join(unknown)}; the keys are: {', '.join(known)}")
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        hint = hints[name]
        if typing.get_origin(hint) is tuple and isinstance(value, list):
            values[name] = tuple(value)
        elif typing.get_origin(hint) is tuple and not isinstance(value, tuple):
            raise ValueError(f"{where}.{name} = {value!r}: must be a list")
        elif hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
            try:
                values[name] = float(value)  # YAML 1.1 reads 7e-4, without a point, as text
            except ValueError:
                raise ValueError(f"{where}.{name} = {value!r}: must be a number") from None
        elif hint in (int, float, bool, str) and type(value) is not hint:
            raise ValueError(f"{where}.{name} = {value!r}: must be {hint.__name__}")
    return cls(**values)


def take(config: dict[str, Any], sections: tuple[str, ...], where: str, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """A part of the recipe, if it has no other sections than these and all that are ``needed``."""
    if unknown := sorted(set(config) - set(sections)):
        raise ValueError(f"{where}: unknown section {', '.join(unknown)}; the sections are: {', '.join(sections)}")
    if missing := [name for name in needed if not config.get(name)]:
        raise ValueError(f"{where}: {' and '.join(missing)} must be given")
    return config
