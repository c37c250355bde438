"""Commands that documents only mention, or that cannot run here, are at least commands: names and options exist."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from test_defaults import LAUNCH_ONLY, options
from test_docs import COMMANDS, FENCE, PAGES, ROOT, blocks, page_ids

from probpose_ros.cli import make_parser

PARSERS = next(a.choices for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
EXECUTABLES = set(re.findall(r'f"(\w+) = \{NAME\}', (ROOT / "setup.py").read_text(encoding="utf-8")))
SOURCES = {"probpose_ros": ROOT / "probpose_ros", "probpose_training": ROOT / "training"}


def command_lines(page: Path) -> list[str]:
    """Of the blocks, and of the text between them (`in backquotes`); one line each, without comments."""
    shell = [block.text for block in blocks(page) if block.language in COMMANDS - {"python"}]
    lines = [line for text in shell for line in text.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text(encoding="utf-8")))
    cut = [re.sub(r"\s#.*", "", " ".join(line.split())) for line in lines]
    return [part.strip() for line in cut for part in re.split(r"&&|\|\||;| \| (?=[a-z])|\$\(", line)]


def check(line: str) -> str | None:
    """What is wrong with a command of this package; None also for all other commands."""
    words = [word.strip("[]()") for word in line.split()]
    words[:1] = [Path(words[0]).name] if words else []
    if words[:3] == ["ros2", "launch", "probpose_ros"]:
        arguments = {word.partition(":=")[0] for word in words if ":=" in word}
        return f"no launch arguments {wrong}" if (wrong := arguments - set(options()) - LAUNCH_ONLY) else None
    if words[:3] == ["ros2", "run", "probpose_ros"]:
        if words[3] not in EXECUTABLES:
            return f"no executable {words[3]}"
        words = words[3:] if words[3] == "probpose" else []
    given = {re.split(r"[=\]]", word)[0] for word in words if re.match(r"--[a-z]", word)}
    if words[:1] == ["probpose"] and len(words) > 1 and re.fullmatch(r"[a-z][a-z-]+", words[1]):
        if words[1] not in PARSERS:
            return f"no command {words[1]}"
        parser = PARSERS[words[1]]
        if parser.prefix_chars == "\0":  # its library is missing here
            return None
        known = {name for action in parser._actions for name in action.option_strings}
        return f"no options {given - known}" if given - known else None
    if words[:1] and re.fullmatch(r"python3?", words[0]) and len(words) > 1:
        module = words[2] if words[1] == "-m" else ""
        if module.partition(".")[0] in SOURCES:
            path = SOURCES[module.partition(".")[0]].joinpath(*module.split(".")[1:])
            file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        elif words[1].endswith(".py") and "/" in words[1]:
            file = ROOT / words[1]
        elif module.partition(".")[0] == "bench":
            file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        else:
            return None
        if not file.is_file():
            return f"there is no {file.name}"
        text = file.read_text(encoding="utf-8")
        wrong = {option for option in given - {"--help", "--ros-args"} if not re.search(rf'"(--)?{option[2:]}"', text)}
        return f"no options {wrong}" if wrong else None
    return None


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_commands_and_options_exist(page: Path) -> None:
    wrong = {line: problem for line in command_lines(page) if (problem := check(line))}
    assert not wrong


@pytest.mark.parametrize(
    "line",
    [
        "probpose rum photo.jpg", "probpose run photo.jpg --modle x", ".venv/bin/probpose run [--modle x]",
        "ros2 launch probpose_ros pose.launch.py modle:=x", "ros2 run probpose_ros pose",
        "ros2 run probpose_ros probpose evaluate --image x", "python -m probpose_ros.demo --bags mcap",
        "python -m probpose_training.nothing", "python bench/nothing.py",
    ],
)  # fmt: skip
def test_a_wrong_one_is_found(line: str) -> None:
    if "evaluate" in line and importlib.util.find_spec("probpose_training") is None:
        pytest.skip("training is not installed")
    assert check(line)


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_parameters_of_the_node_exist(page: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml" and "ros__parameters" in block.text:
            parameters = yaml.safe_load(block.text).get("/**", {}).get("ros__parameters", {})
            assert set(parameters) <= set(options())
