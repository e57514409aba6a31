import importlib.util
import pathlib
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from jaxai.gan import fidelity

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def maker():
    spec = importlib.util.spec_from_file_location("make_gan_fidelity", GOLDEN / "make_gan_fidelity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made = maker()
SAMPLES = {"floor": made.features(1), "near": made.features(2, 0.2), "far": made.features(3, 2.0)}
REAL = made.features(0)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "gan_fidelity.npz") as arrays:
        return dict(arrays)


def rectified(examples, width, seed):
    """Features of a ReLU layer of which a fifth is always 0."""
    weights = np.random.default_rng(7).normal(size=(30, width))
    weights[:, ::5] = 0
    hidden = np.random.default_rng(seed).normal(size=(examples, 30))
    return (np.maximum(hidden @ weights - 1, 0) + 5).astype(np.float32)


def decaying(examples, width, seed):
    """Standard deviations from 10 down to 0.01, in no feature's own direction, far from 0."""
    rotation = np.linalg.qr(np.random.default_rng(7).normal(size=(width, width)))[0]
    scaled = np.random.default_rng(seed).normal(size=(examples, width)) * np.logspace(1, -2, width)
    return (scaled @ rotation + 3).astype(np.float32)


def few_directions(examples, width, seed):
    """As many features as examples, less one, of a quarter of the rank."""
    hidden = np.random.default_rng(seed).normal(size=(examples, width // 4))
    return (hidden @ np.random.default_rng(7).normal(size=(width // 4, width))).astype(np.float32)


def frechet_distance_in_float64(first, second):
    first, second = first.astype(np.float64), second.astype(np.float64)
    # The root of a singular matrix is beyond some releases of scipy; what is added here is taken off again.
    least = 1e-9 * first.var(0).mean() * np.eye(first.shape[1])
    covariances = np.cov(first.T) + least, np.cov(second.T) + least
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linalg.LinAlgWarning)
        root = linalg.sqrtm(covariances[0] @ covariances[1])
    difference = first.mean(0) - second.mean(0)
    return difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root.real)


@pytest.mark.parametrize("make", [rectified, decaying, few_directions])
@pytest.mark.parametrize(
    ("width", "examples"),
    [(64, 65), (64, 2000), (200, 250), pytest.param(2048, 5000, marks=pytest.mark.slow)],  # the last: Inception's
)
def test_real_against_real_equals_scipy_in_float64(make, width, examples):
    first, second = make(examples, width, 0), make(examples, width, 1)
    distance = frechet_distance_in_float64(first, second)
    assert float(fidelity.frechet_distance(first, second)) == pytest.approx(distance, rel=1e-3)
    stored = fidelity.statistics(first)
    assert float(fidelity.frechet_distance(stored, second)) == pytest.approx(distance, rel=1e-3)
    assert float(fidelity.frechet_distance(stored, fidelity.statistics(second))) == pytest.approx(distance, rel=1e-3)


def test_shifted_and_stretched_samples_equal_scipy_in_float64():
    first, second = decaying(500, 64, 0), 1.5 * decaying(500, 64, 1) + 2
    distance = frechet_distance_in_float64(first, second)
    assert float(fidelity.frechet_distance(first, second)) == pytest.approx(distance, rel=1e-5)


def test_distance_of_a_sample_to_itself_is_zero():
    features = rectified(500, 64, 0)
    assert 0 <= float(fidelity.frechet_distance(features, features)) < 1e-6 * features.var(0).sum()


def test_diagonal_gaussians_have_the_closed_form():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(2, 16)).astype(np.float32)
    deviations = np.exp(rng.normal(size=(2, 16))).astype(np.float32)
    deviations[0, 3] = 0
    gaussians = [
        fidelity.Statistics(jnp.asarray(mean), jnp.diag(jnp.asarray(deviation) ** 2), 1000)
        for mean, deviation in zip(means, deviations, strict=True)
    ]
    closed = np.sum((means[0] - means[1]) ** 2) + np.sum((deviations[0] - deviations[1]) ** 2)
    assert float(fidelity.frechet_distance(*gaussians)) == pytest.approx(closed, rel=1e-5)


def test_statistics_are_numpy_s_in_float64_far_from_zero():
    features = decaying(5000, 8, 0) + 1000
    given = fidelity.statistics(features, "a network")
    assert (given.count, given.extractor) == (5000, "a network")
    np.testing.assert_allclose(given.mean, features.astype(np.float64).mean(0), rtol=1e-6)
    covariance = np.cov(features.T.astype(np.float64))
    np.testing.assert_allclose(given.covariance, covariance, atol=1e-6 * np.abs(covariance).max())


def test_distance_inside_jit_and_vmap_is_the_one_outside():
    batch = jnp.stack(list(SAMPLES.values()))
    constant = jnp.asarray(REAL)
    together = jax.jit(jax.vmap(lambda generated: fidelity.frechet_distance(constant, generated)))(batch)
    alone = [fidelity.frechet_distance(REAL, generated) for generated in batch]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    stored = fidelity.statistics(REAL, "a")
    assert float(jax.jit(fidelity.frechet_distance)(stored, batch[0])) == pytest.approx(float(alone[0]), rel=1e-4)


@pytest.mark.parametrize("name", SAMPLES)
def test_measures_equal_torch_fidelity_and_prdc(golden, name):
    generated = SAMPLES[name]
    precision, recall = fidelity.precision_recall(REAL, generated)
    density, coverage = fidelity.density_coverage(REAL, generated)
    kernel = fidelity.kernel_distance(REAL, generated, KEY, subsets=1, subset_size=len(REAL))
    measured = {
        "frechet_distance": fidelity.frechet_distance(REAL, generated),
        "kernel_distance": kernel.mean,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }
    for measure, value in measured.items():
        assert value.shape == ()
        assert value.dtype == jnp.float32
        assert float(value) == pytest.approx(float(golden[f"{name}/{measure}"]), rel=1e-4), measure


@pytest.mark.parametrize("splits", [1, 7, 10])
def test_inception_score_equals_torch_fidelity(golden, splits):
    np.testing.assert_allclose(
        fidelity.inception_score(made.logits(4), splits), golden[f"inception_score/{splits}"], rtol=1e-5, atol=1e-5
    )


def test_inception_score_has_its_limits():
    certain = 1e4 * jnp.eye(10)[jnp.arange(100) % 10]
    np.testing.assert_allclose(fidelity.inception_score(certain), (10, 0), rtol=1e-5)
    np.testing.assert_allclose(fidelity.inception_score(jnp.zeros((100, 10))), (1, 0), atol=1e-6)


def discrepancy(first, second, degree):
    """The unbiased estimate pair by pair, in float64."""
    first, second = first.astype(np.float64), second.astype(np.float64)

    def mean(x, y, same):
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
        return sum((x[i] @ y[j] / x.shape[1] + 1) ** degree for i, j in pairs) / len(pairs)

    return mean(first, first, True) + mean(second, second, True) - 2 * mean(first, second, False)


@pytest.mark.parametrize("degree", [1, 3])
def test_kernel_distance_of_all_samples_equals_a_double_loop(degree):
    first, second = SAMPLES["near"][:40], SAMPLES["far"][:40]
    measured = fidelity.kernel_distance(first, second, KEY, subsets=3, subset_size=40, degree=degree)
    expected = discrepancy(first, second, degree)
    assert float(measured.mean) == pytest.approx(expected, rel=1e-4)
    assert float(measured.standard_deviation) == pytest.approx(0, abs=1e-4 * abs(expected))


def test_kernel_distance_keeps_its_digits_far_from_zero():
    first, second = (0.1 * made.features(seed)[:40] + 3 for seed in (0, 1))
    measured = fidelity.kernel_distance(first, second, KEY, subsets=3, subset_size=40)
    assert float(measured.mean) == pytest.approx(discrepancy(first, second, 3), rel=1e-3)


def test_kernel_distance_of_subsets_averages_to_that_of_all():
    everything = fidelity.kernel_distance(REAL, SAMPLES["near"], KEY, subsets=1, subset_size=600)
    parts = fidelity.kernel_distance(REAL, SAMPLES["near"], KEY, subsets=400, subset_size=100)
    np.testing.assert_allclose(parts.standard_error, parts.standard_deviation / 20, rtol=1e-6)
    assert abs(float(parts.mean - everything.mean)) < 4 * float(parts.standard_error)
    assert float(parts.standard_error) > 0


def test_precision_and_the_rest_equal_a_double_loop_for_other_sizes():
    real, generated = REAL[:50], SAMPLES["far"][:31]

    def distance(x, y):
        return np.array([[np.linalg.norm(a.astype(np.float64) - b) for b in y] for a in x])

    def radii(x, k):
        return np.sort(distance(x, x), axis=1)[:, k]

    between = distance(real, generated)
    precision, recall = fidelity.precision_recall(real, generated, k=2)
    assert float(precision) == pytest.approx(np.mean(np.any(between <= radii(real, 2)[:, None], axis=0)))
    assert float(recall) == pytest.approx(np.mean(np.any(between <= radii(generated, 2)[None, :], axis=1)))
    held = between <= radii(real, 4)[:, None]
    density, coverage = fidelity.density_coverage(real, generated, k=4)
    assert float(density) == pytest.approx(held.sum() / (4 * 31))
    assert float(coverage) == pytest.approx(np.mean(held.any(axis=1)))


def manifolds_in_float64(real, generated, k, wide_k):
    """Precision, recall, density and coverage from all differences, in float64."""
    real, generated = real.astype(np.float64), generated.astype(np.float64)

    def squares(x, y):
        return ((x[:, None] - y[None]) ** 2).sum(-1)

    def radii(x, k):
        return np.sort(squares(x, x), axis=1)[:, k]

    between = squares(real, generated)
    held = between <= radii(real, wide_k)[:, None]
    return {
        "precision": (between <= radii(real, k)[:, None]).any(0).mean(),
        "recall": (between <= radii(generated, k)[None]).any(1).mean(),
        "density": held.sum() / (wide_k * len(generated)),
        "coverage": held.any(1).mean(),
    }


def measured_manifolds(real, generated, k=3, wide_k=5):
    pairs = fidelity.precision_recall(real, generated, k), fidelity.density_coverage(real, generated, wide_k)
    names = ("precision", "recall", "density", "coverage")
    return dict(zip(names, map(float, [*pairs[0], *pairs[1]]), strict=True))


@pytest.mark.parametrize("copies", [2, 4, 7])
def test_a_set_with_duplicates_has_full_precision_and_recall_against_itself(copies):
    # Far from 0, where a product of matrices rounds more than the distances are.
    features = np.repeat(made.features(5)[:90] + 50, copies, axis=0).astype(np.float32)
    found = measured_manifolds(features, features[np.random.default_rng(0).permutation(len(features))])
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert found == pytest.approx(manifolds_in_float64(features, features, 3, 5))
    # A network rounds copies of an image in other ways where they are in other places of a batch.
    rounded = features * np.random.default_rng(1).choice(np.float32([1, 1 + 2**-23]), features.shape)
    assert measured_manifolds(features, rounded)["precision"] == 1


def test_what_is_exactly_as_far_as_the_neighbour_is_inside():
    # On a lattice many examples are equally far.
    random = np.random.default_rng(3)
    real, generated = (random.integers(0, 4, (count, 3)).astype(np.float32) / 4 + 7 for count in (150, 90))
    for k, wide_k in ((1, 1), (3, 5), (8, 20)):
        lattice = [np.round((each - 7) * 4) for each in (real, generated)]
        assert measured_manifolds(real, generated, k, wide_k) == pytest.approx(
            manifolds_in_float64(*lattice, k, wide_k), abs=1e-6
        )


def test_a_collapsed_generator_is_precise_and_covers_nothing():
    one_image = np.repeat(REAL[:1], 600, axis=0)
    precision, recall = fidelity.precision_recall(REAL, one_image)
    _, coverage = fidelity.density_coverage(REAL, one_image)
    assert float(precision) == 1
    assert float(recall) == pytest.approx(1 / 600)
    assert float(coverage) < 0.1


def test_neighbours_in_blocks_equal_a_sort_of_all_distances(monkeypatch):
    queries, references = SAMPLES["near"][:103], REAL
    between = np.linalg.norm(queries[:, None].astype(np.float64) - references[None], axis=-1)
    monkeypatch.setattr(fidelity, "_BLOCK", 10 * len(references))
    distances, indices = fidelity.neighbours(queries, references, 7)
    np.testing.assert_array_equal(indices, np.argsort(between, axis=1)[:, :7])
    np.testing.assert_allclose(distances, np.sort(between, axis=1)[:, :7], rtol=1e-5)


def test_a_copy_is_its_own_nearest_neighbour_at_distance_zero():
    images = np.random.default_rng(0).uniform(-1, 1, (200, 784)).astype(np.float32)
    distances, indices = fidelity.neighbours(images[50:60], images, 1)
    np.testing.assert_array_equal(indices[:, 0], np.arange(50, 60))
    np.testing.assert_array_equal(distances, 0)


def test_mode_coverage_is_the_share_of_each_label():
    shares = fidelity.mode_coverage(jnp.array([0, 0, 1, 3] * 50 + [4]), 6)
    np.testing.assert_allclose(shares, np.array([100, 50, 0, 50, 1, 0]) / 201, rtol=1e-6)
    assert fidelity.covered(shares) == 3
    assert fidelity.covered(shares, least=0.001) == 4


FEW, WIDE = np.ones((20, 24), np.float32), np.ones((600, 30), np.float32)
BROKEN = np.where(np.arange(24) == 3, np.nan, REAL).astype(np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fidelity.frechet_distance(REAL, FEW), "generated has 20 samples.*24 features: at least 25"),
        (lambda: fidelity.frechet_distance(fidelity.statistics(FEW), REAL), "real has 20 samples.*at least 25"),
        (lambda: jax.jit(fidelity.frechet_distance)(REAL, FEW), "at least 25"),
        (
            lambda: fidelity.frechet_distance(fidelity.statistics(WIDE, "LeNet"), REAL),
            "real has 30 features of extractor LeNet and generated has 24 of .not named.",
        ),
        (
            lambda: fidelity.frechet_distance(fidelity.statistics(REAL, "LeNet"), fidelity.statistics(REAL, "VGG")),
            "24 features of extractor LeNet and generated has 24 of VGG",
        ),
        (lambda: fidelity.frechet_distance(REAL, BROKEN), "generated has 600 non-finite values of 14400"),
        (
            lambda: fidelity.frechet_distance(fidelity.statistics(REAL).replace(mean=BROKEN[0]), REAL),
            "mean of real has 1 non-finite",
        ),
        (lambda: fidelity.statistics(REAL[0]), r"\(24,\), expected \[examples, features\]"),
        (lambda: fidelity.statistics(REAL[:1]), "1 example"),
        (lambda: fidelity.kernel_distance(REAL, FEW, KEY), "subset_size is 1000 and real has 600 samples"),
        (lambda: fidelity.kernel_distance(REAL, FEW, KEY, subset_size=50), "generated has 20 samples"),
        (lambda: fidelity.kernel_distance(REAL, FEW, KEY, subset_size=20, subsets=0), "subsets is 0"),
        (lambda: fidelity.kernel_distance(REAL, WIDE, KEY), "real has 24 features and generated has 30"),
        (lambda: fidelity.precision_recall(REAL, FEW, k=20), "k is 20 for 20 samples: give 1 to 19"),
        (lambda: fidelity.density_coverage(REAL, FEW, k=0), "k is 0"),
        (lambda: fidelity.neighbours(REAL, FEW, 21), "k is 21 for 20 references: give 1 to 20"),
        (lambda: fidelity.inception_score(FEW, 21), "splits is 21 for 20 samples"),
        (lambda: fidelity.mode_coverage(jnp.array([0, 7]), 7), "from 0 to 7, expected 0 to 6"),
        (lambda: fidelity.mode_coverage(jnp.array([0.5]), 7), "float32"),
    ],
)
def test_bad_arguments_are_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_least_samples_are_enough():
    least = fidelity.least_samples(24)
    assert np.isfinite(fidelity.frechet_distance(REAL[:least], SAMPLES["near"][:least]))
    with pytest.raises(ValueError, match=re.escape(f"at least {least} ")):
        fidelity.frechet_distance(REAL[: least - 1], REAL)
