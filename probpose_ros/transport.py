"""Environment of a process that sends or receives images over Fast DDS. For launch and demo; knows no ROS."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

SEGMENT_BYTES = 64 * 2**20  # as in config/fastdds_shm.xml
PROCESSES = 4  # that share /dev/shm; each has its own segment

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
    if room >= PROCESSES * SEGMENT_BYTES:
        profile = str(share_file("config/fastdds_shm.xml"))
        variables["FASTDDS_DEFAULT_PROFILES_FILE"] = variables["FASTRTPS_DEFAULT_PROFILES_FILE"] = profile
    return {name: value for name, value in variables.items() if name not in os.environ}
