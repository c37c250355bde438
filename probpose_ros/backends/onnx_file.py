"""What an ONNX file must be before a backend opens it: of a bounded size, and complete in itself.

An ONNX file may keep its tensors in other files, whose paths it names; a backend would open those. Models of this
package hold everything themselves, so such a file is refused. It is read here as what it is, nested protobuf messages,
without the onnx package and without copying a tensor.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from probpose_ros.backends import BackendError

MAX_BYTES = 2**31 - 1  # what a protobuf message may have
MAX_FIELDS = 5_000_000  # large networks have a tenth; more would only take time

# message: its fields (by number) that are messages and may hold a tensor somewhere below.
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor


class _Malformed(ValueError):
    pass


def check_onnx(path: Path) -> None:
    """BackendError if the file is too large, no protobuf message, or names other files that hold its tensors."""
    size = path.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise BackendError(f"{path}: cannot load it as an ONNX model ({size} bytes; must have 1 to {MAX_BYTES})")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            external = _has_external_data(content, size)
        except _Malformed as error:
            raise BackendError(f"{path}: cannot load it as an ONNX model ({error})") from None
    if external:
        raise BackendError(
            f"{path}: keeps its tensors in another file; models must hold them themselves "
            "(onnx.save(onnx.load(PATH), OUT) makes such a file)"
        )


def _has_external_data(content: mmap.mmap | bytes, size: int) -> bool:
    messages, fields = [("model", 0, size)], 0
    while messages:
        kind, start, end = messages.pop()
        for field, value, first, last in _fields(content, start, end):
            fields += 1
            if fields > MAX_FIELDS:
                raise _Malformed(f"more than {MAX_FIELDS} fields")
            if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value)):
                return True
            if inner := _INSIDE.get(kind, {}).get(field):
                if last < 0:
                    raise _Malformed(f"field {field} of a {kind} is no message")
                messages.append((inner, first, last))
    return False


def _fields(content: mmap.mmap | bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, value, first byte, end) of every field of a message; end is -1 where the field holds no bytes."""
    while at < end:
        key, at = _varint(content, at, end)
        field, wire, value, first, last = key >> 3, key & 7, 0, at, -1
        if wire == 0:
            value, at = _varint(content, at, end)
        elif wire == 2:
            value, first = _varint(content, at, end)
            at = last = first + value
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise _Malformed("no protobuf message")
        if at > end or field == 0:
            raise _Malformed("cut off, or no protobuf message")
        yield field, value, first, last


def _varint(content: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _Malformed("cut off, or no protobuf message")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed("no protobuf message")
