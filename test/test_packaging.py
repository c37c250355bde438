"""What other packages rely on: messages, package.xml, versions, entry points."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import matrix
import pytest
import yaml

import probpose_ros
from probpose_ros import cli
from probpose_ros.types import FrameState, KeypointState, RegionKind, TrackState

ROOT = Path(__file__).parents[1]

# The promises of the interface, field by field; a message may hold more.
PROMISED = {
    "PersonPoseArray": """std_msgs/Header header; uint64 sequence; uint8 state; uint32 image_width; uint32 image_height;
        string model; string calibration_id; float32 processing_ms; float32 age_ms; float32[] levels;
        PersonPose[] people""",
    "PersonPose": """int32 id; uint8 track_state; float32 score; float32[4] bbox; float32[4] window;
        Keypoint[17] keypoints""",
    "Keypoint": """uint8 id; float32 x; float32 y; float32 presence; float32 visibility; float32 quality;
        float32[3] covariance; uint8 state; Region[] regions""",
    "Region": """float32 level; uint8 kind; bool valid; float32 x; float32 y; float32 semi_major; float32 semi_minor;
        float32 theta; float32 area; geometry_msgs/Point32[] polygon""",
    "ZoneArray": """std_msgs/Header header; uint8 state; float32 level; uint8 kind; float32 delta; float32 age_ms;
        float32 assumed_speed; builtin_interfaces/Time valid_until; geometry_msgs/Point32[] observed_area;
        Zone[] zones""",
    "Zone": "int32 person_id; geometry_msgs/Point32[] polygon; geometry_msgs/Point32[] points",
    "SkeletonInfo": "string[] names; uint8[] edges; float32[] sigmas; string model; string calibration_id",
    "Status": """uint8 state; uint64 sequence; float32 age_ms; uint64 dropped; string calibration_hash;
        string model_hash""",
}
# The same numbers in messages and in Python. Zone has no person-less state, so it leaves that number out.
ENUMS = {
    "PersonPoseArray": {"": FrameState},
    "PersonPose": {"": TrackState},
    "Keypoint": {"": KeypointState},
    "Region": {"": RegionKind},
    "ZoneArray": {"": FrameState, "KIND_": RegionKind},
    "Status": {"": FrameState},
}


def read_message(name: str) -> tuple[dict[str, str], dict[str, int]]:
    """Fields (name -> type) and constants (name -> value) of a .msg file."""
    fields, constants = {}, {}
    for line in (ROOT / f"probpose_msgs/msg/{name}.msg").read_text().splitlines():
        if match := re.match(r"(\S+)\s+(\w+)\s*(?:=\s*(\d+))?\s*(?:#|$)", line.split("#")[0]):
            if match[3] is None:
                fields[match[2]] = match[1]
            else:
                constants[match[2]] = int(match[3])
    return fields, constants


@pytest.mark.parametrize("name", PROMISED)
def test_messages_keep_their_promised_fields(name: str) -> None:
    fields, _ = read_message(name)
    promised = dict(reversed(field.split()) for field in PROMISED[name].split(";"))
    assert promised.items() <= fields.items()


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "probpose_msgs/msg").glob("*.msg")))
def test_message_rules(name: str) -> None:
    fields, constants = read_message(name)
    assert not [field for field in fields if "free" in field.lower()], "no field may mean that space is free"
    enums = {field for field in fields if field in ("state", "kind", "track_state", "range_source")}
    zeros = {constant for constant, value in constants.items() if value == 0}
    assert all(constant.endswith("UNKNOWN") for constant in zeros)
    assert len(zeros) == len(enums), f"every state has its own UNKNOWN = 0: {enums} against {zeros}"
    assert f"msg/{name}.msg" in (ROOT / "probpose_msgs/CMakeLists.txt").read_text()


@pytest.mark.parametrize("name", ENUMS)
def test_message_constants_are_the_enums_of_types(name: str) -> None:
    _, constants = read_message(name)
    expected = {prefix + item.name: item.value for prefix, enum in ENUMS[name].items() for item in enum}
    assert constants == expected


@pytest.mark.ros
def test_built_messages_are_these_files() -> None:
    messages = pytest.importorskip("probpose_msgs.msg", reason="probpose_msgs is not built here")
    for file in (ROOT / "probpose_msgs/msg").glob("*.msg"):
        fields, constants = read_message(file.stem)
        built = getattr(messages, file.stem)
        assert list(built.get_fields_and_field_types()) == list(fields), "build probpose_msgs again: make test"
        assert {name: getattr(built, name) for name in constants} == constants


def package_xml(folder: str) -> ElementTree.Element:
    return ElementTree.parse(ROOT / folder / "package.xml").getroot()


def test_package_xml_names_what_the_package_imports() -> None:
    root = package_xml(".")
    keys = {element.text for element in root if element.tag.endswith("depend")}
    assert {"python3-numpy", "python3-opencv", "python3-onnxruntime-pip", "python3-scipy", "python3-yaml"} <= keys
    text = "\n".join(file.read_text() for file in [*(ROOT / "probpose_ros").rglob("*.py"), *ROOT.glob("launch/*.py")])
    imported = set(re.findall(r"^ *(?:from|import) (rclpy|launch|launch_ros|\w+_msgs|\w+_interfaces)\b", text, re.M))
    optional = {"vision_msgs", "hri_msgs", "foxglove_msgs"}  # used only where they are installed
    assert imported - optional <= keys
    for folder, kind in ((".", "ament_python"), ("probpose_msgs", "ament_cmake")):
        assert package_xml(folder).findtext("export/build_type") == kind
        assert package_xml(folder).findtext("license") == "Apache-2.0"


def test_one_version_everywhere() -> None:
    setup_version = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text())
    assert setup_version
    versions = {package_xml(".").findtext("version"), package_xml("probpose_msgs").findtext("version")}
    assert versions | {setup_version[1]} == {probpose_ros.__version__}


@pytest.mark.parametrize("folder", [".", "probpose_msgs"])
def test_changelog_is_what_the_release_tools_read(folder: str) -> None:
    """Its newest version is the package's; what is above that, under Forthcoming, they skip."""
    changelog = pytest.importorskip("catkin_pkg.changelog", reason="catkin_pkg is not installed")
    log = changelog.get_changelog_from_path(str(ROOT / folder), package_xml(folder).findtext("name"))
    newest, _, entries = next(log.foreach_version())
    assert newest == probpose_ros.__version__ and entries


def test_every_command_exists_and_adds_its_parser(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {entry_point.name for entry_point in entry_points(group=cli.GROUP)}
    assert {"run", "doctor", "train"} <= commands, "install the package: pip install -e ."
    for entry_point in entry_points(group=cli.GROUP):
        file = entry_point.module.replace("probpose_training", "training").replace(".", "/") + ".py"
        assert (ROOT / file).is_file(), f"setup.py lists the command {entry_point.name} but there is no {file}"
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "not available" not in capsys.readouterr().out


def test_a_wrong_input_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "no/such/file.png"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("probpose: error: ") and "no/such/file.png" in error and error.count("\n") == 1


def test_a_command_with_a_missing_library_stays_in_the_list(tmp_path: Path) -> None:
    (tmp_path / "far.py").write_text("import no_such_library\n")
    info = tmp_path / "far-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[probpose.commands]\nfar-away = far:register\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from probpose_ros.cli import main; sys.exit(main())"

    def probpose(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)

    assert re.search(r"far-away +not available: No module named\s+'no_such_library'", probpose("--help").stdout)
    called = probpose("far-away", "--some", "thing", "--help")
    assert called.returncode == 2 and "No module named 'no_such_library'" in called.stderr
    assert "Traceback" not in called.stderr


def test_the_run_time_starts_without_torch_and_without_ros() -> None:
    code = "import sys, probpose_ros; probpose_ros.Pipeline; print({'torch', 'rclpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_the_linters_of_pre_commit_are_those_of_make_lint() -> None:
    hooks = [
        hook
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
    ]
    pinned = (ROOT / "requirements/test.txt").read_text().splitlines()
    used = {package for hook in hooks for package in hook.get("additional_dependencies", [])}
    assert used and used <= set(pinned)
    assert {"ruff-check", "ruff-format", "mypy"} <= {hook["id"] for hook in hooks}


def test_the_workflows_call_what_is_there() -> None:
    """actionlint checks their language; this, that commands and Pythons are the package's."""
    text = "\n".join(file.read_text() for file in (ROOT / ".github/workflows").glob("*.yml"))
    targets = set(re.findall(r"^([\w./-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M))
    called = set(re.findall(r"run: make ([\w./-]+)", text))
    assert {"test", "test-matrix", "docs"} <= called <= targets
    pythons = {python for python, _ in matrix.ROWS.values()}
    assert set(re.findall(r'"(3\.\d+)"', text)) <= pythons and "[humble, jazzy]" in text
    assert set(re.findall(r"row: (\w+)", text)) <= set(matrix.ROWS)
    for file in (ROOT / ".github/workflows").glob("*.yml"):
        pushed = yaml.safe_load(file.read_text())[True]["push"]  # YAML 1.1 reads "on" as true
        assert pushed == {"branches": ["main"], "tags": ["[0-9]+.[0-9]+.[0-9]+"]}, "docs/release.md: tags are tested"


def test_package_xml_names_only_what_rosdep_knows() -> None:
    """The keys are those looked up in rosdistro (base.yaml, python.yaml, the lists of Humble and Jazzy)."""
    known = {
        "python3-hypothesis", "python3-numpy", "python3-onnxruntime-pip", "python3-opencv", "python3-pytest",
        "python3-scipy", "python3-skimage", "python3-tqdm", "python3-yaml",
    }  # fmt: skip
    keys = {element.text or "" for element in package_xml(".") if element.tag.endswith("depend")}
    assert {key for key in keys if key.startswith("python3-")} <= known
    own = {name for name in keys if name.endswith(("_msgs", "_interfaces"))} | {"rclpy"}
    assert keys - known - own == {"launch", "launch_ros", "launch_testing"}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_names_the_pythons_it_takes(tmp_path: Path) -> None:
    """Another Python is told at once, not by pip, which finds no versions for it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements").mkdir()
    for name in ("demo.txt", "ros.txt"):
        (tmp_path / "requirements" / name).touch()
    for version, told in (("(3, 9, 1)", "Python 3.9: must be 3.10 to 3.13"), ("(3, 14, 0)", "Python 3.14: must be")):
        code = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
        (tmp_path / "python").write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$2\"\n")
        (tmp_path / "python").chmod(0o755)
        command = ["make", "PYTHON=./python", ".venv/.requirements"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode and told in done.stderr and not (tmp_path / ".venv").exists()


def test_a_missing_compiler_is_named_with_its_package(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="without ROS wheels nothing is compiled")
    if sys.prefix == sys.base_prefix:
        pytest.skip("messages are built in virtual environments only")
    command = [sys.executable, str(ROOT / "probpose_msgs/build_with_wheels.py")]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "sudo apt install cmake gcc g++ make" in done.stderr


def test_the_pytest_plugins_of_ros_are_off() -> None:
    """launch_testing's plugin imports test files itself: one that skips itself ended the collection with 0 tests."""
    options = re.search(r'^addopts = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert options and "-p no:launch_testing -p no:launch_ros" in options[1]
