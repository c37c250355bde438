"""`probpose run` and `probpose doctor`, through the command line's own parser."""

from __future__ import annotations

import argparse
import json
import sys

import cv2
import numpy as np
import pytest
from tensorrt_double import Machine
from tiny_models import person_image, write_tiny_detector, write_tiny_pose

from probpose_ros import models
from probpose_ros.commands import doctor, run
from probpose_ros.video import VideoWriter


def call(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers(required=True)
    run.register(subparsers)
    doctor.register(subparsers)
    args = parser.parse_args([str(argument) for argument in arguments])
    return args.run(args)


@pytest.fixture
def tiny(tiny_detector_model, tiny_pose_model) -> list[object]:
    return ["--detector", tiny_detector_model, "--model", tiny_pose_model, "--threads", 1]


@pytest.fixture
def picture(tmp_path):
    cv2.imwrite(str(tmp_path / "two.png"), person_image((40, 40, 100, 200), (200, 30, 260, 220)))
    return tmp_path / "two.png"


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "people.jsonl").read_text().splitlines()]


def test_picture(tiny, picture, tmp_path, capsys):
    assert call("run", picture, "--out", tmp_path / "out", *tiny) == 0
    (frame,) = lines(tmp_path / "out")
    assert len(frame["people"]) == 2 and frame["header"]["frame_id"] == "two.png" and frame["model"] == "tiny_pose"
    overlay = cv2.imread(str(tmp_path / "out/two.png"))
    assert overlay.shape == (240, 320, 3) and (overlay != cv2.imread(str(picture))).any()
    assert "images 1, people 2" in capsys.readouterr().out


def test_nobody_is_said_with_what_to_try(tiny, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "dark.png"), np.zeros((50, 60, 3), np.uint8))
    assert call("run", tmp_path / "dark.png", "--out", tmp_path / "out", *tiny, "--detector-threshold", "0.3") == 0
    said = capsys.readouterr()
    assert "images 1, people 0" in said.out and "nobody scored 0.3 or more: a lower --detector-threshold" in said.err


def test_folder_and_margin(tiny, picture, tmp_path):
    cv2.imwrite(str(tmp_path / "dark.jpg"), np.zeros((50, 60, 3), np.uint8))
    assert call("run", tmp_path, "--out", tmp_path / "out", "--margin", 0.5, *tiny) == 0
    assert [len(frame["people"]) for frame in lines(tmp_path / "out")] == [0, 2]
    assert cv2.imread(str(tmp_path / "out/dark.png")).shape == (110, 120, 3)


def test_video(tiny, tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", fps=10) as video:
        for i in range(8):
            video.write(person_image((40 + 4 * i, 40, 100 + 4 * i, 200)))
    assert call("run", tmp_path / "clip.mp4", "--out", tmp_path / "out", *tiny) == 0
    frames = lines(tmp_path / "out")
    assert [frame["sequence"] for frame in frames] == list(range(8))
    assert [frame["header"]["stamp"]["nanosec"] for frame in frames] == [i * 10**8 for i in range(8)]
    capture = cv2.VideoCapture(str(tmp_path / "out/clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    assert call("run", tmp_path / "clip.mp4", "--out", tmp_path / "few", "--max-frames", 3, *tiny) == 0
    assert len(lines(tmp_path / "few")) == 3


def test_json_on_standard_output(tiny, picture, tmp_path, capsys):
    assert call("run", picture, "--out", tmp_path / "out", "--json", *tiny) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines(tmp_path / "out")
    assert not (tmp_path / "out/two.png").exists()


def test_the_source_is_never_overwritten(tiny, picture):
    before = picture.read_bytes()
    with pytest.raises(ValueError, match="holds the source, which could be overwritten"):
        call("run", picture, "--out", picture.parent, *tiny)
    assert picture.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-people", 0], "max_people = 0: must be a whole number from 1 to 100"),
        (["--backend", "cuda"], "backend = 'cuda': must be one of"),
        (["--levels", 0.5, 2], "levels"),
        (["--margin", -1], "--margin -1.0: must be a number from 0 to 2"),
        (["--max-frames", 0], "--max-frames 0: must be at least 1"),
        (["--model", "nobody.onnx"], "nobody.onnx: no such model file"),
    ],
)
def test_bad_options(tiny, picture, tmp_path, arguments, words):
    with pytest.raises((ValueError, OSError), match=words):
        call("run", picture, "--out", tmp_path / "out", *tiny, *arguments)


def test_unreadable_source(tiny, tmp_path):
    with pytest.raises(OSError, match="gone.png: no such file"):
        call("run", tmp_path / "gone.png", *tiny)


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """A model folder with the default names."""
    write_tiny_detector(tmp_path / "person_detector.onnx")
    write_tiny_pose(tmp_path / "probpose_small.onnx")
    monkeypatch.setattr(models, "model_dirs", lambda: [tmp_path])


def test_doctor_when_all_is_well(bundled, capsys):
    assert call("doctor") == 0
    out = capsys.readouterr().out
    assert "probpose_small.onnx (tiny_pose, fp32" in out and "the runtime can run: probpose run photo.jpg" in out


def test_doctor_about_the_gpu(bundled, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PROBPOSE_ENGINES", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert call("doctor") == 0
    assert "fix: tensorrt cannot be imported" in capsys.readouterr().out
    for name, module in Machine().modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert call("doctor") == 0
    out = capsys.readouterr().out
    assert "Orin (sm_87, CUDA 12.6, TensorRT 10.3.0, 8192 MB)" in out
    for model in ("person_detector", "probpose_small"):
        assert f"probpose build-engine {tmp_path / model}.onnx --images DIR" in out


def test_doctor_without_models(monkeypatch, capsys):
    monkeypatch.setattr(models, "model_dirs", lambda: [])
    assert call("doctor") == 1
    out = capsys.readouterr().out
    assert "model 'person_detector' is not bundled" in out and "probpose fetch" in out
    assert "the runtime cannot run: detector, pose model" in out


def test_doctor_without_onnxruntime_and_torch(bundled, monkeypatch, capsys):
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)  # activated: its pip is the one that is typed
    monkeypatch.setitem(sys.modules, "torch", None)  # makes the import fail
    assert call("doctor") == 0
    assert "fix: make test, or in the repository: pip install -e .[training]" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert call("doctor") == 1
    out = capsys.readouterr().out
    assert "fix: pip install onnxruntime" in out and "the runtime cannot run: onnxruntime" in out


def test_pictures_with_one_stem_keep_their_own_overlays():
    names = ["a.jpg", "a.png", "b.jpg"]
    assert [run.overlay_name(name, names) for name in names] == ["a.jpg.png", "a.png.png", "b.png"]
    assert run.overlay_name("photo.jpg", None) == "photo.png"
