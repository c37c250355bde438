"""Build probpose_msgs into this virtual environment, on the ROS wheels of PyPI (no ROS installation needed).

Run with the environment's own python: ``.venv/bin/python probpose_msgs/build_with_wheels.py``.
colcon installs into the environment itself, where the wheels put their own message packages. So ``import probpose_msgs.msg``
works in its python without sourcing anything: the wheels' start-up hook already has ``<prefix>/lib`` on the library path.
"""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

PREFIX = Path(sys.prefix)
PACKAGE = Path(__file__).resolve().parent
SCRATCH = PACKAGE.parent / ".colcon"


def use_own_paths() -> None:
    """The wheels' exported CMake files carry the paths of the machine that built them; put ours in their place."""
    own = {"include": sysconfig.get_path("include"), "site-packages": sysconfig.get_path("platlib")}
    foreign = re.compile(r"/opt/python/cp3\d+-cp3\d+/(?:(include)/python3\.\d+|lib/python3\.\d+/(site-packages))")
    for file in PREFIX.glob("share/*/cmake/*.cmake"):
        text = file.read_text()
        ours = foreign.sub(lambda match: own[match[1] or match[2]], text)
        if ours != text:
            file.write_text(ours)


def build() -> int:
    """colcon build with the environment as the only underlay; returns colcon's exit status."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ROS_", "COLCON_"))}
    environment.update(
        AMENT_PREFIX_PATH=str(PREFIX),
        CMAKE_PREFIX_PATH=str(PREFIX),
        PATH=f"{PREFIX / 'bin'}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH="",
    )
    command = [
        str(PREFIX / "bin" / "colcon"), "--log-base", str(SCRATCH / "log"), "build",
        "--base-paths", str(PACKAGE), "--build-base", str(SCRATCH / "build"),
        "--merge-install", "--install-base", str(PREFIX), "--event-handlers", "console_cohesion+",
        "--cmake-args", "-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={sys.executable}", "--no-warn-unused-cli",
    ]  # fmt: skip
    return subprocess.run(command, env=environment, cwd=PACKAGE, check=False).returncode


if __name__ == "__main__":
    if sys.prefix == sys.base_prefix:
        sys.exit(f"{sys.executable} belongs to no virtual environment; use .venv/bin/python")
    use_own_paths()
    sys.exit(build())
