"""Ex-OKS and Ex-mAP against the recorded runs of the published tool, and against pycocotools."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probpose_training.metrics import exmap
from probpose_training.metrics.coco_ap import STATS, coco_ap
from probpose_training.metrics.exoks import border_distance, ex_oks, min_padding, relabel, window_of

GOLDEN = Path(__file__).parents[1] / "../shared/reference/golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the reference folder ../shared is not there")
RUNS = [
    "exo_oks", "exo_exoks_thr0.05", "exo_exoks_thr0.25", "exo_exoks_thr0.45", "exo_exoks_thr0.5", "exo_exoks_thr0.75",
    "exo_exoks_thrNone", "exo_exoks_thr0.5_pad1.0", "exo_exoks_thr0.5_pad1.5", "exo_exoks_thr0.5_nopadkey",
    "exo_oks_nopadkey", "ref_oks", "ref_exoks_thr0.5", "ref_exoks_thr0.5_noborder", "ref_exoks_thr0.5_matchbbox",
]  # fmt: skip
OPTIONS = {"extended_oks": "extended", "confidence_thr": "threshold"}


def golden(name: str):
    return json.loads((GOLDEN / name).read_text())


def as_labelled(annotations: dict) -> dict:
    """Without keypoints outside the image, as pycocotools needs it."""
    content = copy.deepcopy(annotations)
    for annotation in content["annotations"]:
        annotation["keypoints"][2::3] = [v if v < 3 else 0 for v in annotation["keypoints"][2::3]]
    return content


@needs_golden
def test_all_recorded_runs_are_tested() -> None:
    assert {name for name in golden("exoks_expected.json") if not name.startswith("xt_")} == set(RUNS)


@needs_golden
@pytest.mark.parametrize("name", RUNS)
def test_recorded_run(name: str) -> None:
    run = golden("exoks_expected.json")[name]
    options = {OPTIONS.get(key, key): value for key, value in run["params"].items()}
    protocol = replace(exmap.EXOCOCOTOOLS, **options)
    evaluation = exmap.evaluate(golden(run["gt"]), golden("exoks_dets.json"), protocol)
    assert list(evaluation.levels) == run["gt_visibilities"]
    assert list(evaluation.stats) == run["stats_names"]
    np.testing.assert_allclose(list(evaluation.stats.values()), run["stats"], atol=1e-6)

    expected = {tuple(row[:4].astype(int)): row[4] for row in np.load(GOLDEN / "exoks_pairs.npz")[name]}
    ours = {tuple(row[:4].astype(int)): row[4] for row in evaluation.pairs}
    assert ours.keys() == expected.keys()
    np.testing.assert_allclose([ours[key] for key in expected], list(expected.values()), atol=1e-5)


@needs_golden
@pytest.mark.parametrize("threshold", [0.25, 0.5])
@pytest.mark.parametrize("padding", [1.0, 1.25])
def test_single_keypoints(threshold: float, padding: float) -> None:
    recorded = np.load(GOLDEN / "exoks_unit.npz")
    suffix = f"_thr{threshold}_pad{padding}"
    for case, score, v in zip(recorded["cases"], recorded["exoks" + suffix], recorded["v_after" + suffix], strict=True):
        k, bbox, area, truth, predicted, presence = int(case[0]), case[1:5], case[5], case[6:8], case[10:12], case[12]
        assert relabel(case[8:9], case[9:10], padding) == v
        true_points, points, visibility = np.zeros((17, 2)), np.zeros((17, 2)), np.zeros(17)
        true_points[k], points[k], visibility[k] = truth, predicted, v
        present = np.full(17, presence >= threshold)
        result = ex_oks(true_points, visibility, points, present, window_of(bbox, padding), area, "exococotools")
        assert result[k] == pytest.approx(score, abs=1e-5)


@needs_golden
def test_min_padding_recorded() -> None:
    recorded = np.load(GOLDEN / "affine.npz")
    boxes, keypoints = recorded["boxes_xyxy"].astype(float), recorded["keypoints_v"]
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    ours = min_padding(boxes, keypoints[:, :2], keypoints[:, 2])
    np.testing.assert_allclose(ours, recorded["min_padding"], rtol=1e-6)


@settings(deadline=None)
@given(st.floats(-300, 300), st.floats(-300, 300), st.floats(10, 200), st.floats(10, 200))
def test_min_padding_is_the_padding_that_just_holds_the_point(x: float, y: float, w: float, h: float) -> None:
    bbox, point = np.array([0.0, 0.0, w, h]), np.array([[x, y]])
    needed = float(min_padding(bbox, point, np.array([2]))[0])
    for padding, holds in ((needed * 1.001, True), (needed * 0.999, needed == 1)):
        window = window_of(bbox, padding)
        inside = bool(((point >= window[:2]) & (point <= window[2:])).all())
        assert inside == holds or needed == 1


def test_border_distance_of_the_paper_is_to_the_nearest_edge() -> None:
    window = np.array([0.0, 0.0, 40.0, 60.0])
    edge = np.linspace(0, 1, 2001)[:, None]
    corners = np.array([[0, 0], [40, 0], [40, 60], [0, 60], [0, 0]], dtype=float)
    border = np.concatenate([a + edge * (b - a) for a, b in zip(corners[:-1], corners[1:], strict=True)])
    points = np.random.default_rng(0).uniform(-50, 110, (200, 2))
    nearest = ((points[:, None] - border[None]) ** 2).sum(-1).min(axis=1)
    np.testing.assert_allclose(np.sqrt(border_distance(points, window)), np.sqrt(nearest), atol=0.02)


def test_ex_oks_four_cases() -> None:
    window, area = np.array([0.0, 0.0, 75.0, 100.0]), 4000.0
    truth = np.zeros((17, 2)) + (30.0, 40.0)
    visibility = np.full(17, 2)
    near, far = truth + (1.0, 0.0), truth + (20.0, 0.0)
    yes, no = np.ones(17), np.zeros(17)
    assert (ex_oks(truth, visibility, truth, yes, window, area) == 1).all()
    assert (
        ex_oks(truth, visibility, near, yes, window, area) > ex_oks(truth, visibility, far, yes, window, area)
    ).all()
    # Said to be absent: the place of the prediction is of no matter, the depth of the truth in the window is.
    np.testing.assert_array_equal(
        ex_oks(truth, visibility, near, no, window, area), ex_oks(truth, visibility, far, no, window, area)
    )
    outside = np.full(17, 3)
    assert (ex_oks(truth, outside, near, no, window, area) == 1).all()
    at_edge, deep = np.zeros((17, 2)) + (0.5, 50.0), np.zeros((17, 2)) + (37.0, 50.0)
    lenient = ex_oks(truth, outside, at_edge, yes, window, area)
    strict = ex_oks(truth, outside, deep, yes, window, area)
    assert (lenient > 0.9).all() and (strict < lenient).all()


def test_relabel() -> None:
    v, pad = np.array([0, 1, 2, 3, 3, 2]), np.array([9.0, 1.0, 1.26, 1.25, 1.3, 1.0])
    assert relabel(v, pad).tolist() == [0, 1, 3, 1, 3, 2]
    assert relabel(v, None) is not None and relabel(v, None).tolist() == v.tolist()


def noisy_set(seed: int = 0) -> tuple[dict, list[dict]]:
    """A made-up set with crowds, unlabelled persons, false and missed detections, and images without anyone."""
    rng = np.random.default_rng(seed)
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 400, "height": 400} for i in range(1, 26)]
    annotations, results = [], []
    for image in images[:-3]:
        for _ in range(rng.integers(1, 4)):
            w, h = rng.uniform(20, 150, 2)
            x, y = rng.uniform(0, 240, 2)
            v = rng.choice([0, 1, 2], 17, p=[0.2, 0.2, 0.6]) * (rng.random() > 0.1)
            points = np.column_stack([rng.uniform(x, x + w, 17), rng.uniform(y, y + h, 17), v])
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image["id"], "category_id": 1, "bbox": [x, y, w, h],
                    "area": 0.5 * w * h, "iscrowd": int(rng.random() < 0.1), "num_keypoints": int((v > 0).sum()),
                    "keypoints": points.ravel().tolist(),
                }
            )  # fmt: skip
            points[:, :2] += rng.normal(0, rng.choice([1, 4, 12]), (17, 2))
            points[:, 2] = rng.random(17)
            if rng.random() < 0.85:
                results.append(
                    {
                        "image_id": image["id"], "category_id": 1, "bbox": [x, y, w, h],
                        "keypoints": points.ravel().tolist(), "score": round(float(rng.random()), 2),
                    }
                )  # fmt: skip
    for image in images[-6:]:
        results.append({**results[0], "image_id": image["id"], "score": 0.5})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}, results


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("boxes", [True, False])
def test_coco_accounting_is_pycocotools(seed: int, boxes: bool) -> None:
    annotations, results = noisy_set(seed)
    if not boxes:
        results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    ours, library = exmap.evaluate(annotations, results, exmap.COCO).stats, coco_ap(annotations, results)
    np.testing.assert_allclose([ours[name] for name in STATS], [library[name] for name in STATS], atol=1e-6)
    assert 0.05 < library["AP"] < 0.95


@needs_golden
def test_coco_accounting_is_pycocotools_on_the_recorded_set() -> None:
    annotations, results = golden("exoks_gt.json"), golden("exoks_dets.json")
    ours, library = exmap.evaluate(annotations, results, exmap.COCO).stats, coco_ap(annotations, results)
    np.testing.assert_allclose([ours[name] for name in STATS], [library[name] for name in STATS], atol=1e-6)


@pytest.mark.parametrize(
    "quirk", ["detections_need_truth", "crowds_are_persons", "drop_absent"],
)  # fmt: skip
def test_each_quirk_changes_the_score(quirk: str) -> None:
    annotations, results = noisy_set()
    absent = copy.deepcopy(results[0])
    absent["keypoints"][2::3] = [0.0] * 17
    results = [*results, {**absent, "score": 1.0}]
    plain = exmap.evaluate(annotations, results, exmap.COCO).stats
    quirky = exmap.evaluate(annotations, results, replace(exmap.COCO, **{quirk: True})).stats
    assert plain["AP"] != quirky["AP"]


def test_levels_quirk_is_an_error_with_a_name() -> None:
    annotations, results = noisy_set()
    for annotation in annotations["annotations"]:
        annotation["keypoints"][2::3] = [v and 2 for v in annotation["keypoints"][2::3]]
    with pytest.raises(ValueError, match="visibilities 1 .. n only"):
        exmap.evaluate(annotations, results, exmap.EXOCOCOTOOLS)
    assert exmap.evaluate(annotations, results, exmap.PAPER).levels == (2,)


def test_stats_of_repeated_images_is_a_set_with_copies() -> None:
    annotations, results = noisy_set()
    evaluation = exmap.evaluate(annotations, results, exmap.COCO)
    everything = evaluation.stats_of(np.arange(len(evaluation.image_ids)))
    np.testing.assert_allclose(list(everything.values()), list(evaluation.stats.values()))

    chosen = [3, 3, 3, 7, 9, 9, 20]
    copies: dict = {"images": [], "annotations": [], "categories": annotations["categories"]}
    copied_results = []
    for number, index in enumerate(chosen, 1):
        image_id = int(evaluation.image_ids[index])
        copies["images"].append({**annotations["images"][index], "id": number})
        for annotation in annotations["annotations"]:
            if annotation["image_id"] == image_id:
                copies["annotations"].append({**annotation, "image_id": number, "id": len(copies["annotations"]) + 1})
        copied_results += [{**result, "image_id": number} for result in results if result["image_id"] == image_id]
    expected = coco_ap(copies, copied_results)
    ours = evaluation.stats_of(np.array(chosen))
    np.testing.assert_allclose([ours[name] for name in STATS], [expected[name] for name in STATS], atol=1e-9)


def test_bad_results_are_refused() -> None:
    annotations, results = noisy_set()
    with pytest.raises(ValueError, match="result 1: image_id 99 is not in the annotations"):
        exmap.evaluate(annotations, [{**results[0], "image_id": 99}])
    with pytest.raises(ValueError, match="result 1: keypoints must be 51 finite numbers"):
        exmap.evaluate(annotations, [{**results[0], "keypoints": [float("nan")] * 51}])
    with pytest.raises(ValueError, match="distance must be one of paper, exococotools, got 'far'"):
        replace(exmap.PAPER, distance="far")
