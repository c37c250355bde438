"""The node on TensorRT, over the doubles of test/tensorrt_double.py: GPU memory by lifecycle state, faults in sight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_bench import Bench, Status
from tensorrt_double import Machine, install
from tiny_models import person_image, write_tiny_pose

pytestmark = pytest.mark.ros

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402

from probpose_ros.cli import main  # noqa: E402
from probpose_ros.types import FrameState  # noqa: E402

PEOPLE = person_image((40, 30, 100, 200), (200, 40, 280, 220))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PROBPOSE_ENGINES", str(tmp_path / "engines"))
    return install(Machine(), monkeypatch)


@pytest.fixture
def models(machine: Machine, tmp_path: Path, tiny_detector_model: Path) -> tuple[Path, Path]:
    """Detector and pose model, each with an engine."""
    pose = write_tiny_pose(tmp_path / "pose.onnx")
    for model in (tiny_detector_model, pose):
        assert main(["build-engine", str(model), "--no-compare", "--max-people", "2"]) == 0
    return tiny_detector_model, pose


@pytest.fixture
def make(models: tuple[Path, Path]) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def start(**parameters: Any) -> Bench:
        made.append(Bench(*models, **{"stale_after": 10.0, **parameters}))
        return made[-1]

    yield start
    for bench in made:
        bench.close()


def holds_nothing(machine: Machine) -> bool:
    return not (machine.allocations or machine.pinned or machine.contexts or machine.retained or machine.graphs)


def diagnosis(bench: Bench, wanted: Callable[[DiagnosticStatus], bool]) -> DiagnosticStatus:
    """The first diagnosis from now on that is wanted."""
    bench.messages["/diagnostics"].clear()

    def found() -> list[DiagnosticStatus]:
        return [m.status[0] for m in bench.messages["/diagnostics"] if m.status and wanted(m.status[0])]

    return bench.until(found, "the diagnosis")[0]


def test_gpu_memory_follows_the_lifecycle(make: Callable[..., Bench], machine: Machine) -> None:
    bench = make(backend="tensorrt")
    bench.listen_to_results()
    bench.start()
    publisher, states = bench.publisher(), []
    for _ in range(3):
        people = bench.answer(publisher, bench.image(PEOPLE)).people
        states.append(np.array([[k.x, k.y] for person in people for k in person.keypoints]))
        assert len(people) == 2 and machine.contexts == 1 and machine.allocations
        assert bench.node.trigger_deactivate().name == "SUCCESS"
        assert holds_nothing(machine)
        assert bench.node.trigger_activate().name == "SUCCESS"
        bench.until(lambda: publisher.get_subscription_count() > 0, "the subscription")
    assert np.array_equal(states[0], states[1]) and np.array_equal(states[0], states[2])
    assert bench.node.trigger_deactivate().name == bench.node.trigger_cleanup().name == "SUCCESS"
    assert holds_nothing(machine) and machine.wrong_thread == 0


def test_an_engine_that_has_gone_keeps_the_node_inactive(
    make: Callable[..., Bench], machine: Machine, tmp_path: Path, capfd: Any
) -> None:
    bench = make(backend="tensorrt")
    bench.start()
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    sidecars = (tmp_path / "engines").glob("*.json")
    (file,) = (file.with_suffix(".engine") for file in sidecars if '"model": "pose.onnx"' in file.read_text())
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    assert bench.node.trigger_activate().name == "FAILURE"
    error = capfd.readouterr().err
    assert "cannot activate" in error and "cut off or replaced" in error and "rebuild it: " in error
    assert bench.node._state_machine.current_state[1] == "inactive" and holds_nothing(machine)
    file.write_bytes(content)
    assert bench.node.trigger_activate().name == "SUCCESS"


def test_a_stale_engine_is_in_status_and_diagnostics(
    make: Callable[..., Bench], models: tuple[Path, Path], machine: Machine
) -> None:
    write_tiny_pose(models[1], probmap=False)  # Another file of the same name.
    bench = make(backend="auto")
    bench.listen_to_results()
    bench.listen("/diagnostics", DiagnosticArray)
    bench.start()
    answer = bench.answer(bench.publisher(), bench.image(PEOPLE))
    assert answer.state == FrameState.OK and len(answer.people) == 2
    found = diagnosis(bench, lambda status: status.level == DiagnosticStatus.WARN)
    values = {value.key: value.value for value in found.values}
    assert "stale" in found.message and "probpose build-engine" in found.message
    assert "pose: onnxruntime; detector: tensorrt 10.3.0 fp16 (engine " in values["backend"]
    assert values["backend problem"] == found.message
    status: Status = bench.until(lambda: bench.messages["status"], "status")[-1]
    assert "stale" in status.message


@pytest.mark.parametrize("allowed", [True, False])
def test_a_lost_gpu(make: Callable[..., Bench], machine: Machine, capfd: Any, allowed: bool) -> None:
    """With allow_fallback the node goes on, with a warning; without it every frame is answered UNKNOWN."""
    bench = make(backend="tensorrt", allow_fallback=allowed)
    bench.listen_to_results()
    bench.listen("/diagnostics", DiagnosticArray)
    bench.start()
    publisher = bench.publisher()
    before = bench.answer(publisher, bench.image(PEOPLE))
    assert before.state == FrameState.OK
    machine.lost = "cuStreamSynchronize failed: unspecified launch failure"
    after = bench.answer(publisher, bench.image(PEOPLE))
    level = DiagnosticStatus.WARN if allowed else DiagnosticStatus.ERROR
    found = diagnosis(bench, lambda status: status.level == level)
    assert "unspecified launch failure" in found.message
    if allowed:
        assert after.state == FrameState.OK and len(after.people) == len(before.people) == 2
        assert "TensorRT is not used" in capfd.readouterr().err
    else:
        assert after.state == FrameState.UNKNOWN and not after.people
    machine.lost = ""  # For the clean-up.
