import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxai import averages
from jaxai.core import State

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.1, -0.1])}
GRADIENTS = {"kernel": jnp.array([[0.5, 1.0], [-1.0, 0.25]]), "bias": jnp.array([0.2, 0.4])}


def state_of(transformation: optax.GradientTransformation, extra: dict) -> State:
    return State(jnp.int32(0), PARAMS, transformation.init(PARAMS), jax.random.key(0), extra=extra)


def test_the_average_follows_its_formula_with_the_statistics_that_belong_to_it() -> None:
    sgd = optax.sgd(0.1)
    statistics = {"mean": jnp.zeros(2)}
    state = state_of(sgd, {"batch_stats": statistics, **averages.start({"params": PARAMS, "batch_stats": statistics})})
    step = jax.jit(
        lambda state: averages.advance(
            state, sgd, GRADIENTS, {"batch_stats": {"mean": state.extra["batch_stats"]["mean"] + 1}}, ema_decay=0.3
        )
    )
    kernel, mean = np.asarray(PARAMS["kernel"]), np.zeros(2)
    for i in range(4):
        state = step(state)
        decay = min(0.3, (1 + i) / (10 + i))
        kernel = decay * kernel + (1 - decay) * np.asarray(state.params["kernel"])
        mean = decay * mean + (1 - decay) * (i + 1)
    assert int(state.step) == 4
    used = averages.variables(state)
    assert used.keys() == {"params", "batch_stats"}
    np.testing.assert_allclose(used["params"]["kernel"], kernel, rtol=1e-6)
    np.testing.assert_allclose(used["batch_stats"]["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(state.extra["batch_stats"]["mean"], 4)
    chex.assert_trees_all_equal(averages.parameters(state), used["params"])


@pytest.mark.parametrize("value", [1.0, 2.0])
def test_a_transformation_with_extra_arguments_sees_the_loss(value: float) -> None:
    polyak = optax.polyak_sgd(max_learning_rate=10.0)
    new, _ = averages.update(polyak, GRADIENTS, polyak.init(PARAMS), PARAMS, value=jnp.float32(value))
    squared = sum(float((g**2).sum()) for g in jax.tree.leaves(GRADIENTS))
    expected = jax.tree.map(lambda p, g: p - value / squared * g, PARAMS, GRADIENTS)
    chex.assert_trees_all_close(new, expected, rtol=1e-5)


def test_a_transformation_gets_only_the_extra_arguments_that_it_takes() -> None:
    def scaled(updates, state, params=None, *, value):
        return jax.tree.map(lambda g: -value * g, updates), state

    own = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scaled)
    new, _ = averages.update(own, GRADIENTS, own.init(PARAMS), PARAMS, value=jnp.float32(2))
    chex.assert_trees_all_close(new, jax.tree.map(lambda p, g: p - 2 * g, PARAMS, GRADIENTS))


def test_a_line_search_gets_the_loss_as_a_function() -> None:
    lbfgs, target = optax.lbfgs(), {"kernel": jnp.zeros((2, 2)), "bias": jnp.ones(2)}

    def loss(params):
        return sum(jnp.sum((p - t) ** 2) for p, t in zip(*map(jax.tree.leaves, (params, target)), strict=True))

    @jax.jit
    def step(params, opt_state):
        value, gradients = jax.value_and_grad(loss)(params)
        return averages.update(lbfgs, gradients, opt_state, params, value=value, value_fn=loss)

    params, opt_state = PARAMS, averages.initialize(lbfgs, PARAMS)
    for _ in range(3):
        params, opt_state = step(params, opt_state)
    chex.assert_trees_all_close(params, target, atol=1e-4)


def test_evaluation_uses_the_average_of_a_schedule_free_optimizer() -> None:
    own = optax.chain(optax.clip_by_global_norm(1.0), optax.contrib.schedule_free_sgd(0.1))
    state = state_of(own, {})
    for _ in range(3):
        state = averages.advance(state, own, GRADIENTS)
    expected = optax.contrib.schedule_free_eval_params(state.opt_state[1], state.params)
    chex.assert_trees_all_close(averages.parameters(state), expected)
    assert float(abs(expected["kernel"] - state.params["kernel"]).max()) > 1e-3


def test_a_schedule_free_part_of_the_parameters_is_averaged_alone() -> None:
    labels = {"kernel": "averaged", "bias": "plain"}
    own = optax.multi_transform({"averaged": optax.contrib.schedule_free_sgd(0.1), "plain": optax.sgd(0.1)}, labels)
    state = state_of(own, {})
    for _ in range(3):
        state = averages.advance(state, own, GRADIENTS)
    used = averages.parameters(state)
    chex.assert_trees_all_equal(used["bias"], state.params["bias"])
    assert float(abs(used["kernel"] - state.params["kernel"]).max()) > 1e-3
