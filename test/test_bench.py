"""The bench: the published path says what ours says, ratios are those of rounds, every target has a row."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from probpose_ros.cli import main
from probpose_ros.codec import Codec
from probpose_training.bench import frames, report, timing
from probpose_training.bench.ros import missing


def test_published_decode_is_ours():
    pytest.importorskip("torch", reason="the published path needs torch")
    from probpose_training.bench.published import PublishedPath

    codec = Codec((192, 256), (48, 64), "reference")
    random = np.random.default_rng(0)
    maps = np.zeros((17, 64, 48), np.float32)
    for p, (x, y) in zip(maps, random.uniform([2, 2], [45, 61], (17, 2))):
        rows, columns = np.indices(p.shape)
        p[:] = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 4)
        p[p < 0.05] = 0
        p /= p.sum()
    points, scores = PublishedPath(None, codec).decode(maps)
    expected = codec.decode(maps)
    np.testing.assert_allclose(points, expected.keypoints, atol=2e-3)
    np.testing.assert_allclose(scores, expected.peak, atol=1e-6)


def test_published_network_is_ours():
    torch = pytest.importorskip("torch", reason="the published path needs torch")
    from test_export import random_model
    from test_network import REFERENCE, TINY

    from probpose_training.bench.published import PublishedPath
    from probpose_training.export import example_crops
    from probpose_training.graph import PoseGraph

    model, crops = random_model(TINY), example_crops(TINY.input_size, 2)
    points, scores, scalars = PublishedPath(model, REFERENCE)(crops)
    with torch.no_grad():
        ours = PoseGraph(model, REFERENCE)(torch.from_numpy(crops))
    for found, expected in zip(scalars, (ours.presence, ours.visibility, ours.quality)):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(scores, ours.peak, atol=1e-5)
    np.testing.assert_allclose(points, ours.keypoints, atol=0.05)


def test_rounds_and_ratios():
    def work(loops: int) -> None:
        sum(i * i for i in range(loops))

    cases = {"short": lambda: work(20_000), "long": lambda: work(200_000)}
    times = timing.interleave(cases, 0.5, threads=1, least=7)
    assert len(times["short"]) == len(times["long"]) >= 7
    found = timing.ratio(times, "long", "short")
    assert found["q25"] <= found["median"] <= found["q75"] and 4 < found["median"] < 25
    # Cases that take far longer than wanted are not repeated as often.
    assert len(timing.interleave({"sleep": lambda: time.sleep(0.1)}, 0.01)["sleep"]) == 1
    # One thread: sleeping costs no processor time.
    assert max(timing.interleave({"sleep": lambda: time.sleep(0.02)}, 0.0, threads=1)["sleep"]) < 15


def test_stages_of_whole_frames(tiny_detector_model, tiny_pose_model, monkeypatch):
    monkeypatch.setattr(frames, "PEOPLE", (1, 2))
    monkeypatch.setattr(frames, "CAMERAS", (2,))
    monkeypatch.setattr(frames, "SIZES", {"VGA": (640, 480)})
    found = frames.measure(str(tiny_pose_model), str(tiny_detector_model), 0.1, threads=1)
    assert list(found["people"]) == ["1", "2"] and list(found["size"]) == ["VGA"] and list(found["cameras"]) == ["2"]
    assert set(found["people"]["1"]) == {"detect", "crop", "pose", "regions", "frame"}


def test_every_target_has_a_row_and_says_what_is_missing(tmp_path, capsys):
    quartiles = {"median": 0.8, "q25": 0.7, "q75": 0.9}
    results = {
        "machine": {"cpu": "some", "cores": 2, "load_at_start": 0.1, "versions": {"python": "3"}, "date": "today"},
        "models": {"my_pose": "0123456789"},
        "networks": {"1 threads": {"ours / published": quartiles, "ms": {"ours": {"median": 1.0, "min": 0.9}}}},
        "transport": {"skipped": "rclpy is not here"},
        "node": {"result": {"share": 0.01}},
        "frames": {"people": {"1": {"detect": 1.0, "crop": 1.0, "pose": 1.0, "regions": 1.0, "frame": 4.0}}},
    }
    (tmp_path / "bench.json").write_text(json.dumps(results))
    assert main(["bench", "--from-json", "--out", str(tmp_path)]) == 0
    table = (tmp_path / "bench.md").read_text()
    assert all(f"| {target.name} |" in table for target in report.TARGETS) and "my_pose (01234567)" in table
    assert "| 0.8 (0.700 to 0.900) | 0.75 | **missed by 7%**" in table
    assert "| 0.01 | 0.02 | met |" in table
    assert "not measured: rclpy is not here" in table and "Not run: transport" in table
    results["transport"] = {
        "1080p lost": 3,
        "1080p ratio": 1.5,
        "sizes": {"VGA": {"a": {"sent": 2, "received": 0, "ms": None}}},
    }
    table = report.markdown(results)
    assert "| 3 | 0 | **missed**" in table and "| VGA | a | 0 of 2 |" in table and "| 1.5 | 2.5 | met |" in table
    assert (
        (tmp_path / "bench.png").stat().st_size > 5000 and "| 1 | 1.00 |" in table and "some" in capsys.readouterr().out
    )


def test_the_reason_of_a_miss_has_the_numbers_of_the_run():
    target = report.Target("a", 1.0, "node/x", "{node/ms | all} ms of {node/frame}, {node/gone}")
    row = target.row({"node": {"x": 2.0, "ms / all": {"median": 1.234}, "frame": 5.0}})
    assert "missed by 100%" in row and "1.23 ms of 5.00, ?" in row
    assert "?" not in target.row({"node": {"x": 0.5}})


def test_bad_options(tmp_path, capsys):
    assert main(["bench", "--seconds", "0", "--out", str(tmp_path)]) == 2
    assert "must be above 0" in capsys.readouterr().err


@pytest.mark.ros
@pytest.mark.skipif(bool(missing()), reason=missing() or "ROS is here")
def test_images_between_processes():
    import os

    from probpose_ros.transport import transport_environment
    from probpose_training.bench.ros import _bench

    environment = {**os.environ, **transport_environment()}
    found = _bench(environment, "latency", "--frames", "20", "--rate", "10")
    assert found["sent"] == 20 and 10 <= found["received"] <= 20
    assert 0 < found["ms"]["p50"] <= found["ms"]["max"] < 1e4
