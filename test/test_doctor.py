"""Whatever is wrong with a machine, `probpose doctor` says how to put it right."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest

from probpose_ros.commands import doctor


def test_every_finding_has_its_fix_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(importlib, "import_module", gone)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    findings = [finding for finding in doctor.examine() if not finding.ok]
    assert {finding.name for finding in findings} >= set(doctor.MODULES) | {
        "detector",
        "pose model",
        "GPU",
    }
    for finding in findings:
        assert finding.found and finding.fix, finding
    assert {finding.name for finding in findings if finding.needed} == {
        "numpy", "cv2", "onnxruntime", "scipy", "tqdm", "detector", "pose model"
    }  # fmt: skip


def test_too_old_a_library_and_too_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"numpy": "1.19.5", "cv2": "4.5.4", "scipy": "1.8.0"}
    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(__version__=versions[name]))
    old = doctor._module("numpy", *doctor.MODULES["numpy"])
    assert not old.ok and "1.19.5: older than 1.21" in old.found and old.fix == "pip install --upgrade numpy"
    assert doctor._module("cv2", *doctor.MODULES["cv2"]).ok
    scipy = doctor._module("scipy", *doctor.MODULES["scipy"])  # Humble's: enough for the node
    assert not scipy.ok and not scipy.needed and "1.8.0: older than 1.12, which probpose calibrate needs" in scipy.found
    small = doctor._shared_memory(64 * 2**20)
    assert not small.ok and "64 MiB" in small.found and "--shm-size" in small.fix
    assert doctor._shared_memory(2**30).ok


def test_a_broken_library_is_not_called_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: str) -> None:
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert "libGL.so.1" in doctor._module("cv2", *doctor.MODULES["cv2"]).found


def test_a_fix_is_what_can_be_typed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/somewhere/.venv")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    assert doctor.here("PATH=/x:$PATH pip install a") == "PATH=/x:$PATH /somewhere/.venv/bin/pip install a"
    assert doctor.here("sudo apt install ros-$ROS_DISTRO-a").endswith("setup.bash first)")
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere/.venv")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    for fix in ("pip install a", "sudo apt install ros-$ROS_DISTRO-a", "apt install python3-pip"):
        assert doctor.here(fix) == fix
