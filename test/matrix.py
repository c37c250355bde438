"""``make test-matrix``: the run time's tests on every supported Python, with the NumPy and OpenCV of each ROS release.

Every row gets an environment of its own, .venv-NAME, without torch, so the tests of training are left out there. A
Python that this machine lacks is named and skipped; the exit status is 1 if any row failed, or if none could run.
``python test/matrix.py [NAME ...] [-- PYTEST_ARGS]`` runs some rows only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# name: Python, and what differs from requirements/*.txt. Humble is Ubuntu 22.04 and Jazzy 24.04, with the NumPy, OpenCV
# and SciPy of their apt, as near as wheels exist; the rest follows from that NumPy.
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "humble": (
        "3.10",
        ("numpy==1.21.6", "opencv-python-headless==4.5.4.60", "scipy==1.8.0", "scikit-image==0.19.3", "onnx==1.15.0"),
    ),
    "jazzy": (
        "3.12",
        ("numpy==1.26.4", "opencv-python-headless==4.6.0.66", "scipy==1.11.4", "scikit-image==0.22.0"),
    ),
    "3.10": ("3.10", ()),
    "3.11": ("3.11", ()),
    "3.12": ("3.12", ()),
    "3.13": ("3.13", ()),
}
TEST_TOOLS = ("hypothesis", "mcap", "mcap-ros2-support", "onnx", "pytest", "rosbags")  # of requirements/test.txt


def main(argv: list[str]) -> int:
    names, pytest_args = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    if unknown := set(names) - set(ROWS):
        sys.exit(f"matrix: {', '.join(sorted(unknown))}: must be of {', '.join(ROWS)}")
    outcome: dict[str, str] = {}
    for name in names or ROWS:
        python, overrides = ROWS[name]
        interpreter = find_python(python)
        if interpreter is None:
            outcome[name] = f"skipped: no python{python} on this machine"
            continue
        print(f"== {name}: Python {python} {' '.join(overrides)}", flush=True)
        began = time.monotonic()
        try:
            outcome[name] = run_row(ROOT / f".venv-{name}", interpreter, overrides, pytest_args)
        except subprocess.CalledProcessError as error:
            outcome[name] = f"FAILED: {' '.join(map(str, error.cmd[:6]))} ... exit {error.returncode}"
        outcome[name] += f" ({time.monotonic() - began:.0f} s)"
    print("\n".join(["", *(f"{name:8} {said}" for name, said in outcome.items())]))
    ran = [said for said in outcome.values() if not said.startswith("skipped")]
    return int(not ran or any(said.startswith("FAILED") for said in ran))


def find_python(version: str) -> str | None:
    """python3.X on the PATH, of this very process, or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*sorted(pyenv.glob(f"{version}.*/bin/python{version}")), shutil.which(f"python{version}"), sys.executable]
    for candidate in filter(None, found):
        done = subprocess.run(
            [candidate, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"], capture_output=True
        )
        if done.stdout.decode().strip() == version:
            return str(candidate)
    return None


def run_row(environment: Path, interpreter: str, overrides: tuple[str, ...], pytest_args: list[str]) -> str:
    """Installs what is not there yet and runs the tests; what to say of them."""
    python = environment / "bin/python"
    wanted = requirements(overrides)
    stamp = environment / ".installed"
    if not stamp.is_file() or stamp.read_text() != wanted:
        subprocess.run([interpreter, "-m", "venv", "--clear", environment], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(wanted)
            file.flush()
            subprocess.run([*pip, "-r", file.name], check=True)
        subprocess.run([*pip, "--no-build-isolation", "--no-deps", "--editable", ROOT], check=True)
        stamp.write_text(wanted)
    subprocess.run([python, ROOT / "probpose_msgs/build_with_wheels.py"], check=True)
    versions = "import sys, numpy, cv2; print(f'numpy {numpy.__version__}, OpenCV {cv2.__version__}')"
    found = subprocess.run([python, "-c", versions], check=True, capture_output=True, text=True).stdout.strip()
    tests = subprocess.Popen([python, "-m", "pytest", "-q", *pytest_args], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    last = ""
    for line in tests.stdout or ():
        print(line, end="", flush=True)
        last = line.strip() or last
    return f"{'FAILED' if tests.wait() else 'passed'}: {found}: {last.strip('= ')}"


def requirements(overrides: tuple[str, ...]) -> str:
    """demo.txt, ros.txt and the tools of test.txt, with the overrides in place of the pins."""
    replaced = {re.split("==", line)[0] for line in overrides}
    lines = [*overrides]
    for file in ("demo", "ros", "test"):
        for line in (ROOT / f"requirements/{file}.txt").read_text().splitlines():
            package = re.split(r"[=\[; ]", line)[0]
            if (
                line
                and not line.startswith("#")
                and package not in replaced
                and (file != "test" or package in TEST_TOOLS)
            ):
                lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
