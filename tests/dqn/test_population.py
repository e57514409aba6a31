import dataclasses
import functools
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxai import dqn, population
from jaxai.core import State, Workload
from jaxai.runtime import parallel

SEEDS, STEPS = (7, 1, 4), 6
CONFIG = dqn.Config(
    hidden=(8,),
    total_steps=200,
    num_envs=2,
    learning_starts=20,
    train_every=4,
    batch_size=8,
    capacity=100,
    discount=0.8,
    epsilon_start=0.5,
    epsilon_steps=30,
    target_every=8,
    evaluation_episodes=3,
)


class Limit(NamedTuple):
    max_steps_in_episode: int


class Circle:
    """Eight places in a circle, observed one-hot; actions walk either way, and one place pays."""

    default_params = Limit(6)

    def action_space(self, params: Any) -> Any:
        return types.SimpleNamespace(n=2)

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
        # The key's own bits: a generator's code compiles for half a second.
        state = jnp.stack([(jax.random.key_data(key)[-1] % 8).astype(jnp.int32), 0])
        return jax.nn.one_hot(state[0], 8), state

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array, params: Any) -> tuple[Any, ...]:
        after = jnp.stack([(state[0] + 2 * action - 1) % 8, state[1] + 1])
        final, truncated = jax.nn.one_hot(after[0], 8), after[1] >= params.max_steps_in_episode
        first, fresh = self.reset(key, params)
        observation = jnp.where(truncated, first, final)
        reward = (after[0] == 0).astype(jnp.float32)
        info = {"final_observation": final}
        return observation, jnp.where(truncated, fresh, after), reward, jnp.bool_(False), truncated, info


@functools.cache
def workload_of(config: dqn.Config = CONFIG) -> Workload:
    return dqn.make(config, Circle())


@functools.cache
def functions(config: dqn.Config = CONFIG) -> tuple[Any, Any]:
    """Jitted: a key's state, and STEPS train steps, of one member."""
    workload = workload_of(config)
    return jax.jit(workload.init), jax.jit(several(workload))


def several(workload: Workload) -> Any:
    return lambda state: lax.scan(lambda state, _: workload.train_step(state, None), state, length=STEPS)


def alone(seed: int, config: dqn.Config = CONFIG) -> tuple[State, dict[str, jax.Array]]:
    init, train = functions(config)
    trained: tuple[State, dict[str, jax.Array]] = train(init(jax.random.key(seed)))
    return trained


@functools.cache
def together() -> tuple[State, dict[str, jax.Array]]:
    members = population.make(workload_of(), SEEDS)
    state = jax.jit(members.init)(jax.random.key(0))
    trained: tuple[State, dict[str, jax.Array]] = jax.jit(several(members))(state)
    return trained


def assert_same(one: State, other: State) -> None:
    """Whatever is counted or chosen is the same; floats agree to rounding, since a batched matmul sums otherwise."""

    def compare(a: Any, b: Any) -> None:
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(a, b)

    jax.tree.map(compare, one, other)


def test_each_member_trains_as_it_would_alone() -> None:
    state, metrics = together()
    for index, seed in enumerate(SEEDS):
        expected, expected_metrics = alone(seed)
        assert_same(population.member_of(state, index), expected)
        for name, values in expected_metrics.items():
            np.testing.assert_allclose(metrics[name][:, index], values, rtol=1e-5, atol=1e-6)


def test_members_live_through_different_things() -> None:
    state, _ = together()
    members = population.members_of(state)
    assert int(members.step) == STEPS
    for leaf in (members.local.memory.action, members.local.environment, members.params["q"]["kernel"]):
        rows = np.asarray(leaf).reshape(len(SEEDS), -1)
        assert len({row.tobytes() for row in rows}) == len(SEEDS)


def test_vmap_over_keys_trains_each_as_it_would_alone() -> None:
    workload = workload_of()
    keys = jax.vmap(jax.random.key)(jnp.array(SEEDS))
    states, _ = jax.jit(jax.vmap(lambda key: several(workload)(workload.init(key))))(keys)
    for index, seed in enumerate(SEEDS):
        assert_same(jax.tree.map(lambda leaf, index=index: leaf[index], states), alone(seed)[0])


def test_members_with_hyperparameters_of_their_own_train_as_with_that_configuration() -> None:
    adam = CONFIG.optimizer
    configs = [
        CONFIG,
        dataclasses.replace(
            CONFIG,
            optimizer=dataclasses.replace(adam, learning_rate=1e-2),
            discount=0.5,
            target_rate=0.1,
            epsilon_start=1.0,
            epsilon_end=0.3,
            epsilon_steps=60,
        ),
        CONFIG,
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(dqn.Hyperparameters.of, configs))

    def prepare(members: State) -> State:
        return members.replace(extra=members.extra | {"hyperparameters": stacked})

    members = population.make(workload_of(), SEEDS, prepare)
    state, _ = jax.jit(several(members))(jax.jit(members.init)(jax.random.key(0)))
    for index, (seed, config) in enumerate(zip(SEEDS, configs, strict=True)):
        expected = alone(seed, config)[0]
        assert_same(population.member_of(state, index), expected)
        if config is not CONFIG:
            kernels = expected.params["q"]["kernel"], alone(seed)[0].params["q"]["kernel"]
            assert np.abs(np.subtract(*kernels)).max() > 1e-4


def test_a_member_that_diverges_is_told_and_stops_no_other() -> None:
    def prepare(members: State) -> State:
        hyperparameters = members.extra["hyperparameters"]
        rates = hyperparameters.learning_rate.at[1].set(jnp.nan)
        return members.replace(extra=members.extra | {"hyperparameters": hyperparameters.replace(learning_rate=rates)})

    tolerant = population.make(workload_of(), SEEDS, prepare, tolerant=True)
    mesh = parallel.make_mesh(1)
    state = parallel.place_state(jax.jit(tolerant.init)(jax.random.key(0)), mesh)
    call = parallel.compile_step(tolerant.train_step, mesh, steps_per_call=STEPS)
    state, metrics = call(state, None)
    np.testing.assert_array_equal(metrics["diverged"], [0, 1, 0])
    assert int(metrics[parallel.NONFINITE]) == -1
    assert all(np.isfinite(values).all() for values in metrics.values())
    for index in (0, 2):
        assert_same(population.member_of(state, index), alone(SEEDS[index])[0])
    assert tolerant.eval_step is not None
    sums = jax.jit(tolerant.eval_step)(state, None)
    np.testing.assert_array_equal(np.isnan(sums["return"]), [False, True, False])
    np.testing.assert_array_equal(np.isnan(sums["count"]), [False, True, False])


def test_a_members_evaluation_is_its_own() -> None:
    state, _ = together()
    sums = jax.jit(population.make(workload_of(), SEEDS).eval_step)(state, None)
    evaluate = jax.jit(workload_of().eval_step)
    for index in range(len(SEEDS)):
        expected = evaluate(population.member_of(state, index), None)
        assert {name: float(values[index]) for name, values in sums.items()} == {
            k: float(v) for k, v in expected.items()
        }
