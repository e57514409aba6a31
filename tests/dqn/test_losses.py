import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from jaxai.dqn import losses

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/dqn_losses.npz"
ATOMS = jnp.linspace(-4.0, 4.0, 21)
TAU = (jnp.arange(21) + 0.5) / 21
project = jax.jit(losses.categorical_target)
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def assert_equals_rlax(golden, name, loss, *arguments):
    """Values and gradients by the first argument, rlax's in float64."""
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(loss)))(*(golden[argument] for argument in arguments))
    assert value.dtype == gradient.dtype == jnp.float32
    np.testing.assert_allclose(value, golden[f"{name}/value"], **CLOSE)
    np.testing.assert_allclose(gradient, golden[f"{name}/gradient"], **CLOSE)


def test_q_learning_equals_rlax(golden):
    transition = "a_tm1", "r_t", "discount_t", "q_t"
    assert_equals_rlax(golden, "q_learning", losses.q_learning, "q_tm1", *transition)
    double = losses.double_q_learning
    assert_equals_rlax(golden, "double_q_learning", double, "q_tm1", *transition, "q_t_selector")


def test_categorical_q_learning_equals_rlax(golden):
    def single(logits, a, r, d, logits_t):
        return losses.categorical_q_learning(ATOMS, logits, a, r, d, ATOMS, logits_t)

    def double(logits, a, r, d, logits_t, selector):
        return losses.categorical_double_q_learning(ATOMS, logits, a, r, d, ATOMS, logits_t, selector)

    transition = "logits_tm1", "a_tm1", "r_t", "discount_t", "logits_t"
    assert_equals_rlax(golden, "categorical_q_learning", single, *transition)
    assert_equals_rlax(golden, "categorical_double_q_learning", double, *transition, "q_t_selector")


@pytest.mark.parametrize(
    ("selector", "huber"), [("quantiles_t", 0.0), ("quantiles_t_selector", 0.5), ("quantiles_t", 1.0)]
)
def test_quantile_q_learning_equals_rlax(golden, selector, huber):
    def loss(dist, a, r, d, selected, dist_t):
        return losses.quantile_q_learning(
            dist, TAU, a, r, d, None if selector == "quantiles_t" else selected, dist_t, huber
        )

    arguments = "quantiles_tm1", "a_tm1", "r_t", "discount_t", selector, "quantiles_t"
    assert_equals_rlax(golden, f"quantile_q_learning/{selector}/{huber}", loss, *arguments)


def test_td_loss_equals_rlax_and_optax_huber_and_half_the_square(golden):
    for huber in (0.5, 1.0):
        loss = functools.partial(losses.td_loss, huber_delta=huber)
        assert_equals_rlax(golden, f"huber_loss/{huber}", loss, "r_t")
        np.testing.assert_allclose(loss(golden["r_t"]), optax.huber_loss(golden["r_t"], delta=huber), **CLOSE)
    squared = functools.partial(losses.td_loss, huber_delta=0.0)
    assert_equals_rlax(golden, "l2_loss", squared, "r_t")
    np.testing.assert_allclose(squared(golden["r_t"]), optax.l2_loss(golden["r_t"]), **CLOSE)


@pytest.mark.parametrize("huber", [0.0, 1.0])
def test_quantile_gradient_equals_autodiff_of_the_textbook_sum(golden, huber):
    def textbook(quantiles, target):
        error = target[None, :] - quantiles[:, None]
        size = jnp.where(jnp.abs(error) <= huber, 0.5 * error**2, huber * (jnp.abs(error) - 0.5 * huber))
        size = size if huber else jnp.abs(error)
        return jnp.sum(jnp.mean(jnp.abs(TAU[:, None] - (error < 0)) * size, axis=1))

    quantiles, target = golden["quantiles_tm1"][:, 0], golden["quantiles_t"][:, 0, :13]
    # As the train step calls it: the delta goes through vmap as a Python number.
    vmapped = jax.vmap(jax.value_and_grad(losses.quantile_loss), in_axes=(0, 0, None))
    ours = jax.jit(vmapped, static_argnums=2)(quantiles, target, huber)
    expected = jax.jit(jax.vmap(jax.value_and_grad(textbook)))(quantiles, target)
    jax.tree.map(functools.partial(np.testing.assert_allclose, **CLOSE), ours, expected)
    forward = jax.jvp(lambda x: losses.quantile_loss(x, target[0], huber), (quantiles[0],), (jnp.ones(21),))[1]
    np.testing.assert_allclose(forward, np.sum(expected[1][0]), **CLOSE)


def munchausen_in_float64(golden, temperature, coefficient, minimum):
    """TD errors by the paper's formula, every logarithm of a policy written out."""
    q_tm1, q_target_tm1, q_t, r_t, discount_t = (
        golden[name].astype(np.float64) for name in ("q_tm1", "q_t_selector", "q_t", "r_t", "discount_t")
    )
    each = np.arange(len(r_t))
    log_pi_tm1 = special.log_softmax(q_target_tm1 / temperature, axis=1)[each, golden["a_tm1"]]
    log_pi_t = special.log_softmax(q_t / temperature, axis=1)
    soft_value = np.sum(np.exp(log_pi_t) * (q_t - temperature * log_pi_t), axis=1)
    reward = r_t + coefficient * np.clip(temperature * log_pi_tm1, minimum, 0)
    return reward + discount_t * soft_value - q_tm1[each, golden["a_tm1"]]


@pytest.mark.parametrize(("temperature", "coefficient", "minimum"), [(0.03, 0.9, -1.0), (0.5, 0.7, -0.2), (5, 1, -9)])
def test_munchausen_equals_the_paper_in_float64(golden, temperature, coefficient, minimum):
    error = jax.vmap(lambda *transition: losses.munchausen_q_learning(*transition, temperature, coefficient, minimum))(
        *(golden[name] for name in ("q_tm1", "a_tm1", "r_t", "discount_t", "q_t", "q_t_selector"))
    )
    # Errors reach 5, of which float32 holds 5e-7.
    np.testing.assert_allclose(error, munchausen_in_float64(golden, temperature, coefficient, minimum), atol=2e-6)


def test_soft_policy_is_finite_at_large_q_values_and_low_temperature():
    policy, bonus = losses.soft_policy(jnp.array([1e6, 1e6, -1e6]), 1e-3)
    np.testing.assert_allclose(policy, [0.5, 0.5, 0])
    np.testing.assert_allclose(bonus, 1e-3 * np.log(2), rtol=1e-6)
    assert losses.munchausen_bonus(jnp.array([1e6, -1e6]), 1, 1e-3, 0.9, -1.0) == pytest.approx(-0.9)
    assert losses.munchausen_bonus(jnp.array([1e6, -1e6]), 0, 1e-3, 0.9, -1.0) == 0


def test_soft_policy_becomes_greedy_as_the_temperature_falls(golden):
    policy, bonus = jax.vmap(losses.soft_policy, in_axes=(0, None))(golden["q_t"], 1e-5)
    np.testing.assert_allclose(policy, jax.vmap(losses.greedy_policy)(golden["q_t"]), atol=1e-6)
    np.testing.assert_allclose(bonus, 0, atol=1e-5)


def test_soft_policy_is_uniform_at_high_temperature():
    policy, bonus = losses.soft_policy(jnp.arange(4.0), 1e6)
    np.testing.assert_allclose(policy, 0.25, rtol=1e-5)
    np.testing.assert_allclose(bonus, 1e6 * np.log(4), rtol=1e-5)


def test_greedy_policy_takes_the_first_of_tied_actions():
    np.testing.assert_array_equal(losses.greedy_policy(jnp.array([0.0, 2.0, 2.0])), [0, 1, 0])


def test_munchausen_distributions_have_the_mean_of_the_scalar_target(golden):
    atoms = jnp.linspace(-40.0, 40.0, 21)  # wide enough that nothing is clipped

    @jax.jit
    @jax.vmap
    def means(logits_t, quantiles_t, q_target_tm1, a_tm1, r_t, discount_t):
        reward = r_t + losses.munchausen_bonus(q_target_tm1, a_tm1, 0.5, 0.9, -1.0)
        q_logits, q_quantiles = jax.nn.softmax(logits_t) @ ATOMS, quantiles_t.mean(-1)
        policy, bonus = losses.soft_policy(q_logits, 0.5)
        categorical = losses.categorical_target(atoms, logits_t, reward, discount_t, policy, bonus, ATOMS)
        quantile = losses.quantile_target(quantiles_t, reward, discount_t, policy, bonus)
        scalars = [losses.value_target(reward, discount_t, q, policy, bonus) for q in (q_logits, q_quantiles)]
        return (categorical @ atoms, quantile.mean()), tuple(scalars)

    names = "logits_t", "quantiles_t", "q_t_selector", "a_tm1", "r_t", "discount_t"
    distributional, scalar = means(*(golden[name] for name in names))
    np.testing.assert_allclose(distributional, scalar, rtol=1e-5, atol=2e-5)


def test_terminated_transition_has_its_reward_alone_as_the_target():
    following, policy, bonus = jnp.full((3, 21), 1e3), jnp.array([0.2, 0.3, 0.5]), 7.0
    assert losses.value_target(1.5, 0.0, following[:, 0], policy, bonus) == 1.5
    np.testing.assert_array_equal(losses.quantile_target(following, 1.5, 0.0, policy, bonus), 1.5)
    projected = project(ATOMS, following, 1.5, 0.0, policy, bonus)
    # 1.5 lies three quarters of the way from atom 13 (1.2) to atom 14 (1.6).
    expected = np.zeros(21)
    expected[13:15] = 0.25, 0.75
    np.testing.assert_allclose(projected, expected, atol=1e-5)


@pytest.mark.parametrize(("reward", "at"), [(-100.0, 0), (100.0, -1)])
def test_returns_beyond_the_support_fall_on_its_end(reward, at):
    logits = jnp.zeros((2, 21))
    projected = project(ATOMS, logits, reward, 0.99, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(projected[at], 1, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(projected), 1, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_projection_preserves_mass_and_the_mean_of_what_fits(seed):
    rng = np.random.default_rng(seed)
    low, width = rng.uniform(-20, 5), rng.uniform(0.5, 50)
    atoms = jnp.linspace(low, low + width, int(rng.integers(2, 60)))
    logits, policy = rng.normal(size=(3, len(atoms)), scale=3), rng.dirichlet(np.ones(3))
    r_t, discount_t = rng.uniform(-30, 30), rng.uniform(0, 1)
    projected = project(atoms, jnp.asarray(logits), r_t, discount_t, jnp.asarray(policy))
    clipped = np.clip(r_t + discount_t * np.asarray(atoms, np.float64), atoms[0], atoms[-1])
    mean = policy @ special.softmax(logits, axis=1) @ clipped
    assert np.all(projected >= 0)
    np.testing.assert_allclose(np.sum(projected), 1, rtol=1e-5)
    np.testing.assert_allclose(projected @ atoms, mean, atol=1e-5 * (abs(low) + width))


def test_projection_of_an_unmoved_distribution_is_itself(golden):
    logits = golden["logits_t"][0]
    projected = project(ATOMS, logits, 0.0, 1.0, losses.greedy_policy(jnp.array([0, 0, 1.0, 0, 0])))
    np.testing.assert_allclose(projected, special.softmax(logits[2].astype(np.float64)), atol=2e-6)


def test_quantile_loss_is_least_at_the_quantiles_of_the_target():
    samples = jnp.asarray(np.random.default_rng(0).normal(size=999), jnp.float32)
    quantiles = jnp.zeros(9)
    gradient = jax.jit(jax.grad(losses.quantile_loss), static_argnums=2)
    for step in range(400):
        quantiles -= (1.0 if step < 300 else 0.02) * gradient(quantiles, samples, 0.0)
    np.testing.assert_allclose(quantiles, np.quantile(samples, (np.arange(9) + 0.5) / 9), atol=0.02)


def test_no_gradient_reaches_what_makes_the_target(golden):
    row = {name: jnp.asarray(value[0]) for name, value in golden.items() if "/" not in name}

    def munchausen(q_t, q_target_tm1, r_t):
        return losses.munchausen_q_learning(row["q_tm1"], row["a_tm1"], r_t, 0.9, q_t, q_target_tm1, 0.5)

    def categorical(logits_t, q_t_selector, r_t):
        return losses.categorical_double_q_learning(
            ATOMS, row["logits_tm1"], row["a_tm1"], r_t, 0.9, ATOMS, logits_t, q_t_selector
        )

    def quantile(dist_t, selector, r_t):
        return losses.quantile_q_learning(
            row["quantiles_tm1"], TAU, row["a_tm1"], r_t, 0.9, selector, dist_t, huber_param=1.0
        )

    for loss, following, selector in (
        (munchausen, "q_t", "q_t_selector"),
        (categorical, "logits_t", "q_t_selector"),
        (quantile, "quantiles_t", "quantiles_t_selector"),
    ):
        for gradient in jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(row[following], row[selector], row["r_t"]):
            np.testing.assert_array_equal(gradient, 0)


def test_a_batch_without_vmap_is_refused(golden):
    with pytest.raises(ValueError, match=r"has shape \(32,.*jax.vmap"):
        losses.q_learning(*(golden[name] for name in ("q_tm1", "a_tm1", "r_t", "discount_t", "q_t")))
