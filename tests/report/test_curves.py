import numpy as np
import scipy.stats

from jaxai.report import curves


def test_two_seeds_are_drawn_as_mean_and_range(tmp_path):
    x = np.arange(4)
    values = [np.array([1.0, 2, 3, 4]), np.array([3.0, 2, 1, 0])]
    *thin, mean = curves.seed_curves([(x, values[0]), (x, values[1])], 0, markers=False)
    assert [line.faint for line in thin] == [True, True]
    np.testing.assert_array_equal(mean.y, [2, 2, 2, 2])
    np.testing.assert_array_equal(mean.low, [1, 2, 1, 0])
    np.testing.assert_array_equal(mean.high, [3, 2, 3, 4])


def test_mean_is_over_the_steps_that_all_seeds_have():
    long, short = (np.arange(5), np.arange(5.0)), (np.array([1, 3]), np.array([11.0, 13.0]))
    mean = curves.seed_curves([long, short], 0, markers=False)[-1]
    np.testing.assert_array_equal(mean.x, [1, 3])
    np.testing.assert_array_equal(mean.y, [6, 8])


def test_band_of_many_seeds_is_the_bootstrap_interval_of_their_mean():
    values = np.random.default_rng(0).normal(size=(6, 4))
    *thin, mean = curves.seed_curves([(np.arange(4), row) for row in values], 0, markers=False)
    assert len(thin) == 6
    reference = scipy.stats.bootstrap((values,), np.mean, axis=0, method="percentile", n_resamples=20_000, rng=0)
    np.testing.assert_allclose(mean.low, reference.confidence_interval.low, atol=0.05)
    np.testing.assert_allclose(mean.high, reference.confidence_interval.high, atol=0.05)


def test_more_than_ten_seeds_have_no_lines_of_their_own():
    histories = [(np.arange(4), np.arange(4.0) + seed) for seed in range(11)]
    assert [line.faint for line in curves.seed_curves(histories, 0, markers=False)] == [False]
    assert sum(line.faint for line in curves.seed_curves(histories[:10], 0, markers=False)) == 10


def test_gap_of_a_seed_is_bridged_and_before_its_first_value_the_others_are_the_mean():
    x = np.arange(5)
    late, whole = np.array([np.nan, 10, np.nan, 30, 40]), np.array([0.0, 0, 0, 0, np.nan])
    *thin, mean = curves.seed_curves([(x, late), (x, whole), (x, np.full(5, np.nan))], 0, markers=False)
    assert [line.x.tolist() for line in thin] == [[1, 3, 4], [0, 1, 2, 3]]
    np.testing.assert_array_equal(mean.y, [0, 5, 10, 15, 40])
    np.testing.assert_array_equal(mean.low, [0, 0, 0, 0, 40])
    np.testing.assert_array_equal(mean.high, [0, 10, 20, 30, 40])


def test_mean_of_long_curves_keeps_its_ends_and_its_course():
    x = np.arange(5000)
    mean = curves.seed_curves([(x, x * 1.0), (x, x + 2.0)], 0, markers=False)[-1]
    assert len(mean.x) <= 500
    assert (mean.x[0], mean.x[-1]) == (0, 4999)
    np.testing.assert_allclose(mean.y[50:-50], mean.x[50:-50] + 1)


def test_long_line_is_smoothed_and_a_constant_stays_what_it_is():
    x = np.arange(1000)
    behind, strong = curves.seed_curves([(x, np.full(1000, 0.5))], 0, markers=False)
    assert behind.faint
    np.testing.assert_allclose(strong.y, 0.5)
    noise = np.random.default_rng(0).normal(size=1000)
    assert curves.seed_curves([(x, noise)], 0, markers=False)[1].y.std() < 0.4 * noise.std()
