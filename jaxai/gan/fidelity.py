"""Measures of generated images over features, jitted and on the device.

Features are float32 [examples, features], computed by any extractor of the caller: a function of images. A value can be
compared with others of the same extractor and number of samples, and with the value between two samples of real images
(the floor), but not across extractors.

* `frechet_distance`, `kernel_distance`: distance between the distributions of two samples; 0 is best.
* `precision_recall`, `density_coverage`: share of generated samples that resemble real ones, and share of the real
  distribution that is covered.
* `inception_score`, `mode_coverage`: from a classifier's predictions for the generated samples.
* `neighbours`: the nearest examples, of features or pixels; shows whether a generator copies training images.

Every function may be called inside `jax.jit` and `jax.vmap`, where only the shapes of arguments are checked and not
their values. An invalid argument raises ValueError.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array, lax

from jaxai.core import Key, PyTree, T

__all__ = [
    "InceptionScore",
    "KernelDistance",
    "Statistics",
    "covered",
    "density_coverage",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "least_samples",
    "mode_coverage",
    "neighbours",
    "precision_recall",
    "statistics",
]

# A matrix unit that rounds its inputs to bfloat16 or TF32 would lose small distances.
_dot = functools.partial(jnp.dot, precision=lax.Precision.HIGHEST)
_BLOCK = 2**21  # distances held at a time: 8 MiB, which fit the caches
_TIES = 1e-6  # relative: sums of squares in float32 that differ by less count as equal
_SAME = 1e-12  # share of the mean square of examples: rounding error between the features of two copies of an image


class Statistics(struct.PyTreeNode):
    """Mean and covariance of features: sufficient for `frechet_distance`, and small enough to store.

    Attributes:
      mean: [features] float32.
      covariance: [features, features] float32, unbiased.
      count: number of examples that they were estimated from.
      extractor: name of the network of the features; statistics of different extractors are not compared.
    """

    mean: Array
    covariance: Array
    count: int = struct.field(pytree_node=False)
    extractor: str = struct.field(pytree_node=False, default="")


class KernelDistance(NamedTuple):
    """Float32 [] each: mean over subsets, its standard error, and standard deviation between subsets."""

    mean: Array
    standard_error: Array
    standard_deviation: Array


class InceptionScore(NamedTuple):
    """Float32 [] each: mean and standard deviation over splits."""

    mean: Array
    standard_deviation: Array


def least_samples(features: int) -> int:
    """Smallest number of examples for `frechet_distance`: features + 1, below which the covariance is singular.

    It is a minimum and not a recommendation. The distance is biased upwards by about 1/examples, so that two values are
    comparable only for the same number of examples; 10,000 is usual.
    """
    return features + 1


def statistics(features: Array, extractor: str = "") -> Statistics:
    """Mean and unbiased covariance of features.

    Args:
      features: [examples, features] float, at least 2 examples.
      extractor: name of the network of the features, stored with them.

    Raises:
      ValueError: another shape, fewer than 2 examples, or non-finite values.
    """
    features = _features("features", features)
    if features.shape[0] < 2:
        raise ValueError(f"features has {features.shape[0]} example, a covariance needs 2 or more")
    mean, factor = _moments(features)
    return Statistics(mean, _dot(factor.T, factor), features.shape[0], extractor)


def frechet_distance(real: Array | Statistics, generated: Array | Statistics) -> Array:
    """The squared Fréchet distance between Gaussians fitted to two samples (Heusel et al. 2017, eq. 6).

    `|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))` (Dowson and Landau 1982), arXiv:1706.08500. It is the FID only
    where the extractor is the Inception network of that paper.

    The trace is the minimum of `|F_1 - U F_2|^2` over rotations U, where `S = F^T F`. This sum of squares has no
    cancellation where the distance is small, and F is from the QR decomposition of the centred features, so that a
    singular covariance is no problem: float32 agrees with float64 to 1e-3 or better. Statistics hold only S, with a
    rounding error relative to its largest eigenvalue: for small distances in many dimensions, pass features.

    Args:
      real, generated: [examples, features] each, or their `statistics`.

    Returns:
      [] float32.

    Raises:
      ValueError: numbers of features or extractors differ, there are fewer examples than `least_samples`, or a value
        is not finite.
    """
    first, second = _sample("real", real), _sample("generated", generated)
    _expect_same_extractor(first, second)
    for name, sample in (("real", first), ("generated", second)):
        count, width = _count(sample), _width(sample)
        if count < least_samples(width):
            raise ValueError(
                f"{name} has {count} samples, too few for a stable Fréchet distance in {width} features: "
                f"at least {least_samples(width)} are needed, 10,000 are usual"
            )
    return _between(*_gaussian(first), *_gaussian(second))


def kernel_distance(
    real: Array, generated: Array, key: Key, *, subsets: int = 100, subset_size: int = 1000, degree: int = 3
) -> KernelDistance:
    """The unbiased squared maximum mean discrepancy of the kernel `(x.y / features + 1)^degree`, over random subsets.

    Binkowski et al. 2018, arXiv:1801.01401 (KID where the extractor is Inception). Unlike the Fréchet distance it has
    no bias, and may be below 0. Subsets are drawn independently, each without replacement.

    Args:
      real, generated: [examples, features] float, both with at least `subset_size` examples.
      key: draws the subsets.
      subsets: number of subsets.
      subset_size: number of examples of each sample in a subset, at least 2.
      degree: of the polynomial kernel, at least 1.

    Returns:
      The mean over subsets; its standard error, `standard_deviation / sqrt(subsets)`, which reflects the choice of
      subsets and not of the samples; and the standard deviation, which torch-fidelity prints.

    Raises:
      ValueError: shapes that do not fit, too few examples, non-finite values, or a number below its minimum.
    """
    real, generated = _pair(real, generated)
    for name, sample in (("real", real), ("generated", generated)):
        if not 2 <= subset_size <= sample.shape[0]:
            raise ValueError(
                f"subset_size is {subset_size} and {name} has {sample.shape[0]} samples: "
                "give a subset_size from 2 to the number of samples"
            )
    if subsets < 1 or degree < 1:
        raise ValueError(f"subsets is {subsets} and degree is {degree}: give 1 or more")
    return _kernel_distance(real, generated, key, subsets, subset_size, degree)


def inception_score(logits: Array, splits: int = 10) -> InceptionScore:
    """`exp E KL(p(y|x) || p(y))`: high where each label is certain and all labels occur (Salimans et al. 2016).

    arXiv:1606.03498. Between 1 and the number of classes. Values are comparable only for the same classifier; it is the
    Inception score only where that is Inception.

    Args:
      logits: [examples, classes] float, not normalised.
      splits: number of contiguous parts, in the given order, that are scored separately.

    Returns:
      Mean and (population) standard deviation over the splits.

    Raises:
      ValueError: another shape, non-finite values, or fewer examples than splits.
    """
    logits = _features("logits", logits)
    if not 1 <= splits <= logits.shape[0]:
        raise ValueError(f"splits is {splits} for {logits.shape[0]} samples: give 1 to {logits.shape[0]}")
    return _inception_score(logits, splits)


def precision_recall(real: Array, generated: Array, k: int = 3) -> tuple[Array, Array]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2).

    The manifold of a sample is the union of closed balls around its examples, with the distance to the `k`-th neighbour
    in the same sample as radius. Precision: share of generated examples in the real manifold. Recall: share of real
    examples in the generated manifold.

    Args:
      real, generated: [examples, features] float, both with more than `k` examples.
      k: the neighbour that sets the radius, from 1.

    Returns:
      Precision and recall, [] float32 each, 0 to 1.

    Raises:
      ValueError: shapes that do not fit, too few examples, or non-finite values.
    """
    real, generated = _pair(real, generated)
    _expect_neighbours(k, real, generated)
    return _share_within(generated, real, k), _share_within(real, generated, k)


def density_coverage(real: Array, generated: Array, k: int = 5) -> tuple[Array, Array]:
    """Density and coverage (Naeem et al. 2020, arXiv:2002.09797, eq. 4 and 5), which are robust to outliers.

    Each real example has a ball with the distance to its `k`-th real neighbour as radius. Density: average number of
    balls that contain a generated example, divided by `k`. Coverage: share of balls that contain a generated example.

    Args:
      real, generated: [examples, features] float, both with more than `k` examples.
      k: the neighbour that sets the radius, from 1.

    Returns:
      Density, 0 or more and about 1 for equal distributions, and coverage, 0 to 1; [] float32 each.

    Raises:
      ValueError: shapes that do not fit, too few examples, or non-finite values.
    """
    real, generated = _pair(real, generated)
    _expect_neighbours(k, real, generated)
    return _density_coverage(real, generated, k)


def neighbours(queries: Array, references: Array, k: int) -> tuple[Array, Array]:
    """The `k` references nearest to each query, nearest first.

    Args:
      queries: [queries, features] float: features or flattened pixels.
      references: [references, features] float, at least `k` of them.
      k: number of neighbours, from 1.

    Returns:
      Euclidean distances, [queries, k] float32, in the units of the features; indices of the references, [queries, k]
      int32.

    Raises:
      ValueError: shapes that do not fit, too few references, or non-finite values.
    """
    queries, references = _features("queries", queries), _features("references", references)
    _expect_same_width("queries", queries, "references", references)
    if not 1 <= k <= references.shape[0]:
        raise ValueError(f"k is {k} for {references.shape[0]} references: give 1 to {references.shape[0]}")
    return _neighbours(queries, references, k)


def mode_coverage(labels: Array, classes: int) -> Array:
    """The share of each label among a classifier's predictions.

    Args:
      labels: [examples] int, 0 to classes - 1, at least one.
      classes: number of classes.

    Returns:
      [classes] float32, with the sum 1.

    Raises:
      ValueError: another shape or dtype, no labels, or a label out of range.
    """
    labels = jnp.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are {labels.dtype} {labels.shape}, expected int [examples], one or more")
    if not isinstance(labels, jax.core.Tracer):
        lowest, highest = np.asarray(labels).min(), np.asarray(labels).max()
        if lowest < 0 or highest >= classes:
            raise ValueError(f"labels are from {lowest} to {highest}, expected 0 to {classes - 1}")
    return _mode_coverage(labels, classes)


def covered(shares: Array, least: float = 0.01) -> int:
    """Number of labels with a share above `least`; shares are from `mode_coverage`."""
    return int(np.sum(np.asarray(shares) > least))


def _features(name: str, value: Array) -> Array:
    value = jnp.asarray(value, jnp.float32)
    if value.ndim != 2:
        raise ValueError(f"{name} has shape {value.shape}, expected [examples, features]: flatten the other axes")
    _expect_finite(name, value)
    return value


def _expect_finite(name: str, value: Array) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():  # checks constants inside the caller's jit too
        finite = int(_finite(value))
    if finite < value.size:
        raise ValueError(f"{name} has {value.size - finite} non-finite values of {value.size}")


@jax.jit
def _finite(value: Array) -> Array:
    """Number of finite values."""
    return jnp.sum(jnp.isfinite(value))


def _pair(real: Array, generated: Array) -> tuple[Array, Array]:
    real, generated = _features("real", real), _features("generated", generated)
    _expect_same_width("real", real, "generated", generated)
    return real, generated


def _expect_same_width(first_name: str, first: Array, second_name: str, second: Array) -> None:
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{first_name} has {first.shape[1]} features and {second_name} has {second.shape[1]}: "
            "take both from the same extractor"
        )


def _expect_neighbours(k: int, real: Array, generated: Array) -> None:
    fewest = min(real.shape[0], generated.shape[0])
    if not 1 <= k < fewest:
        raise ValueError(f"k is {k} for {fewest} samples: give 1 to {fewest - 1}")


def _sample(name: str, given: Array | Statistics) -> Array | Statistics:
    if not isinstance(given, Statistics):
        return _features(name, given)
    _expect_finite(f"mean of {name}", given.mean)
    _expect_finite(f"covariance of {name}", given.covariance)
    return given


def _width(sample: Array | Statistics) -> int:
    return sample.mean.shape[0] if isinstance(sample, Statistics) else sample.shape[1]


def _count(sample: Array | Statistics) -> int:
    return sample.count if isinstance(sample, Statistics) else sample.shape[0]


def _expect_same_extractor(real: Array | Statistics, generated: Array | Statistics) -> None:
    first, second = (sample.extractor if isinstance(sample, Statistics) else "" for sample in (real, generated))
    if _width(real) != _width(generated) or (first and second and first != second):
        raise ValueError(
            f"real has {_width(real)} features of extractor {first or '(not named)'} and generated has "
            f"{_width(generated)} of {second or '(not named)'}: take both from the same extractor"
        )


def _mean(features: Array) -> Array:
    """Mean of examples, in two passes: the second corrects the rounding error of the long sum."""
    rough = jnp.mean(features, axis=0)
    return rough + jnp.mean(features - rough, axis=0)


@jax.jit
def _moments(features: Array) -> tuple[Array, Array]:
    """Mean and a factor F of the covariance `F^T F`, which is not formed: that would square the condition number."""
    mean = _mean(features)
    factor = jnp.linalg.qr(features - mean, mode="r") / np.sqrt(features.shape[0] - 1)
    return mean, factor


@jax.jit
def _covariance_factor(covariance: Array) -> Array:
    """F of `covariance = F^T F`, from the correlations, so that features of small scale keep their precision."""
    scale = jnp.sqrt(jnp.clip(jnp.diagonal(covariance), 0.0))
    unit = jnp.where(scale > 0, scale, 1.0)
    values, vectors = jnp.linalg.eigh(covariance / unit[:, None] / unit[None, :])
    # Below this an eigenvalue is rounding error, whose root would be large.
    noise = covariance.shape[0] * jnp.finfo(covariance.dtype).eps
    return jnp.sqrt(jnp.where(values > noise, values, 0.0))[:, None] * vectors.T * scale[None, :]


def _gaussian(sample: Array | Statistics) -> tuple[Array, Array]:
    if isinstance(sample, Statistics):
        return sample.mean, _covariance_factor(sample.covariance)
    return _moments(sample)


@jax.jit
def _between(mean_1: Array, factor_1: Array, mean_2: Array, factor_2: Array) -> Array:
    left, _, right = jnp.linalg.svd(_dot(factor_1, factor_2.T))
    return jnp.sum((mean_1 - mean_2) ** 2) + jnp.sum((factor_1 - _dot(_dot(left, right), factor_2)) ** 2)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _kernel_distance(
    real: Array, generated: Array, key: Key, subsets: int, subset_size: int, degree: int
) -> KernelDistance:
    # k(x, y) - k(x, c) - k(c, y) + k(c, c) has the same discrepancy for any c, and its sums have little cancellation.
    centre = 0.5 * (_mean(real) + _mean(generated))
    width = real.shape[1]
    constant = _dot(centre, centre) / width + 1.0

    def kernel(x: Array, y: Array) -> Array:
        along_x, along_y = (_dot(sample, centre) / width + constant for sample in (x, y))
        product = _dot(x, y.T) / width + along_x[:, None] + along_y[None, :] - constant
        return product**degree - along_x[:, None] ** degree - along_y[None, :] ** degree + constant**degree

    def mean_of_pairs(x: Array) -> Array:
        gram = kernel(x, x)
        return (jnp.sum(jnp.sum(gram, axis=1) - jnp.diagonal(gram))) / (subset_size * (subset_size - 1))

    def discrepancy(subset_key: Key) -> Array:
        x, y = (
            jnp.argsort(jax.random.bits(part, sample.shape[:1]))[:subset_size]
            for part, sample in zip(jax.random.split(subset_key), (real, generated), strict=True)
        )
        chosen_real, chosen_generated = real[x] - centre, generated[y] - centre
        return (
            mean_of_pairs(chosen_real)
            + mean_of_pairs(chosen_generated)
            - 2.0 * jnp.mean(jnp.mean(kernel(chosen_real, chosen_generated), axis=1))
        )

    distances = lax.map(discrepancy, jax.random.split(key, subsets))
    deviation = jnp.std(distances)
    return KernelDistance(jnp.mean(distances), deviation / np.sqrt(subsets), deviation)


@functools.partial(jax.jit, static_argnums=1)
def _inception_score(logits: Array, splits: int) -> InceptionScore:
    examples = logits.shape[0]
    bounds = np.arange(splits + 1) * examples // splits
    places = bounds[:-1, None] + np.arange(np.diff(bounds).max())
    inside = jnp.asarray(places < bounds[1:, None])
    parts = jax.nn.log_softmax(logits)[np.minimum(places, examples - 1)]  # [splits, examples of the longest, classes]
    sizes = jnp.sum(inside, axis=1)
    log_marginals = jax.nn.logsumexp(parts, axis=1, where=inside[..., None]) - jnp.log(sizes)[:, None]
    divergences = jnp.sum(jnp.exp(parts) * (parts - log_marginals[:, None]), axis=-1)
    scores = jnp.exp(jnp.sum(divergences, axis=1, where=inside) / sizes)
    return InceptionScore(jnp.mean(scores), jnp.std(scores))


class _Distances(NamedTuple):
    """Squared distances to references, blockwise, from the differences themselves.

    `|x|^2 + |y|^2 - 2 x.y` has the rounding error of the squares: two copies would not be at distance 0, and one of two
    examples at the same distance could be outside of a ball.
    """

    columns: Array  # [features, references]

    @classmethod
    def to(cls, references: Array) -> "_Distances":
        return cls(references.T)

    def __call__(self, query: Array) -> Array:
        """[features] -> [references]."""
        # Feature by feature, so that every reference's sum has the same order; unrolled, several stay in registers.
        start = jnp.zeros(self.columns.shape[1])
        return lax.scan(
            lambda total, each: (total + (each[1] - each[0]) ** 2, None), start, (query, self.columns), unroll=16
        )[0]

    def map(self, function: Callable[[PyTree], T], queries: PyTree) -> T:
        """`function` of each query; the number of queries at a time follows from `_BLOCK`."""
        return lax.map(function, queries, batch_size=max(1, _BLOCK // self.columns.shape[1]))


@functools.partial(jax.jit, static_argnums=2)
def _neighbours(queries: Array, references: Array, k: int) -> tuple[Array, Array]:
    squared_distances = _Distances.to(references)

    def nearest(query: Array) -> tuple[Array, Array]:
        closeness, indices = lax.top_k(-squared_distances(query), k)
        return jnp.sqrt(-closeness), indices

    return squared_distances.map(nearest, queries)


def _squared_radii(features: Array, k: int) -> Array:
    """Squared distance of each example to its `k`-th neighbour, not counting the example itself.

    A tolerance for rounding is added: an example at exactly the distance of the neighbour is inside the ball.
    """
    squared_distances = _Distances.to(features)
    squares = squared_distances.map(lambda query: -lax.top_k(-squared_distances(query), k + 1)[0][k], features)
    return squares * (1 + _TIES) + _SAME * jnp.mean(jnp.sum(features**2, axis=1))


@functools.partial(jax.jit, static_argnums=2)
def _share_within(queries: Array, references: Array, k: int) -> Array:
    """The share of queries that are in the ball of a reference."""
    squared_distances, squared_radii = _Distances.to(references), _squared_radii(references, k)
    within = squared_distances.map(lambda query: jnp.any(squared_distances(query) <= squared_radii), queries)
    return jnp.mean(within, dtype=jnp.float32)


@functools.partial(jax.jit, static_argnums=2)
def _density_coverage(real: Array, generated: Array, k: int) -> tuple[Array, Array]:
    squared_distances = _Distances.to(generated)

    def held(ball: tuple[Array, Array]) -> Array:
        centre, squared_radius = ball
        return jnp.sum(squared_distances(centre) <= squared_radius)

    counts = squared_distances.map(held, (real, _squared_radii(real, k)))
    return jnp.sum(counts, dtype=jnp.float32) / (k * generated.shape[0]), jnp.mean(counts > 0, dtype=jnp.float32)


@functools.partial(jax.jit, static_argnums=1)
def _mode_coverage(labels: Array, classes: int) -> Array:
    return jnp.mean(labels[:, None] == jnp.arange(classes), axis=0, dtype=jnp.float32)
