"""Build probpose_msgs into this virtual environment, on the ROS wheels of PyPI (no ROS installation needed).

Run with the environment's own python: ``.venv/bin/python probpose_msgs/build_with_wheels.py``.
colcon installs into the environment itself, where the wheels keep their own message packages. So its python imports
``probpose_msgs.msg`` without sourcing anything: the wheels' start-up hook puts ``<prefix>/lib`` on the library path.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

PREFIX = Path(sys.prefix)
PACKAGE = Path(__file__).resolve().parent
SCRATCH = PACKAGE.parent / ".colcon" / PREFIX.name


def use_own_paths() -> None:
    """The wheels' exported CMake files carry the paths of the machine that built them; put ours in their place.

    They name the headers of NumPy 2, too, which lie elsewhere in NumPy 1.
    """
    import numpy

    own = {"include": sysconfig.get_path("include"), "site-packages": sysconfig.get_path("platlib")}
    foreign = re.compile(r"/opt/python/cp3\d+-cp3\d+/(?:(include)/python3\.\d+|lib/python3\.\d+/(site-packages))")
    for file in PREFIX.glob("share/*/cmake/*.cmake"):
        text = file.read_text()
        ours = foreign.sub(lambda match: own[match[1] or match[2]], text)
        ours = re.sub(r"[^\";]*/numpy/_?core/include", numpy.get_include(), ours)
        if ours != text:
            file.write_text(ours)


def missing() -> list[str]:
    """The Debian packages of what is not there."""
    found = {tool: bool(shutil.which(tool)) for tool in ("cmake", "gcc", "g++", "make")}
    found["python3-dev"] = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return [package for package, there in found.items() if not there]


def build() -> int:
    """colcon build with the environment as the only underlay; returns colcon's exit status."""
    # Without the caller's ROS, and without the job server of a calling make.
    foreign = ("AMENT_", "CMAKE_", "COLCON_", "MAKE", "MFLAGS", "ROS_", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = str(PREFIX)
    environment["MAKEFLAGS"] = f"-j{os.cpu_count()}"  # else colcon waits for a low load
    environment["PATH"] = f"{PREFIX / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = [
        PREFIX / "bin/colcon", "--log-level", "error", "--log-base", SCRATCH / "log", "build", "--base-paths", PACKAGE,
        "--build-base", SCRATCH / "build", "--merge-install", "--install-base", PREFIX,
        "--cmake-args", "-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={sys.executable}", "--no-warn-unused-cli",
    ]  # fmt: skip
    return subprocess.run(command, env=environment, cwd=PACKAGE).returncode


if __name__ == "__main__":
    if sys.prefix == sys.base_prefix:
        sys.exit(f"{sys.executable} belongs to no virtual environment; use .venv/bin/python")
    if find_spec("rclpy") is None:
        version = platform.python_version()
        print(f"No ROS wheels for {platform.system()} {platform.machine()}, Python {version}: going on without ROS.")
        sys.exit()
    if packages := missing():
        sys.exit(f"The messages cannot be compiled; run: sudo apt install {' '.join(packages)}")
    use_own_paths()
    sys.exit(build())
