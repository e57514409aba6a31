"""A network, an optax transformation and a loss of one's own, and a learner without an environment."""

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

from jaxai import dqn
from jaxai.dqn.evaluation import longest_episode
from tests.dqn.chain import PLACES, PRIORITIZED, TINY, Chain, changed, started, transitions
from tests.dqn.test_step import chain_values

SPEC = dqn.EnvironmentSpec(observation_shape=(PLACES,), observation_dtype=np.float32, num_actions=2)


class Mine(nn.Module):
    """A value for each of two actions."""

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        x = nn.tanh(nn.LayerNorm()(nn.Dense(32, name="first")(observations)))
        return nn.Dense(2, name="last")(x)


def squared(networks: dqn.Networks, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Double Q-learning, written by hand."""
    best = networks.fixed(batch["next_observation"]).argmax(-1)
    rows = jnp.arange(len(best))
    target = batch["reward"] + batch["discount"] * networks.target(batch["next_observation"])[rows, best]
    error = target - networks.online(batch["observation"])[rows, batch["action"]]
    return error**2, {"error": error, "error_size": jnp.abs(error)}


def test_own_network_transformation_and_loss_learn_the_values() -> None:
    config = changed(total_steps=12_000, batch_size=32, epsilon_end=1.0)
    transformation = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(5e-3, 1495)))
    workload = dqn.make(config, Chain(), network=Mine(), transformation=transformation, loss=squared)

    @jax.jit
    def run(key: jax.Array) -> Any:
        return lax.scan(lambda s, _: workload.train_step(s, None), workload.init(key), length=config.train_steps)

    state, metrics = run(jax.random.key(0))
    assert workload.predict is not None
    np.testing.assert_allclose(workload.predict(state, jnp.eye(PLACES)), chain_values(), atol=0.05)
    assert metrics.keys() >= {"loss", "error_size", "grad_norm", "epsilon"}
    assert not metrics.keys() & {"learning_rate", "error", "q_mean"}  # of the parts that were replaced
    policy = dqn.make_policy(config, Chain(), network=Mine())
    np.testing.assert_array_equal(policy(state, jnp.eye(PLACES)), chain_values().argmax(1))


@pytest.mark.parametrize("config", [TINY, PRIORITIZED], ids=["uniform", "prioritized"])
def test_the_public_parts_are_those_of_the_configuration(config: dqn.Config) -> None:
    network = dqn.build(config, (PLACES,), 2)
    loss = functools.partial(dqn.bellman_loss, config, error_loss=dqn.td_loss)
    workload = dqn.make(config, Chain(), network=network, loss=loss)
    _, default_step, state = started(config)
    chex.assert_trees_all_equal(jax.jit(workload.train_step)(state, None), default_step(state, None))


def test_another_loss_of_the_error_alone() -> None:
    loss = functools.partial(dqn.bellman_loss, TINY, error_loss=lambda error, delta: jnp.abs(error))
    learner = dqn.make_learner(TINY, SPEC, loss=loss)
    state, batch = learner.init(jax.random.key(1)), transitions()
    _, errors, metrics = jax.jit(learner.update)(state, batch, jax.random.key(0))
    values, following = (
        np.asarray(learner.predict(state, batch[name])) for name in ("observation", "next_observation")
    )
    expected = batch["reward"] + batch["discount"] * following.max(1) - values[np.arange(8), batch["action"]]
    np.testing.assert_allclose(errors, np.abs(expected), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.abs(expected).mean(), rtol=1e-5)


def test_a_learner_needs_no_environment() -> None:
    learner = dqn.make_learner(TINY, SPEC)
    workload, step, state = started()
    alone, batch = learner.init(jax.random.key(0)), transitions()
    chex.assert_trees_all_equal(alone.params, state.params)
    after, metrics = jax.jit(learner.train_step)(alone, batch)
    expected, expected_metrics = step(state, batch)
    chex.assert_trees_all_equal(after.params, expected.params)
    chex.assert_trees_all_equal(metrics, expected_metrics)
    chex.assert_trees_all_equal(learner.gradients(alone, batch), workload.gradients(state, batch))
    shapes = jax.eval_shape(learner.train_step, alone, dqn.example_batch(TINY, SPEC))[0]
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, after)


def test_predict_is_what_evaluation_computes() -> None:
    config = changed(noisy=True, distribution="quantile", atoms=5, frame_stack=2)
    workload, _, state = started(config)
    predict, observations = dqn.make_predict(config, Chain()), jnp.ones((3, 2 * PLACES))
    values = jax.jit(predict)(state, observations)
    chex.assert_shape(values, (3, 2))
    outputs = dqn.build(config, (2 * PLACES,), 2).apply({"params": dqn.parameters(state)}, observations)
    np.testing.assert_allclose(values, outputs.mean(-1), rtol=1e-6)
    chex.assert_trees_all_equal(values, jax.jit(workload.predict)(state, observations))
    with pytest.raises(ValueError, match=r"observations has shape \(3, 4\); expected \(batch, 8\)"):
        predict(state, jnp.ones((3, PLACES)))


def test_frozen_layers_stay_and_the_others_learn() -> None:
    def labels(params: Any) -> Any:
        return {name: "frozen" if name == "first" else "trained" for name in params}

    transformation = optax.multi_transform({"frozen": optax.set_to_zero(), "trained": optax.adam(1e-2)}, labels)
    learner = dqn.make_learner(TINY, SPEC, network=Mine(), transformation=transformation)
    state = learner.init(jax.random.key(0))
    after, _ = jax.jit(learner.train_step)(state, transitions())
    chex.assert_trees_all_equal(after.params["first"], state.params["first"])
    assert np.abs(after.params["last"]["kernel"] - state.params["last"]["kernel"]).min() > 1e-3


def test_extra_arguments_and_averaged_parameters_of_a_transformation() -> None:
    plateau = optax.chain(optax.sgd(1e-2), optax.contrib.reduce_on_plateau(patience=1, factor=0.5, cooldown=0))
    learner = dqn.make_learner(changed(target_every=10_000), SPEC, transformation=plateau)
    state, step = learner.init(jax.random.key(0)), jax.jit(learner.train_step)
    flat = transitions() | {"weight": np.zeros(8, np.float32)}  # a loss that does not fall
    for _ in range(4):
        state, _ = step(state, flat)
    assert float(optax.tree.get(state.opt_state, "scale")) < 1
    averaged = dqn.make_learner(TINY, SPEC, transformation=optax.contrib.schedule_free_adamw(1e-2))
    state = averaged.init(jax.random.key(0))
    for i in range(3):
        state, _ = averaged.train_step(state, transitions(i))
    expected = optax.contrib.schedule_free_eval_params(state.opt_state, state.params)
    chex.assert_trees_all_close(dqn.parameters(state), expected, rtol=1e-6)
    network = dqn.build(TINY, (PLACES,), 2)
    np.testing.assert_allclose(
        averaged.predict(state, jnp.eye(PLACES)), network.apply({"params": expected}, jnp.eye(PLACES)), rtol=1e-5
    )


def test_an_nnx_model_through_its_bridge() -> None:
    class Model(nnx.Module):
        def __init__(self, actions: int, *, rngs: nnx.Rngs) -> None:
            self.hidden, self.values = nnx.Linear(PLACES, 8, rngs=rngs), nnx.Linear(8, actions, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.values(nnx.relu(self.hidden(x)))

    learner = dqn.make_learner(TINY, SPEC, network=nnx.bridge.to_linen(Model, 2))
    state = learner.init(jax.random.key(0))
    after, _ = jax.jit(learner.train_step)(state, transitions())
    chex.assert_trees_all_equal_shapes(
        after.params, {"hidden": state.params["hidden"], "values": state.params["values"]}
    )
    assert np.abs(learner.predict(after, jnp.eye(PLACES)) - learner.predict(state, jnp.eye(PLACES))).max() > 0


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        return nn.Dense(2)(nn.BatchNorm(use_running_average=True)(observations))


class Broken(nn.Module):
    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        return observations @ jnp.zeros((7, 2))


def one_number(networks: dqn.Networks, batch: Any, key: jax.Array) -> Any:
    return networks.online(batch["observation"]).mean()


def mean_of_errors(networks: dqn.Networks, batch: Any, key: jax.Array) -> Any:
    error = networks.online(batch["observation"]).max(-1) - batch["reward"]
    return (error**2).mean(), {"error": error}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"network": Mine}, "network is the class Mine; give a module: Mine(...)"),
        ({"network": lambda x: x}, "network is a function; expected a linen module that is called as (observations)"),
        ({"network": nn.Dense(3)}, "network returns shape [batch, 3]; expected action values [batch, 2]: [batch, acti"),
        ({"network": Normalised()}, "network Normalised has a collection 'batch_stats'; deep Q-learning keeps param"),
        ({"network": Broken()}, "network Broken fails at test_own_parts.py:"),
        ({"transformation": optax.adam}, "transformation is a function; expected an optax.GradientTransformation, as"),
        (
            {"transformation": 1e-3},
            "transformation is a float; expected an optax.GradientTransformation, as optax.adam",
        ),
        ({"loss": one_number}, "loss one_number returns a "),
        (
            {"loss": mean_of_errors},
            "loss mean_of_errors returns losses of shape (); expected (8,), one for each transition",
        ),
        ({"loss": lambda networks, batch: 0}, "loss <lambda> fails"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_part_that_does_not_fit_is_named_in_one_line(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        dqn.make(TINY, Chain(), **parts)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_distribution_has_no_loss_of_the_error() -> None:
    config = changed(distribution="quantile")
    loss = functools.partial(dqn.bellman_loss, config, error_loss=lambda error, delta: error**2)
    with pytest.raises(ValueError, match="error_loss is for distribution none, and distribution is quantile"):
        dqn.make(config, Chain(), loss=loss)


def test_the_longest_episode_is_the_configurations_the_environments_or_30_minutes() -> None:
    assert [longest_episode(changed(evaluation_steps=n), m) for n, m in ((7, 5), (0, 5), (0, 0))] == [7, 5, 27_000]
