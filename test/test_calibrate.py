"""Calibration: known worlds give their own probabilities back, and coverage is nominal."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta
from synthetic_world import TRUE_MIXTURE, draw_cells, world
from test_evaluate import BOXES, dataset  # noqa: F401  (fixture)

from probpose_ros.calibration import GIVEN_BOXES, Calibration, Subject, load_calibration
from probpose_ros.config import PipelineConfig
from probpose_ros.pipeline import Pipeline
from probpose_ros.skeleton import JOINT_TYPES
from probpose_ros.types import KeypointState
from probpose_training import calibrate as method
from probpose_training.calibrate import CAL, FIT, LEVELS, TEST, Likelihoods, Settings
from probpose_training.calibration_baselines import Ellipses, calibrated
from probpose_training.calibration_markdown import markdown
from probpose_training.calibration_report import clopper_pearson, coverage, print_report, zero_share
from probpose_training.calibration_samples import Samples, collect
from probpose_training.coco import CocoError, read_coco
from probpose_training.commands import calibrate as command
from probpose_training.evaluate import GivenBoxes
from probpose_training.temperature import TEMPERATURES, MapMass, Temperatures, sparsemax

SUBJECT = Subject("none", "00" * 32, "fp32", (48, 64), GIVEN_BOXES)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return world(np.random.default_rng(0), persons=500)


@pytest.fixture(scope="module")
def likelihoods(samples: Samples) -> Likelihoods:
    return Likelihoods(samples)


def coverage_of(calibration: Calibration, samples: Samples, part: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(samples.present & (part[samples.photograph] == TEST))
    return calibrated(samples, rows, calibration, ["marginal"])["marginal"][0].mean(axis=0)


def coverage_of_persons(calibration: Calibration, samples: Samples, part: np.ndarray) -> np.ndarray:
    """Persons all of whose joints in the window are held."""
    rows = np.flatnonzero(samples.present & (part[samples.photograph] == TEST))
    held, _ = calibrated(samples, rows, calibration, ["simultaneous"])["simultaneous"]
    missed = np.zeros((len(samples.maps), held.shape[1]))
    np.add.at(missed, samples.person[rows], ~held)
    return (missed[np.unique(samples.person[rows])] == 0).mean(axis=0)


def test_maximum_likelihood_finds_the_mixture(samples, likelihoods):
    rows = np.flatnonzero(samples.present)
    mixtures = likelihoods.fit(rows, samples.joint_type[rows], np.zeros(len(rows), int))
    for mixture in (mixture for row in mixtures for mixture in row):
        assert mixture.scale == TRUE_MIXTURE.scale
        # A joint type has 400 to 800 keypoints, a bin without any the weights of all.
        assert mixture.mirror == pytest.approx(TRUE_MIXTURE.mirror, abs=0.05)
        assert mixture.tail == pytest.approx(TRUE_MIXTURE.tail, abs=0.06)
    np.testing.assert_allclose(mixtures[0][3][:2], TRUE_MIXTURE[:2], atol=0.02)


def test_weights_add_up_in_the_log_odds():
    # Two features that each multiply the odds of one part; no pair of them has enough samples of its own.
    rng, n = np.random.default_rng(0), 4000
    features = np.column_stack([np.ones(n), rng.random(n) < 0.5, rng.random(n) < 0.5]).astype(float)
    truth = np.array([[0.0, -2.0, -0.5], [0.0, 0.0, 1.5], [0.0, 1.5, 0.0]])
    weights = method.softmax(features @ truth)
    part = (weights.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    parts = np.eye(3)[part]  # each sample tells which part made it
    found, _ = method.log_linear(parts, features)
    np.testing.assert_allclose(method.softmax(features @ found), weights, atol=0.03)


def test_doubtful_joints_are_held_as_often_as_the_others(samples):
    # Where presence is low the truth is anywhere: regions of 95 % of all hold far fewer of those.
    rng, points = np.random.default_rng(5), samples.points.copy()
    low = samples.present & (samples.presence < np.quantile(samples.presence[samples.present], method.DOUBT))
    points[low] = rng.uniform([-0.4, -0.4], [11.4, 15.4], (low.sum(), 2))
    world = replace(samples, points=points)
    likelihoods, held = Likelihoods(world), {}
    for least in (100, 100_000):  # with the second there is one group for all
        found = []
        for seed in range(4):
            part = method.split(500, seed)
            calibration = method.calibrate(world, likelihoods, part, Settings(min_group=least), SUBJECT)
            rows = np.flatnonzero(low & (part[world.photograph] == TEST))
            found.append(calibrated(world, rows, calibration, ["marginal"])["marginal"][0].mean(axis=0)[4])
        held[least] = np.mean(found)
    assert held[100] == pytest.approx(0.95, abs=0.02)
    assert held[100_000] < 0.9


def test_the_maps_alone_do_not_cover(samples):
    # The world's truth lies in exact zeros about as often as its mixture puts mass there: nothing else would be a test.
    zeros = zero_share(samples)
    rows = np.flatnonzero(samples.present)
    raw = MapMass(samples.own(rows), samples.cells[rows], LEVELS).held.mean(axis=0)
    assert 0.1 < zeros["share"] < 0.5
    assert raw[-1] == pytest.approx(1 - zeros["share"], abs=0.03) and raw[4] < 0.9


@pytest.mark.parametrize("min_group", [10, 10**6])
def test_coverage_is_nominal(samples, likelihoods, min_group):
    found = []
    for seed in range(4):
        part = method.split(500, seed)
        calibration = method.calibrate(samples, likelihoods, part, Settings(min_group=min_group), SUBJECT)
        assert len(calibration.groups) == 1 if min_group == 10**6 else len(calibration.groups) > 30
        found.append(coverage_of(calibration, samples, part))
    # About 3000 keypoints in CAL and in TEST: 3 standard deviations at 0.5 are 3.9 points, less after four splits.
    np.testing.assert_allclose(np.mean(found, axis=0), LEVELS, atol=0.025)
    assert np.mean(found, axis=0)[4] == pytest.approx(0.95, abs=0.012)


def test_all_joints_of_a_person_are_held_at_the_level(samples, likelihoods):
    found, single = [], []
    for seed in range(4):
        part = method.split(500, seed)
        calibration = method.calibrate(samples, likelihoods, part, Settings(), SUBJECT)
        found.append(coverage_of_persons(calibration, samples, part))
        single.append(coverage_of(calibration, samples, part))
    # 225 persons in CAL and 200 in TEST: 3 standard deviations at 0.5 are 14 points, 7 after four splits.
    np.testing.assert_allclose(np.mean(found, axis=0), LEVELS, atol=0.07)
    assert np.mean(found, axis=0)[4] == pytest.approx(0.95, abs=0.03)
    # Regions of 95 % hold 17 joints at once far less often: otherwise nothing was tested.
    assert np.mean(single, axis=0)[4] ** 10 < 0.7


@pytest.mark.slow
def test_coverage_is_nominal_to_a_third_of_a_point():
    # Independent worlds, so that the mean over them has a standard deviation below 0.1 point at 0.5.
    found, persons, absent, present = [], [], [], []
    for seed in range(40):
        samples = world(np.random.default_rng(100 + seed), persons=1500)
        part = method.split(1500, seed)
        likelihoods = Likelihoods(samples, np.flatnonzero(part[samples.photograph] == FIT))
        calibration = method.calibrate(samples, likelihoods, part, Settings(), SUBJECT)
        found.append(coverage_of(calibration, samples, part))
        persons.append(coverage_of_persons(calibration, samples, part))
        test = part[samples.photograph] == TEST
        states = calibration.presence.states(samples.presence[test])
        here = samples.present[test]
        absent.append((states[~here] != KeypointState.IN).mean())
        present.append((states[here] == KeypointState.OUT).mean())
    np.testing.assert_allclose(np.mean(found, axis=0), LEVELS, atol=0.003)
    # 17 times fewer persons than keypoints: the standard deviation of this mean at 0.5 is 0.4 points.
    np.testing.assert_allclose(np.mean(persons, axis=0), LEVELS, atol=0.015)
    assert np.mean(absent) == pytest.approx(0.95, abs=0.005)
    assert np.mean(present) <= 1.2e-3


def test_presence_sets_hold_their_rates_and_probabilities_are_calibrated(samples, likelihoods):
    missed, dropped = [], []
    for seed in range(4):
        part = method.split(500, seed)
        calibration = method.calibrate(samples, likelihoods, part, Settings(alpha=0.1, drop=0.01), SUBJECT)
        test = part[samples.photograph] == TEST
        present, raw = samples.present[test], samples.presence[test]
        states = calibration.presence.states(raw)
        missed.append((states[~present] == KeypointState.IN).mean())
        dropped.append((states[present] == KeypointState.OUT).mean())
        probability = calibration.presence.reliability(raw)
        assert np.abs(probability - raw).mean() < 0.04  # the world's presence is right: the map is the identity
    assert np.mean(missed) == pytest.approx(0.1, abs=0.03)
    assert np.mean(dropped) <= 0.015 and 0 < np.mean(dropped)


def test_fit_and_cal_decide_and_test_does_not(samples, likelihoods):
    part = method.split(500, 0)
    before = method.calibrate(samples, likelihoods, part, Settings(), SUBJECT)
    changed = {name: getattr(samples, name).copy() for name in ("points", "presence", "quality", "oks")}
    test = part[samples.photograph] == TEST
    for values in changed.values():
        values[test] = values[test][::-1]
    other = Samples(**{**vars(samples), **changed})
    assert method.calibrate(other, likelihoods, part, Settings(), SUBJECT) == before


def test_split_keeps_photographs_and_shares():
    part = method.split(1000, seed=3)
    assert np.bincount(part).tolist() == [150, 450, 400]
    assert (method.split(1000, 3) == part).all() and (method.split(1000, 4) != part).any()
    whole = method.split(1000, 3, method.SHARES[:2])
    assert np.bincount(whole).tolist() == [250, 750] and set(whole) == {FIT, CAL}


def test_pac_thresholds_are_exact():
    # 59 samples are the least for 95 % with confidence 95 %: 0.95^59 = 0.0485.
    assert method.pac_rank(58, 0.95, 0.05) is None and method.pac_rank(59, 0.95, 0.05) == 59
    assert method.pac_rank(4602, 0.999, 0.01) is None and method.pac_rank(4603, 0.999, 0.01) == 4603
    for n, level, delta in ((200, 0.9, 0.1), (1000, 0.95, 0.05)):
        k = method.pac_rank(n, level, delta)
        assert beta.cdf(level, k, n + 1 - k) <= delta < beta.cdf(level, k - 1, n + 2 - k)
    # The promise itself: with uniform scores, coverage is the threshold.
    rng = np.random.default_rng(0)
    drawn = [method.pac_thresholds(rng.random(200), np.arange(200), [0.9], 0.1)[0] for _ in range(2000)]
    assert np.mean(np.array(drawn) < 0.9) == pytest.approx(0.1, abs=0.025)


def test_pac_takes_one_keypoint_of_each_photograph():
    scores, photographs = np.random.default_rng(0).random(1000), np.repeat(np.arange(50), 20)
    assert method.pac_thresholds(scores, photographs, [0.95], 0.05) == (np.inf,)
    assert np.isfinite(method.pac_thresholds(scores, np.arange(1000), [0.95], 0.05)[0])


def test_groups_are_merged_until_they_are_large():
    rng = np.random.default_rng(0)
    for least in (1, 30, 50, 300, 700, 10**6):
        counts = rng.integers(0, 200, (9, 4))
        groups = method.merge(counts, least)
        members = [member for group in groups for member in group]
        assert sorted(members) == [(t, b) for t in range(9) for b in range(4)]
        sizes = [sum(counts[m] for m in group) for group in groups]
        assert len(groups) == 1 or min(sizes) >= least
    enough = np.full((9, 4), 25)
    assert len(method.merge(enough, 100)) == 9
    enough[0, 0] = 24  # the nose: the joints of the head share
    assert len(method.merge(enough, 100)) == 7
    enough[:3] = 1  # and if that is not enough, all
    assert len(method.merge(enough, 100)) == 1
    many = np.full((9, 4), 100 * method.DIVIDE)
    assert len(method.merge(many, 100)) == 36
    many[0, 0] -= 1
    assert len(method.merge(many, 100)) == 33


def test_isotonic_is_rising_and_right():
    rng = np.random.default_rng(0)
    x = rng.random(5000)
    knots = method.isotonic(x, rng.random(5000) < x**2, prior=0.5)
    assert (np.diff(knots.y) >= 0).all() and 0 < knots.y[0] and knots.y[-1] < 1
    grid = np.linspace(0.05, 0.95, 10)
    np.testing.assert_allclose(knots(grid), grid**2, atol=0.06)
    assert method.isotonic(np.full(4, 0.5), np.array([0, 1, 1, 1.0])).y == (0.75,)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"levels": (0.5, 1.0)}, "levels must lie between 0 and 1, got 1.0"),
        ({"levels": (0.9, 0.5)}, "levels must ascend"),
        ({"levels": (float("nan"),)}, "levels must lie between 0 and 1, got nan"),
        ({"delta": 0.0}, "delta must lie"), ({"kind": "safe"}, "kind must be one of"),
        ({"drop": 0.7}, "drop must lie"), ({"min_group": 0}, "min_group"),
    ],
)  # fmt: skip
def test_settings_are_checked(changes, words):
    with pytest.raises(ValueError, match=words):
        Settings(**changes)


def test_too_few_samples_are_marked(likelihoods):
    few = world(np.random.default_rng(1), persons=6)
    calibration = method.calibrate(few, Likelihoods(few), method.split(6, 0), Settings(), SUBJECT)
    lines = method.unsupported(calibration)
    assert any(line.startswith("marginal 0.99: too few samples in 1 of 1 groups") for line in lines)
    assert any(line.startswith("pac 0.5: ") and "photographs" in line and "needed 5)" in line for line in lines)
    assert any(line.startswith("simultaneous 0.8: ") and "persons" in line for line in lines)
    assert calibration.groups[0].marginal[-1] == np.inf


def test_balls_of_the_world_are_larger_and_cover(samples):
    rows = np.flatnonzero(samples.present)
    part = method.split(500, 0)[samples.photograph[rows]]
    balls = Ellipses(samples, rows, np.broadcast_to(np.eye(2), (len(rows), 2, 2)))
    held, cells = balls(part, np.zeros(len(rows), int), LEVELS)
    np.testing.assert_allclose(held.mean(axis=0), LEVELS, atol=0.035)
    assert (cells <= 12 * 16).all()
    # A ball of radius r inside the window has pi r^2 cells, to the grid.
    test = np.flatnonzero(part == TEST)
    inner = (np.abs(samples.decoded[rows[test]] - [5.5, 7.5]) < 0.6).all(axis=1)
    radius = np.quantile(balls.distance[part == CAL], 0.8)
    assert inner.any() and np.median(cells[inner, 2]) == pytest.approx(np.pi * radius**2, rel=0.1)


def test_temperature_of_known_logits():
    # Truth drawn from sparsemax(z / 2): a model that is too sure by that factor.
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :12]
    centre = rng.uniform(2, 10, (1500, 2))
    distance = (x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2
    logits = -distance / 10
    maps = np.stack([sparsemax(z / 2) for z in logits])
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1)
    found = Temperatures(logits, draw_cells(rng, maps), (0.5, 0.8, 0.95))
    best = found.best(np.arange(len(maps)))
    assert 1.4 <= TEMPERATURES[best] <= 3.0


def test_report_says_everything(samples, likelihoods, capsys):
    report = coverage(samples, likelihoods, Settings(), SUBJECT, reshuffles=2)
    report.update(model="none", model_sha256="00" * 32, boxes="gt boxes", data="synthetic", unsupported=["x"])
    print_report(report)
    text = capsys.readouterr().out
    words = ("truth in exact zeros", "conformal ball", "raw map mass", "quality quarter 4", "ankle", "AUROC")
    for word in (*words, "all joints of a person", "regions dropped though the joint is in: none", "3688 photographs"):
        assert word in text
    page = markdown(report, 0.95)
    for word in ("conformal ellipse", "simultaneous regions", "exactly 0", "3688 photographs", "ankle", "area / ball"):
        assert word in page
    goals = dict(line.strip("| ").split(" | ", 1) for line in page[page.index("Goals:") :].splitlines() if "|" in line)
    assert goals["region dropped though the joint is in"].endswith("| never | reached")
    # 500 photographs are too few for 1e-3, however few joints are called OUT.
    assert "3688 would be needed" in goals["called OUT though in the window"]
    assert ("missed" in goals["worst joint at 95 %"]) == (
        min(row["coverage"] for row in report["strata"] if row["stratum"] in JOINT_TYPES) < 0.94
    )
    presence = report["presence"]
    for shares in presence["states"].values():
        assert sum(shares.values()) == pytest.approx(1)
    # 3825 keypoints in CAL, about four in five of them in the window: enough for one in a thousand.
    assert presence["reshuffles_that_can_call_out"] == 1
    assert presence["states"]["in"]["OUT"] == presence["called_out_given_present"]
    ours, ball = report["methods"]["ours"]["0.95"], report["methods"]["conformal ball"]["0.95"]
    assert ours["coverage"] == pytest.approx(0.95, abs=0.02) and ball["coverage"] == pytest.approx(0.95, abs=0.02)
    assert ours["mean_area_per_box"] < ball["mean_area_per_box"]
    assert clopper_pearson(10, 10)[1] == 1 and clopper_pearson(95, 100)[0] == pytest.approx(0.8872, abs=1e-4)
    low, high = report["ci95"]["0.95"]
    assert low < 0.95 < high


@pytest.fixture
def run(dataset: tuple[Path, Path], tiny_pose_model: Path, tiny_detector_model: Path, tmp_path: Path):  # noqa: F811
    """Runs the command on four white "people"."""

    def call(*options: str, out: str = "a.calibration.json") -> Path:
        parser = argparse.ArgumentParser()
        command.register(parser.add_subparsers())
        args = parser.parse_args([
            "calibrate", "--annotations", str(dataset[0]), "--images", str(dataset[1]), "--out", str(tmp_path / out),
            "--model", str(tiny_pose_model), "--detector", str(tiny_detector_model), "--reshuffles", "2", *options,
        ])  # fmt: skip
        assert args.run(args) == 0
        return tmp_path / out

    return call


def test_command_writes_a_file_that_the_pipeline_takes(run, tiny_pose_model, tiny_detector_model, tmp_path, capsys):
    (tmp_path / "page.md").write_text("before\n<!-- coverage -->\nold\n<!-- end of coverage -->\nafter\n")
    path = run("--levels", "0.5", "0.8", "--page", str(tmp_path / "page.md"))
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("before\n<!-- coverage -->\nModel `") and "\nold\n" not in text and text.endswith("after\n")
    text = capsys.readouterr().out
    assert "temperature scaling is left out" in text and "truth in exact zeros" in text
    report = json.loads((path.parent / "a.report.json").read_text())
    assert report["persons"] == 4 and report["persons_without_box"] == 0
    page = (path.parent / "a.report.html").read_text()
    assert "<svg" in page and "Not a safety function; no PL or SIL claimed" in page
    for word in ("certified", "ISO-compliant", "protective", "no person", "is safe"):
        assert word not in page + text
    calibration = load_calibration(path)
    assert calibration.levels == (0.5, 0.8) and calibration.provenance["photographs"] == "4"
    config = PipelineConfig(
        model=str(tiny_pose_model), detector=str(tiny_detector_model), calibration=str(path), levels=[0.5]
    )
    assert Pipeline(config).calibration is not None
    wrong = PipelineConfig(model=str(tiny_pose_model), calibration=str(path), levels=[0.5])
    refused = Pipeline(wrong, GivenBoxes({}))
    assert refused.calibration is None and "detector" in refused.calibration_error


def test_command_refuses(run, dataset):  # noqa: F811
    with pytest.raises(ValueError, match="must end in .calibration.json"):
        run(out="a.json")
    with pytest.raises(ValueError, match="must end in .onnx"):
        run("--method", "temperature")
    with pytest.raises(ValueError, match="1 --annotations for 2 --images"):
        run("--images", "a", "b")
    with pytest.raises(ValueError, match="levels must lie between 0 and 1, got 1.5"):
        run("--levels", "1.5")
    with pytest.raises(ValueError, match="support none of the levels; nothing written"):
        run("--kind", "pac", "--levels", "0.95")


def test_samples_are_the_annotations(dataset, tiny_pose_model):  # noqa: F811
    pipeline = Pipeline(PipelineConfig(model=str(tiny_pose_model)), GivenBoxes({}))
    found = collect(pipeline, [(read_coco(dataset[0]), str(dataset[1]))])
    # Four people, joint 7 unlabelled, joint 5 annotated far off, the others where the network says.
    assert len(found) == 4 * 16 and len(found.maps) == len(BOXES) == len(np.unique(found.photograph))
    moved = found.joint == 5
    np.testing.assert_allclose(found.points[~moved], found.decoded[~moved], atol=1e-3)
    assert (found.oks[~moved] > 0.99).all() and (found.oks[moved] < 0.1).all()
    assert (np.abs(found.points - found.decoded)[moved].max(axis=1) > 1).all()
    # Cell and box have the same ratio for all: the window is the box, padded, on a map of 12 x 16.
    assert ((found.box_px / found.cell_px) < 12 * 16).all()
    with pytest.raises(CocoError, match="no labelled keypoint of a person that has a box"):
        far = read_coco(dataset[0])
        far.visibility[:] = 0
        collect(pipeline, [(far, str(dataset[1]))])
