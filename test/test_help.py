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
        (["export", "{model}", "--check", "tensorrt"], "cannot load it as an ONNX model"),
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
    (tmp_path / "model.onnx").write_text("hello")
    files = {"text": "text.pth", "recipe": "recipe.yaml", "empty": "empty", "model": "model.onnx"}
    places = {name: tmp_path / file for name, file in files.items()}
    assert main([word.format(**places) for word in words]) == 2
    error = capsys.readouterr().err
    if "`probpose doctor` shows what is missing" in error and told not in error:
        pytest.skip(error.splitlines()[0])  # training is not installed here
    assert error.startswith("probpose: error: ") and told in error and error.count("\n") == 1


def test_an_existing_file_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2
    import numpy as np

    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "out").write_text("a file")
    assert main(["run", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"probpose: error: {tmp_path / 'out'}: exists already; choose another name\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "photo.jpg", "--modle", "x"], "not understood: --modle x; did you mean --model? (probpose run --help"),
        (["run", "a.jpg", "b.jpg"], "not understood: b.jpg (probpose run --help shows what is)"),
        (["doctor", "--fix=all"], "not understood: --fix=all (probpose doctor --help shows what is)"),
    ],
)
def test_what_a_command_does_not_know_is_told_by_the_command(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and told in error and error.startswith(f"probpose {words[0]}: error: ")
    assert error.count("\n") == 1
