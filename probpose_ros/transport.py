"""Environment of a process that sends or receives images over Fast DDS. For launch and demo; knows no ROS."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
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
    room = shutil.disk_usage(shm).free if os.path.isdir(shm) else 0
    segment = min(SEGMENT_BYTES, room // PROCESSES)
    if segment >= SMALLEST_SEGMENT:
        profile = str(_profile(segment))
        variables["FASTDDS_DEFAULT_PROFILES_FILE"] = variables["FASTRTPS_DEFAULT_PROFILES_FILE"] = profile
    return {name: value for name, value in variables.items() if name not in os.environ}


def _profile(segment: int) -> Path:
    """The Fast DDS profile; a copy with smaller segments where /dev/shm is small (64 MB in a container, say)."""
    shipped = share_file("config/fastdds_shm.xml")
    if segment == SEGMENT_BYTES:
        return shipped
    with tempfile.NamedTemporaryFile("w", prefix="fastdds_shm_", suffix=".xml", delete=False) as copy:
        copy.write(shipped.read_text(encoding="utf-8").replace(str(SEGMENT_BYTES), str(segment)))
    return Path(copy.name)
