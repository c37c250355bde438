"""Reading files that anybody may have made: bounded in size and depth, and never executed.

Whoever reads a file for the project reads it through these, or with yaml.safe_load, or torch's ``weights_only``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

MAX_DIGITS = 30  # of a whole number: converting millions of them takes minutes
MAX_DEPTH = 64  # of nested lists and objects: whoever walks through a deeper one runs out of stack
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read_bytes(path: str | Path, limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes; ValueError if there are more."""
    with open(path, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path}: must have at most {limit} bytes")
    return content


def parse_json(content: str | bytes, nan: bool = False) -> Any:
    """Any JSON; ValueError in one line if it is none, is nested too deeply, or holds a number no program needs.

    nan: accept NaN and Infinity, which are no JSON but what Python writes.
    """
    if _depth(content) > MAX_DEPTH:
        raise ValueError(f"not JSON (nested more than {MAX_DEPTH} deep)")
    try:
        return json.loads(content, parse_int=_whole, parse_constant=None if nan else _no_number)
    except ValueError as error:  # also of bytes that are no text
        raise ValueError(f"not JSON ({error})") from None


def _depth(content: str | bytes) -> int:
    """At least how deep the brackets are nested; those inside texts count too, which do no harm in any real file."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    brackets = np.frombuffer(data.translate(None, _NO_BRACKETS), np.uint8)
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1).astype(np.int32)
    return int(steps.cumsum().max(initial=0))


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
