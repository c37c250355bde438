"""The calibration file: what is read, what is refused, and what a pipeline does with it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_regions import CODEC, cell_corners, in_convex, in_ellipse, random_maps, random_transform, row_ends
from tiny_models import person_image, write_tiny_pose

from probpose_ros.calibration import (
    AUTO,
    DOUBTFUL,
    GIVEN_BOXES,
    MAX_BYTES,
    QUALITY_BINS,
    SUFFIX,
    Calibration,
    CalibrationError,
    Group,
    Knots,
    Presence,
    Subject,
    beside,
    load_calibration,
    parse,
)
from probpose_ros.config import NodeConfig, PipelineConfig
from probpose_ros.geometry import CropTransform
from probpose_ros.models import file_sha256, model_dirs
from probpose_ros.pipeline import Pipeline
from probpose_ros.predictive import Mixture, Predictor
from probpose_ros.skeleton import FLIP_INDEX, JOINT_TYPES, NUM_KEYPOINTS
from probpose_ros.types import FrameState, KeypointState, RegionKind, Regions
from probpose_ros.zones import bodies, zones_at

LEVELS = (0.5, 0.95)
SUBJECT = Subject("tiny", "ab" * 32, "fp32", (192, 256), GIVEN_BOXES)
MIXTURES = (Mixture(0.05, 0.1, 2.0), Mixture(0.1, 0.3, 4.0))


def example(subject: Subject = SUBJECT, **changes: object) -> Calibration:
    """Two groups: the lower and the upper half of the quality bins. The last level of the first has too few samples."""
    halves = [[(joint, b) for joint in JOINT_TYPES for b in bins] for bins in ((0, 1), (2, 3))]
    thresholds = ((0.4, np.inf), (0.5, 0.9))
    values: dict = {
        "subject": subject, "kind": "marginal", "delta": 0.05, "levels": LEVELS,
        "quality_edges": ((0.25, 0.5, 0.75),) * len(JOINT_TYPES),
        "groups": tuple(
            Group(tuple(members), 900, 80, marginal, (0.6, np.inf), (0.7, np.inf), (0.8, np.inf))
            for members, marginal in zip(halves, thresholds, strict=True)
        ),
        "mixtures": ((MIXTURES[0],) * 2 + (MIXTURES[1],) * 2,) * len(JOINT_TYPES),
        "persons": 90, "photographs": 80,
        "presence": Presence(
            0.05, 0.001, tuple(np.linspace(0.3, 1, 1999).tolist()), tuple(np.linspace(0, 0.6, 99).tolist()),
            Knots((0.0, 0.5, 1.0), (0.1, 0.4, 0.9)),
        ),
        "quality": Knots((0.2, 0.8), (0.3, 0.7)), "provenance": {"data": "made up"},
    }  # fmt: skip
    return Calibration(**{**values, **changes})


def one(
    calibration: Calibration, maps: np.ndarray, quality: np.ndarray, states: np.ndarray, transform: CropTransform,
    levels: Sequence[float], kind: str = "",
) -> Regions:  # fmt: skip
    """Of one person."""
    presence = np.ones((1, len(quality)), np.float32)
    return calibration.regions(maps[None], quality[None], presence, states[None], [transform], CODEC, levels, kind)[0]


def content(**changes: object) -> dict:
    return json.loads(example(**changes).to_json())


def write(path: Path, calibration: Calibration) -> str:
    path.write_text(calibration.to_json())
    return str(path)


def test_what_is_written_is_read(tmp_path):
    path = write(tmp_path / "a.calibration.json", example())
    found = load_calibration(path)
    assert replace(found, sha256="") == example()
    assert len(found.sha256) == 64 and found.id and found.sha256.startswith(found.id)


BROKEN = [
    (lambda c: c.update(format_version=1), "format_version 1; this version reads 2"),
    (lambda c: c.update(extra=1), "unknown .*extra"),
    (lambda c: c.pop("presence"), "presence missing"),
    (lambda c: c.pop("doubt"), "doubt missing"),
    (lambda c: c.update(levels=[0.5, 1.0]), "levels must lie between 0 and 1, got 1.0"),
    (lambda c: c.update(levels=[0.5, -0.1]), "levels must lie between 0 and 1"),
    (lambda c: c.update(levels=[0.95, 0.5]), "levels must rise"),
    (lambda c: c.update(levels=[0.5]), "2 thresholds for 1 levels"),
    (lambda c: c.update(levels=[]), "levels must not be empty"),
    (lambda c: c.update(kind="safe"), "kind must be one of marginal, pac"),
    (lambda c: c.update(delta=0), "delta must lie between 0 and 1"),
    (lambda c: c.update(delta=True), "delta must be a number"),
    (lambda c: c.update(delta=10**400), "delta must be a number"),
    (lambda c: c["subject"].update(input_size=[192]), "input_size must be a list of 2"),
    (lambda c: c["subject"].update(model_sha256=None), "model_sha256 must be text"),
    (lambda c: c["groups"].pop(), "exactly one group"),
    (lambda c: c["groups"].append(c["groups"][0]), "exactly one group"),
    (lambda c: c.update(doubt=0.3), "every joint type and bin 0 .. 4 must be in exactly one group"),
    (lambda c: c.update(doubt=1.3), "doubt must lie in 0 .. 1"),
    (lambda c: c["groups"][0]["members"].append(["nose", 0]), "exactly one group"),
    (lambda c: c["groups"][0]["members"].append(["tail", 0]), "must be one of nose"),
    (lambda c: c["groups"][0].update(marginal=[0.9, 0.4]), "marginal must rise"),
    (lambda c: c["groups"][0].update(simultaneous=[0.9]), "1 thresholds for 2 levels"),
    (lambda c: c["mixtures"][0][1].update(mirror=0.6, tail=0.4), r"mirror \+ tail must be below 1"),
    (lambda c: c["mixtures"][0][1].update(scale=0), "scale must lie in"),
    (lambda c: c["mixtures"][0].pop(), "mixtures must be a list of 4"),
    (lambda c: c.update(persons=-1), "persons must be a whole number"),
    (lambda c: c["quality_edges"][0].reverse(), "quality_edges must rise"),
    (lambda c: c["quality_edges"].pop(), "quality_edges must be a list of 9"),
    (lambda c: c["presence"]["in_scores"].reverse(), "in_scores must rise"),
    (lambda c: c["presence"].update(out_scores=[1.5]), "out_scores must lie in 0 .. 1"),
    (lambda c: c["quality"].update(x=[0.5]), "1 x for 2 y"),
    (lambda c: c["quality"].update(y=[0.7, 0.3]), "y must rise"),
    (lambda c: c["provenance"].update(data=3), "'data' must be text"),
]


@pytest.mark.parametrize("change, words", BROKEN, ids=[words for _, words in BROKEN])
def test_refused(change, words):
    values = content()
    change(values)
    with pytest.raises(CalibrationError, match=words) as error:
        parse(values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "not JSON"), ("[1, 2", "not JSON"), ("[]", "must be an object"), ("null", "must be an object"),
        ("\xff", "not JSON"), ("[" * 100_000, "not JSON"),
        (example().to_json().replace('"delta": 0.05', '"delta": NaN'), "NaN is not a number"),
        (example().to_json().replace('"delta": 0.05', '"delta": 1e999'), "delta must be a number"),
        (" " * (MAX_BYTES + 1), f"at most {MAX_BYTES}"),
    ],
    ids=["empty", "cut", "list", "null", "bytes", "deep", "nan", "inf", "large"],
)  # fmt: skip
def test_refused_files_are_named(tmp_path, text, words):
    path = tmp_path / "bad.calibration.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CalibrationError, match=words) as error:
        load_calibration(path)
    assert str(path) in str(error.value)


JUNK = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_file_is_read_or_refused_and_nothing_else(data):
    values = content()
    place, key = None, None
    where = values
    while isinstance(where, (dict, list)) and len(where):
        keys = sorted(where) if isinstance(where, dict) else range(len(where))
        place, key = where, data.draw(st.sampled_from(list(keys)))
        if data.draw(st.booleans()):
            break
        where = place[key]
    place[key] = data.draw(JUNK)
    try:
        calibration = parse(copy.deepcopy(values))
    except CalibrationError:
        return
    # What was accepted works.
    rng = np.random.default_rng(0)
    states = calibration.presence.states(np.linspace(0, 1, NUM_KEYPOINTS))
    quality = np.linspace(0, 1, NUM_KEYPOINTS)
    regions = one(calibration, random_maps(rng), quality, states, random_transform(rng), calibration.levels)
    assert np.isfinite(regions.areas).all()
    parse(json.loads(calibration.to_json()))


IN = np.full(NUM_KEYPOINTS, KeypointState.IN, np.uint8)


def test_regions_are_the_cells_of_the_scores_and_exports_contain_them():
    check_regions(np.random.default_rng(5), rounds=8)


@pytest.mark.slow
def test_regions_are_the_cells_of_the_scores_and_exports_contain_them_1e5_maps():
    check_regions(np.random.default_rng(9), rounds=100_000 // NUM_KEYPOINTS + 1)


def written_out_scores(density: np.ndarray) -> np.ndarray:
    """Mass of the cells in higher sixteenths of an octave than each cell's."""
    mantissa, exponent = np.frexp(density.astype(np.float64))
    step = np.maximum(np.ldexp(np.floor(mantissa * 32) / 32, exponent), 2.0**-24)
    _, place = np.unique(-step, return_inverse=True)
    mass = np.bincount(place.ravel(), density.ravel())
    return (mass.cumsum() - mass)[place].reshape(density.shape)


def check_regions(rng: np.random.Generator, rounds: int) -> None:
    calibration = example()
    for _ in range(rounds):
        maps, transform, quality = random_maps(rng), random_transform(rng), rng.random(NUM_KEYPOINTS)
        regions = one(calibration, maps, quality, IN, transform, LEVELS)
        assert regions.kind == RegionKind.MARGINAL
        cell_area = transform.window_size.prod() / (47 * 63)
        group = (quality >= 0.5).astype(int)
        predictive = Predictor(MIXTURES)(maps, maps[FLIP_INDEX], group)
        for k in range(NUM_KEYPOINTS):
            score = written_out_scores(predictive[k])
            for level, threshold in enumerate(calibration.groups[group[k]].marginal):
                inside = score <= threshold
                corners = cell_corners(row_ends(inside), transform)
                assert regions.areas[k, level] == pytest.approx(inside.sum() * cell_area, rel=1e-4)
                assert in_ellipse(corners, regions.ellipses[k, level]).all()
                assert in_convex(corners, regions.polygons[k][level]).all()
                assert regions.valid[k, level] == np.isfinite(threshold)


def test_regions_of_a_double_heatmap_lie_outside_the_crop_too():
    # Merged maps have cells around the crop; there is nothing else to a double heatmap here.
    codec = CODEC.extended(1.25)
    (w, h), rng = codec.map_size, np.random.default_rng(12)
    maps, transform = random_maps(rng, (NUM_KEYPOINTS, h, w)), random_transform(rng)
    cells = np.column_stack([rng.integers(0, 5, NUM_KEYPOINTS), rng.integers(0, h, NUM_KEYPOINTS)])  # left of the crop
    maps *= 0.5
    maps[np.arange(NUM_KEYPOINTS), cells[:, 1], cells[:, 0]] += 0.5
    quality, states = np.full((1, NUM_KEYPOINTS), 0.9), IN[None]
    (regions,) = example().regions(maps[None], quality, quality, states, [transform], codec, LEVELS)
    centres = transform.to_image(codec.to_crop(cells))
    assert (centres[:, 0] < transform.window[0]).all() and (regions.valid).all()
    for k, polygons in enumerate(regions.polygons):
        for polygon, ellipse in zip(polygons, regions.ellipses[k], strict=True):
            assert in_convex(centres[k : k + 1], polygon).all() and in_ellipse(centres[k : k + 1], ellipse).all()
    # Without enough data it is the whole of the merged map, not only the crop.
    (regions,) = example().regions(maps[None], 0 * quality, quality, states, [transform], codec, LEVELS)
    whole = transform.window_size.prod() * w * h / (47 * 63)
    np.testing.assert_allclose(regions.areas[:, 1], whole, rtol=1e-4)


def test_too_few_samples_is_the_whole_window_and_not_valid():
    rng = np.random.default_rng(6)
    transform = random_transform(rng)
    regions = one(example(), random_maps(rng), np.zeros(NUM_KEYPOINTS), IN, transform, LEVELS)
    assert regions.valid[:, 0].all() and not regions.valid[:, 1].any()
    whole = transform.window_size.prod() * 48 * 64 / (47 * 63)
    np.testing.assert_allclose(regions.areas[:, 1], whole, rtol=1e-4)


def test_doubtful_keypoints_have_thresholds_of_their_own():
    rng = np.random.default_rng(7)
    maps, transform, quality = random_maps(rng), random_transform(rng), np.ones(NUM_KEYPOINTS)
    plain = example()
    doubtful = replace(plain.groups[1], members=tuple((j, DOUBTFUL) for j in JOINT_TYPES), marginal=(0.9, np.inf))
    calibration = parse(json.loads(replace(plain, doubt=0.3, groups=(*plain.groups, doubtful)).to_json()))
    presence = np.where(np.arange(NUM_KEYPOINTS) % 2, 0.29, 0.31)
    (found,) = calibration.regions(maps[None], quality[None], presence[None], IN[None], [transform], CODEC, LEVELS)
    expected = one(plain, maps, quality, IN, transform, LEVELS)
    np.testing.assert_array_equal(found.areas[::2], expected.areas[::2])
    assert (found.areas[1::2, 0] > expected.areas[1::2, 0]).all()
    assert found.valid[::2].all() and found.valid[1::2, 0].all() and not found.valid[1::2, 1].any()


def test_kind_pac_uses_its_thresholds():
    rng = np.random.default_rng(7)
    maps, transform, quality = random_maps(rng), random_transform(rng), np.ones(NUM_KEYPOINTS)
    marginal = one(example(), maps, quality, IN, transform, [0.5])
    pac = one(example(kind="pac"), maps, quality, IN, transform, [0.5])
    assert pac.kind == RegionKind.PAC and (pac.areas >= marginal.areas).all() and (pac.areas > marginal.areas).any()


def test_simultaneous_regions_use_their_thresholds():
    rng = np.random.default_rng(7)
    maps, transform, quality = random_maps(rng), random_transform(rng), np.ones(NUM_KEYPOINTS)
    kinds = ["marginal", "pac", "simultaneous", "simultaneous_pac"]  # of rising thresholds in the example
    found = [one(example(), maps, quality, IN, transform, [0.5], kind) for kind in kinds]
    assert [regions.kind.name.lower() for regions in found] == kinds
    areas = [regions.areas.sum() for regions in found]
    assert areas == sorted(set(areas))
    assert np.isnan(example().delta_of("simultaneous")) and example().delta_of("simultaneous_pac") == 0.05


@pytest.mark.parametrize("state", list(KeypointState))
def test_no_state_drops_a_region(state):
    rng = np.random.default_rng(8)
    maps, transform, quality = random_maps(rng), random_transform(rng), np.full(NUM_KEYPOINTS, 0.9)
    regions = one(example(), maps, quality, np.full(NUM_KEYPOINTS, state, np.uint8), transform, LEVELS)
    expected = one(example(), maps, quality, IN, transform, LEVELS)
    np.testing.assert_array_equal(regions.areas, expected.areas)
    np.testing.assert_array_equal(regions.ellipses, expected.ellipses)
    assert (regions.valid == (state != KeypointState.UNKNOWN)).all()


@pytest.mark.parametrize("fault", ["nan map", "mass", "unknown", "nan quality"])
def test_what_is_not_known_is_not_valid(fault):
    rng = np.random.default_rng(8)
    maps, transform = random_maps(rng), random_transform(rng)
    quality, states = np.full(NUM_KEYPOINTS, 0.9, np.float32), IN.copy()
    if fault == "nan map":
        maps[3] = np.nan
    elif fault == "mass":
        maps[3] *= 1.01
    elif fault == "nan quality":
        quality[3] = np.nan
    else:
        states[3] = KeypointState.UNKNOWN
    regions = one(example(), maps, quality, states, transform, LEVELS)
    assert not regions.valid[3].any() and np.delete(regions.valid, 3, 0).all()
    if fault != "unknown":
        assert np.isnan(regions.areas[3]).all() and np.isnan(regions.ellipses[3]).all()
        assert [len(polygon) for polygon in regions.polygons[3]] == [0, 0]


def test_a_joint_does_not_suffer_from_an_unknown_map_of_the_other_side():
    rng = np.random.default_rng(13)
    maps, transform, quality = random_maps(rng), random_transform(rng), np.full(NUM_KEYPOINTS, 0.9)
    right = FLIP_INDEX[5]
    itself = maps.copy()
    itself[right] = maps[5]
    maps[right] = np.nan
    found, expected = (one(example(), m, quality, IN, transform, LEVELS) for m in (maps, itself))
    np.testing.assert_allclose(found.areas[5], expected.areas[5])
    assert found.valid[5].all() and not found.valid[right].any()


def test_people_at_once_are_people_one_by_one():
    rng = np.random.default_rng(11)
    maps = np.stack([random_maps(rng) for _ in range(3)])
    maps[1, 4] = np.nan
    quality, states = rng.random((3, NUM_KEYPOINTS)), np.tile(IN, (3, 1))
    transforms = [random_transform(rng) for _ in range(3)]
    together = example().regions(maps, quality, quality, states, transforms, CODEC, LEVELS)
    for p, regions in enumerate(together):
        alone = one(example(), maps[p], quality[p], states[p], transforms[p], LEVELS)
        for name in ("valid", "ellipses", "areas", "covariances"):
            np.testing.assert_allclose(getattr(regions, name), getattr(alone, name), rtol=1e-4)
        for a, b in zip(sum(regions.polygons, ()), sum(alone.polygons, ()), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)
    assert example().regions(maps[:0], quality[:0], quality[:0], states[:0], [], CODEC, LEVELS) == []


def test_states_are_what_is_not_rejected():
    presence = example().presence
    # In scores lie from 0.3 to 1, out scores from 0 to 0.6.
    values = np.array([1.0, 0.7, 0.5, 0.31, 0.2, np.nan], np.float32)
    names = ["IN", "IN", "IN_OR_OUT", "IN_OR_OUT", "OUT", "UNKNOWN"]
    assert [KeypointState(s).name for s in presence.states(values)] == names
    # Neither like the ones nor like the others.
    odd = replace(presence, in_scores=(0.9,) * 1999, out_scores=(0.1,) * 99)
    assert odd.states(np.array([0.5]))[0] == KeypointState.UNKNOWN
    # 998 samples cannot show that something happens less often than once in 1000: nothing is dropped.
    assert KeypointState.OUT not in replace(presence, in_scores=(0.9,) * 998).states(values)
    assert KeypointState.OUT not in replace(presence, drop=0.0).states(values)
    # Without any example of a joint out of the window, OUT is never excluded.
    assert (replace(presence, out_scores=()).states(values[:3]) == KeypointState.IN_OR_OUT).all()


def test_unknown_levels_are_refused():
    with pytest.raises(CalibrationError, match=r"levels \[0.7\]: calibrated are 0.5, 0.95"):
        example().columns([0.7])


@pytest.fixture
def config(tiny_detector_model, tiny_pose_model) -> PipelineConfig:
    return PipelineConfig(detector=str(tiny_detector_model), model=str(tiny_pose_model), threads=1)


IMAGE = person_image((40, 40, 100, 200))


def test_pipeline_gives_calibrated_regions_presence_and_quality(config, tmp_path):
    plain = Pipeline(config)
    path = write(tmp_path / "a.calibration.json", example(plain.subject))
    pipeline = Pipeline(replace(config, calibration=path))
    assert pipeline.calibration_error == "" and pipeline.calibration.id
    (before,), (after,) = plain(IMAGE).people, pipeline(IMAGE).people
    assert after.regions.kind == RegionKind.MARGINAL and before.regions.kind == RegionKind.UNKNOWN
    low = pipeline.calibration.bins(np.zeros(NUM_KEYPOINTS, int), before.quality) < 2
    assert after.regions.valid[:, 0].all() and (after.regions.valid[:, 1] == ~low).all()
    np.testing.assert_allclose(after.presence, np.interp(before.presence, [0, 0.5, 1], [0.1, 0.4, 0.9]), rtol=1e-5)
    np.testing.assert_allclose(after.quality, np.interp(before.quality, [0.2, 0.8], [0.3, 0.7]), rtol=1e-5)
    np.testing.assert_array_equal(after.states, example().presence.states(before.presence))
    np.testing.assert_array_equal(after.keypoints, before.keypoints)


def foreign(subject: Subject, what: str) -> Subject:
    changes = {"model_sha256": "cd" * 32, "precision": "fp16", "input_size": (96, 128), "detector": GIVEN_BOXES}
    return replace(subject, **{what: changes[what]})


@pytest.mark.parametrize("fault", ["model_sha256", "precision", "input_size", "detector", "levels", "missing", "junk"])
def test_a_calibration_that_does_not_fit_leaves_nothing_valid_and_the_pipeline_running(config, tmp_path, fault, caplog):
    subject, path = Pipeline(config).subject, tmp_path / "a.calibration.json"
    if fault == "junk":
        path.write_text("{}")
    elif fault == "levels":
        write(path, example(subject, levels=(0.4, 0.9)))
    elif fault != "missing":
        write(path, example(foreign(subject, fault)))
    pipeline = Pipeline(replace(config, calibration=str(path)))
    assert pipeline.calibration is None
    words = {"missing": "no such calibration file", "junk": "format_version", "levels": "calibrated are 0.4, 0.9"}
    assert words.get(fault, f"calibrated for {fault}") in pipeline.calibration_error
    assert str(path) in pipeline.calibration_error and pipeline.calibration_error in caplog.text
    frame = pipeline(IMAGE)
    assert frame.state == FrameState.UNKNOWN
    (person,) = frame.people
    assert (person.states == KeypointState.UNKNOWN).all()
    assert person.regions.kind == RegionKind.UNKNOWN and not person.regions.valid.any()
    assert not any(zone.valid for zone in zones_at(bodies(frame, NodeConfig()), 0.0, NodeConfig()))


def beside_model(config: PipelineConfig, folder: Path, calibration: Calibration) -> PipelineConfig:
    """The model copied into a folder with a calibration beside it."""
    model = folder / "m.onnx"
    shutil.copy(config.model, model)
    write(beside(model), calibration)
    return replace(config, model=str(model), levels=[0.5, 0.95])


def test_the_calibration_beside_the_model_is_used(config, tmp_path):
    config = beside_model(config, tmp_path, example(Pipeline(config).subject))
    assert config.calibration == AUTO
    pipeline = Pipeline(config)
    assert pipeline.calibration is not None and not pipeline.calibration_error
    assert pipeline(IMAGE).people[0].regions.kind == RegionKind.MARGINAL
    assert Pipeline(replace(config, region_kind="pac"))(IMAGE).people[0].regions.kind == RegionKind.PAC
    assert Pipeline(replace(config, calibration="")).calibration is None


@pytest.mark.parametrize("what", ["detector", "levels", "model_sha256"])
def test_the_calibration_beside_the_model_may_not_fit(config, tmp_path, what, caplog):
    subject = Pipeline(config).subject
    wrong = example(subject, levels=(0.4, 0.9)) if what == "levels" else example(foreign(subject, what))
    pipeline = Pipeline(beside_model(config, tmp_path, wrong))
    assert pipeline.calibration is None and "m.calibration.json" in caplog.text
    # Who chose another detector or other levels did not ask for it; a model that is not the one it was made for is a
    # fault.
    assert bool(pipeline.calibration_error) == (what == "model_sha256")
    person = pipeline(IMAGE).people[0]
    assert not person.regions.valid.any() and person.regions.kind == RegionKind.UNKNOWN
    assert (person.states == KeypointState.UNKNOWN).all() == (what == "model_sha256")


def test_a_model_without_maps_cannot_be_calibrated(config, tmp_path):
    config = replace(config, model=str(write_tiny_pose(tmp_path / "plain.onnx", probmap=False)))
    path = write(tmp_path / "a.calibration.json", example(Pipeline(config).subject))
    assert "--with-probmap" in Pipeline(replace(config, calibration=path)).calibration_error


def test_bundled_calibrations_belong_to_bundled_models():
    for folder in model_dirs():
        for path in folder.glob(f"*{SUFFIX}"):
            calibration = load_calibration(path)
            assert calibration.subject.model_sha256 in {file_sha256(model) for model in folder.glob("*.onnx")}, path


def test_the_pages_show_the_bundled_calibrations():
    folder = Path(__file__).parents[1]
    pages = "".join(page.read_text() for page in folder.glob("docs/calibration*.md"))
    for path in (folder / "models").glob(f"*{SUFFIX}"):
        subject = load_calibration(path).subject
        assert f"Model `{subject.model}`, sha256 `{subject.model_sha256[:12]}...`" in pages, path


def test_every_quality_has_a_bin():
    calibration = example()
    quality = np.array([0, 0.25, 0.5, 0.75, 1, 0.2499])
    assert calibration.bins(np.zeros(6, int), quality).tolist() == [0, 1, 2, 3, 3, 0]
    thresholds = calibration.thresholds(np.zeros(6, int), np.array([0, 1, 2, 3, 3, 0]), np.zeros(6))
    assert thresholds[:, 0].tolist() == [0.4, 0.4, 0.5, 0.5, 0.5, 0.4]
    assert QUALITY_BINS == 4
