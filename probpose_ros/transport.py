"""Environment of a process that sends or receives images over Fast DDS. For launch and demo; knows no ROS."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

SEGMENT_BYTES = 64 * 2**20  # as in config/fastdds_shm.xml
SMALLEST_SEGMENT = 4 * 2**20  # four 640x480 images
PROCESSES = 8  # that may share /dev/shm; each has a segment of its own, and one that finds no room is killed (SIGBUS)

# glibc gives memory of the size of an image back to the kernel at once and pays for it again with every message;
# with these it keeps it: half the latency at 1080p.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TOP_PAD_": str(32 * 2**20),
}


def share_file(relative: str) -> Path:
    """A file of this package's share folder: in the checkout, a ROS workspace or the Python environment."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    folders = [Path(__file__).parents[1], *(prefix / "share/probpose_ros" for prefix in [*prefixes, Path(sys.prefix)])]
    for folder in folders:
        if (folder / relative).is_file():
            return folder / relative
    raise FileNotFoundError(f"{relative} is not in {', '.join(map(str, folders))}: is the package installed?")


def transport_environment(shm: str = "/dev/shm") -> dict[str, str]:
    """Variables to add. What the user has set stays; without room in shared memory Fast DDS keeps its own profile."""
    variables = dict(MALLOC)
    remove_dead_segments(shm)
    room = shutil.disk_usage(shm).free if os.path.isdir(shm) else 0
    segment = min(SEGMENT_BYTES, room // PROCESSES)
    if segment >= SMALLEST_SEGMENT:
        profile = str(_profile(segment))
        variables["FASTDDS_DEFAULT_PROFILES_FILE"] = variables["FASTRTPS_DEFAULT_PROFILES_FILE"] = profile
    return {name: value for name, value in variables.items() if name not in os.environ}


def remove_dead_segments(shm: str = "/dev/shm", older_than: float = 10.0) -> int:
    """Frees the shared memory of processes that were killed, 64 MiB each; how many there were.

    Fast DDS leaves them lying until /dev/shm is full. Each has a lock file, which its owner holds while it lives.
    """
    removed = 0
    for lock in Path(shm).glob("fastrtps_" + "[0-9a-f]" * 16 + "_el"):
        try:
            with open(lock, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.stat(lock).st_mtime > older_than:  # a younger one may not have been locked yet
                    lock.with_name(lock.name[: -len("_el")]).unlink(missing_ok=True)
                    lock.unlink()
                    removed += 1
        except OSError:  # alive, of another user, or removed by another process just now
            continue
    return removed


def _profile(segment: int) -> Path:
    """The Fast DDS profile; a copy with smaller segments where /dev/shm is small (64 MB in a container, say)."""
    shipped = share_file("config/fastdds_shm.xml")
    if segment == SEGMENT_BYTES:
        return shipped
    with tempfile.NamedTemporaryFile("w", prefix="fastdds_shm_", suffix=".xml", delete=False) as copy:
        copy.write(shipped.read_text(encoding="utf-8").replace(str(SEGMENT_BYTES), str(segment)))
    return Path(copy.name)
