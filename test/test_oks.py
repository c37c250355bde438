"""The OKS formula, against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest

from probpose_ros.oks import oks, oks_variance
from probpose_ros.skeleton import EDGES, FLIP_INDEX, KEYPOINT_NAMES, LOWER_BODY, NUM_KEYPOINTS, SIGMAS, UPPER_BODY


def test_agrees_with_pycocotools():
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(0)
    evaluator = cocoeval.COCOeval(iouType="keypoints")
    np.testing.assert_allclose(evaluator.params.kpt_oks_sigmas, SIGMAS, rtol=1e-12)
    truth, found = rng.uniform(0, 200, (2, NUM_KEYPOINTS, 2))
    flags = np.ones((NUM_KEYPOINTS, 1))
    area = 5000.0
    evaluator._gts[0, 1] = [{
        "keypoints": np.hstack([truth, 2 * flags]).ravel().tolist(), "bbox": [0, 0, 200, 200],
        "area": area, "ignore": 0,
    }]  # fmt: skip
    evaluator._dts[0, 1] = [{"keypoints": np.hstack([found, flags]).ravel().tolist(), "score": 1.0}]
    expected = evaluator.computeOks(0, 1)[0, 0]
    ours = oks(((truth - found) ** 2).sum(-1), oks_variance(area)).mean()
    # pycocotools adds one spacing of 1.0 to the area.
    assert ours == pytest.approx(expected, rel=1e-9)


def test_shapes_and_limits():
    assert oks_variance(np.ones((2, 3))).shape == (2, 3, NUM_KEYPOINTS)
    assert oks(np.array([0.0, 1e9]), np.array(2.0)).tolist() == [1.0, 0.0]
    # At a distance of sqrt(variance) the score is exp(-1/2), whatever the joint.
    variance = oks_variance(1234.0)
    np.testing.assert_allclose(oks(variance, variance), np.exp(-0.5))


def test_skeleton_is_consistent():
    np.testing.assert_array_equal(FLIP_INDEX[FLIP_INDEX], np.arange(NUM_KEYPOINTS))
    for k, name in enumerate(KEYPOINT_NAMES):
        mirrored = name.replace("left", "*").replace("right", "left").replace("*", "right")
        assert KEYPOINT_NAMES[FLIP_INDEX[k]] == mirrored
        assert SIGMAS[k] == SIGMAS[FLIP_INDEX[k]]
    # Mirroring the skeleton gives the same bones.
    bones = {frozenset(edge) for edge in EDGES}
    assert {frozenset(FLIP_INDEX[list(edge)].tolist()) for edge in EDGES} == bones
    assert sorted((*UPPER_BODY, *LOWER_BODY)) == list(range(NUM_KEYPOINTS))
