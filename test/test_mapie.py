"""A second implementation of split conformal prediction agrees with our thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from probpose_training.calibrate import marginal_threshold

regression = pytest.importorskip("mapie.regression", reason="needs MAPIE (pip install mapie), a cross-check only")
base = pytest.importorskip("sklearn.base")


class Zero(base.RegressorMixin, base.BaseEstimator):
    """Predicts 0, so that the absolute residual is the score itself."""

    def fit(self, X, y):
        self.fitted_ = True
        return self

    def predict(self, X):
        return np.zeros(len(X))


@pytest.mark.parametrize("n", [37, 200, 999])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_marginal_threshold_is_mapies_quantile(n, level):
    scores = np.random.default_rng(n).random(n)
    features = np.zeros((n, 1))
    conformal = regression.SplitConformalRegressor(Zero().fit(features, scores), confidence_level=level, prefit=True)
    conformal.conformalize(features, scores)
    interval = conformal.predict_interval(np.zeros((1, 1)))[1]
    assert marginal_threshold(scores, level) == pytest.approx(float(interval[0, 1, 0]), abs=1e-12)
