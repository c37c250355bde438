"""Shared memory of processes that were killed is freed, and only theirs."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from probpose_ros.transport import remove_dead_segments


def segment(folder: Path, digit: str, age: float = 60.0) -> Path:
    """A segment and its lock file, as Fast DDS makes them."""
    made = folder / f"fastrtps_{digit * 16}"
    made.write_bytes(b"data")
    lock = folder / f"{made.name}_el"
    lock.touch()
    os.utime(lock, (time.time() - age,) * 2)
    return made


def test_only_segments_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead, alive, young = segment(tmp_path, "a"), segment(tmp_path, "b"), segment(tmp_path, "c", age=0.0)
    others = [tmp_path / name for name in ("fastrtps_port7411", "fastrtps_port7411_el", "something_else_el")]
    for other in others:
        other.touch()
        os.utime(other, (0, 0))
    with open(tmp_path / f"{alive.name}_el") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert remove_dead_segments(str(tmp_path)) == 1
    assert not dead.exists() and not (tmp_path / f"{dead.name}_el").exists()
    assert alive.exists() and young.exists() and all(other.exists() for other in others)


def test_no_shared_memory_is_no_error() -> None:
    assert remove_dead_segments("/nowhere") == 0
