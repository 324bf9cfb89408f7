"""Adaptation curves and their statistics, against closed forms and scipy."""

import numpy as np
import pytest
from scipy import stats

from metarl.curves import Curve, aggregate, interquartile_mean


def curve(values, **changes):
    values = np.asarray(values, dtype=np.float64)
    tasks = np.arange(values.shape[1], dtype=np.float64)[:, None]
    settings = {"title": "envs:X-v0", "measure": "return", "iteration": 7, "seed": 1, "amount": 2}
    rates = (0.1,) * (len(values) - 1)
    return Curve(**{**settings, "rates": rates, "tasks": tasks, "per_task": values, **changes})


def test_mean_and_standard_error_by_hand():
    found = curve([[1, 2, 3, 6], [0, 0, 0, 0]])
    assert found.steps == [0, 1]
    assert found.mean.tolist() == [3.0, 0.0]
    # Deviations −2, −1, 0, 3: sum of squares 14, / 3 for the variance, / 4 for the mean's.
    assert found.standard_error == pytest.approx([np.sqrt(14 / 3 / 4), 0.0])


def test_standard_error_is_that_of_scipy():
    values = np.random.default_rng(0).normal(size=(4, 11))
    np.testing.assert_allclose(curve(values).standard_error, stats.sem(values, axis=1), rtol=1e-12)


def test_one_task_has_no_standard_error():
    assert np.isnan(curve([[1.0], [2.0]]).standard_error).all()


@pytest.mark.parametrize("count", range(1, 14))
def test_interquartile_mean_is_the_quarter_trimmed_mean(count):
    values = np.random.default_rng(count).normal(size=(3, count))
    np.testing.assert_allclose(interquartile_mean(values), stats.trim_mean(values, 0.25, axis=-1))


def test_interquartile_mean_ignores_an_outlier():
    assert interquartile_mean(np.array([1.0, 2.0, 3.0, -1e9])) == 1.5


def test_aggregate_interval_is_that_of_scipys_bootstrap():
    rng = np.random.default_rng(3)
    curves = [curve(rng.normal(seed, 1.0, size=(2, 5))) for seed in rng.normal(size=8)]
    found = aggregate(curves, np.random.default_rng(0))
    means = np.stack([each.mean for each in curves])
    np.testing.assert_allclose(found.iqm, stats.trim_mean(means, 0.25, axis=0))
    for step in range(2):
        expected = stats.bootstrap(
            (means[:, step],),
            interquartile_mean,
            n_resamples=10_000,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        width = expected.high - expected.low
        assert found.low[step] == pytest.approx(expected.low, abs=0.05 * width)
        assert found.high[step] == pytest.approx(expected.high, abs=0.05 * width)


def test_aggregate_repeats_and_a_single_seed_has_no_interval():
    curves = [curve([[1.0, 2.0]]), curve([[5.0, 6.0]]), curve([[3.0, 3.0]])]
    first, second = (aggregate(curves, np.random.default_rng(5)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    alone = aggregate(curves[:1], np.random.default_rng(5))
    assert alone.iqm.tolist() == [1.5]
    assert np.isnan([alone.low, alone.high]).all()


def test_two_equal_seeds_give_an_interval_without_width():
    found = aggregate([curve([[1.0, 2.0]])] * 2, np.random.default_rng(0))
    assert found.low == found.high == found.iqm == [1.5]
