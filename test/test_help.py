"""``--help`` teaches: every command says what it does, every option what it is for, and every example parses."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest

from probpose_ros.cli import main, make_parser


def commands() -> dict[str, argparse.ArgumentParser]:
    return next(action.choices for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))  # type: ignore[return-value]


COMMANDS = commands()


def available(name: str) -> argparse.ArgumentParser:
    if COMMANDS[name].prefix_chars == "\0":
        pytest.skip(f"probpose {name} is not available here: a library is missing")
    return COMMANDS[name]


def examples(parser: argparse.ArgumentParser) -> list[str]:
    """The command lines below ``examples:`` in the help as it is printed."""
    text = parser.format_help().partition("examples:\n")[2].partition("\n\n")[0].replace("\\\n", " ")
    return [line.strip() for line in text.splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself(name: str) -> None:
    parser = available(name)
    assert parser.description and parser.description[0].isupper()
    unexplained = [action.dest for action in parser._actions if not action.help]
    assert not unexplained, f"probpose {name}: no help for {', '.join(unexplained)}"
    assert any(line.startswith(f"probpose {name}") for line in examples(parser))
    text = parser.format_help()
    assert "%%" not in text and "(one of ," not in text and "default: )" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for line in examples(available(name)):
        words = shlex.split(line, comments=True)
        words = words[: words.index(">")] if ">" in words else words
        assert words[0] == "probpose", line
        try:
            make_parser().parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"{line}\n{capsys.readouterr().err}")


def test_first_steps_are_commands() -> None:
    help = make_parser().format_help()
    assert all(f"probpose {word}" in help for word in ("doctor", "run photo.jpg", "COMMAND --help"))


def test_paragraphs_follow_the_width_and_examples_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = COMMANDS["doctor"].format_help()
    assert max(map(len, text.splitlines())) <= 60
    assert "\n  probpose doctor" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "nothing.jpg"], "nothing.jpg: no such file, folder or camera index"),
        (["run", "{empty}"], "no images in this folder"),
        (["train", "--config", "{recipe}"], "network.widths = 3: must be a list"),
        (["import-checkpoint", "{text}", "--out", "{empty}"], "not a file of plain tensors (torch cannot read it)"),
        (["export", "{text}", "--out", "a.onnx"], "pickled objects are never loaded"),
        (["build-engine", "nix", "--dry-run"], "model 'nix' is not bundled"),
        (["evaluate", "--annotations", "{text}", "--images", "{empty}", "--out", "{empty}"], "not JSON"),
        (["calibrate", "--annotations", "a.json", "--images", "a", "--out", "b.json"], "must end in .calibration.json"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    available(words[0])
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "recipe.yaml").write_text("task: pose\nnetwork: {widths: 3}\ndata: {root: .}\n")
    (tmp_path / "empty").mkdir()
    places = {"text": tmp_path / "text.pth", "recipe": tmp_path / "recipe.yaml", "empty": tmp_path / "empty"}
    assert main([word.format(**places) for word in words]) == 2
    error = capsys.readouterr().err
    if "`probpose doctor` shows what is missing" in error and told not in error:
        pytest.skip(error.splitlines()[0])  # training is not installed here
    assert error.startswith("probpose: error: ") and told in error and error.count("\n") == 1
