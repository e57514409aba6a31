import json
import time

import numpy as np
import pytest
import scipy.stats

from jaxai.report.statistics import bootstrap_interval, interquartile_mean


@pytest.fixture
def returns():
    return np.random.default_rng(3).gamma(2.0, 10.0, size=(10, 40))


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5, 7, 8, 10])
def test_interquartile_mean_is_the_mean_trimmed_by_a_quarter(returns, seeds):
    np.testing.assert_allclose(interquartile_mean(returns[:seeds]), scipy.stats.trim_mean(returns[:seeds], 0.25))
    np.testing.assert_allclose(
        interquartile_mean(returns[:seeds].T, axis=1), scipy.stats.trim_mean(returns[:seeds].T, 0.25, axis=1)
    )


def test_one_lucky_seed_does_not_move_the_interquartile_mean():
    assert interquartile_mean([10, 11, 12, 13]) == interquartile_mean([10, 11, 12, 1e6]) == 11.5


@pytest.mark.parametrize(("statistic", "reference"), [(np.mean, np.mean), (interquartile_mean, None)])
def test_interval_is_the_percentile_bootstrap(returns, statistic, reference):
    expected = scipy.stats.bootstrap(
        (returns,),
        reference or (lambda drawn, axis: scipy.stats.trim_mean(drawn, 0.25, axis=axis)),
        axis=0,
        n_resamples=20_000,
        vectorized=True,
        method="percentile",
        rng=1,
    ).confidence_interval
    low, high = bootstrap_interval(returns, statistic, resamples=20_000)
    width = expected.high - expected.low
    assert np.abs((low - expected.low) / width).max() < 0.03  # two draws of 20,000 differ by this much
    assert np.abs((high - expected.high) / width).max() < 0.03


def test_interval_covers_the_true_mean_as_often_as_its_confidence():
    samples = np.random.default_rng(0).normal(5.0, 2.0, size=(40, 1000))
    low, high = bootstrap_interval(samples, confidence=0.8, resamples=500)
    assert 0.74 < np.mean((low <= 5) & (high >= 5)) < 0.83


def test_curve_has_the_interval_of_each_of_its_points(returns):
    for statistic in (np.mean, interquartile_mean):
        band = bootstrap_interval(returns, statistic)
        points = [bootstrap_interval(point, statistic) for point in returns.T]
        np.testing.assert_allclose(np.transpose(band), points)


def test_mean_by_weights_is_the_mean_of_the_draws(returns):
    plain = bootstrap_interval(returns, lambda drawn, axis: drawn.mean(axis))
    np.testing.assert_allclose(bootstrap_interval(returns), plain)


def test_long_curve_is_cut_into_chunks_that_change_nothing(returns, monkeypatch):
    whole = [bootstrap_interval(returns, statistic) for statistic in (np.mean, interquartile_mean)]
    monkeypatch.setattr("jaxai.report.statistics.CHUNK", 1)
    cut = [bootstrap_interval(returns, statistic) for statistic in (np.mean, interquartile_mean)]
    np.testing.assert_allclose(whole, cut)


def test_same_seed_gives_the_same_interval(returns):
    np.testing.assert_array_equal(bootstrap_interval(returns, seed=4), bootstrap_interval(returns, seed=4))
    assert bootstrap_interval(returns[:, 0], seed=4) != bootstrap_interval(returns[:, 0], seed=5)


@pytest.mark.parametrize("statistic", [np.mean, interquartile_mean])
def test_one_value_and_equal_values_have_no_width(statistic):
    assert bootstrap_interval([3.5], statistic) == (3.5, 3.5)
    assert bootstrap_interval(np.full(6, 3.5), statistic) == pytest.approx((3.5, 3.5))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_diverged_seed_is_not_trimmed_away(bad):
    values = np.array([[1.0, 1.0], [2.0, bad], [3.0, 3.0], [4.0, 4.0]])
    assert interquartile_mean(values).tolist() == pytest.approx([2.5, np.nan], nan_ok=True)
    low, high = bootstrap_interval(values)
    assert np.isnan([low[1], high[1]]).all()
    assert low[0] < 2.5 < high[0]


def test_results_go_into_json():
    values = np.array([1, 2, 3], np.float32)
    assert json.loads(json.dumps([interquartile_mean(values), *bootstrap_interval(values)]))[0] == 2


def test_band_of_a_long_curve_over_many_seeds_is_cheap():
    curves = np.random.default_rng(0).normal(size=(64, 1000))
    started = time.perf_counter()
    bootstrap_interval(curves)
    assert time.perf_counter() - started < 5  # 0.1 s where the machine is idle


def test_nothing_and_a_wrong_confidence_are_refused_in_one_line():
    for wrong in (lambda: interquartile_mean([]), lambda: bootstrap_interval([])):
        with pytest.raises(ValueError, match=r"shape \[0\]"):
            wrong()
    with pytest.raises(ValueError, match="confidence is 95"):
        bootstrap_interval([1.0, 2.0], confidence=95)
