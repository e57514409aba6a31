"""What a long run counts and what a large replay takes: nothing overflows, and nothing is allocated that cannot be."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import dqn
from jaxai.dqn import priorities
from jaxai.dqn.config import MOST
from jaxai.dqn.replay_buffer import ReplayBuffer
from tests.dqn.chain import Chain, changed, started, transitions

LONG = changed(total_steps=8_000_000_000, train_every=8, epsilon_start=1.0, epsilon_end=0.0, epsilon_steps=4 * 10**9)


@pytest.mark.parametrize("taken", [2**31 - 8, 2**31, 3_000_000_000, 5_000_000_000])
def test_epsilon_falls_on_beyond_what_an_int32_holds(taken: int) -> None:
    _, train_step, state = started(LONG)
    state = state.replace(step=jnp.int32((taken - LONG.warmup_steps) // LONG.train_every - 1))
    _, metrics = train_step(state, None)
    assert float(metrics["epsilon"]) == pytest.approx(max(0.0, 1 - taken / 4e9), abs=1e-6)


def test_target_network_is_updated_as_often_beyond_what_an_int32_holds() -> None:
    _, train_step, state = started(LONG)
    state = state.replace(step=jnp.int32(2_200_000_000 // 8))
    updated = 0
    for i in range(20):  # 160 environment steps, of 40 between updates
        before = state.extra["target"]
        state, _ = train_step(state, transitions(i))
        pairs = zip(*map(jax.tree.leaves, (before, state.extra["target"])), strict=True)
        updated += any((a != b).any() for a, b in pairs)
    assert updated == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_steps": 4 * 2**31}, "total_steps is 8589934592: 2147483648 steps of 4 environments together"),
        ({"total_steps": 2**32, "updates_per_step": 8}, "total_steps is 4294967296: 42949672[0-9]+ updates, and"),
        ({"capacity": 10**11}, r"capacity is 100000000000, a replay buffer of 2,600.0 GB; at most 2147483647 "),
        (
            {"capacity": 10**8, "prioritized": True},
            "capacity is 100000000; float32 distinguishes the",
        ),
        ({"target_every": 10**12}, f"target_every is 1000000000000; it must be at most {MOST}"),
        ({"evaluation_steps": 10**12}, f"evaluation_steps is 1000000000000; it must be at most {MOST}"),
        ({"truncation_spacing": 10**12}, f"truncation_spacing is 1000000000000; it must be at most {MOST}"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_counted_is_refused_in_a_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        dqn.make(changed(**changes), Chain())
    assert "\n" not in str(error.value)


def test_priorities_of_many_slots_are_drawn_evenly() -> None:
    rows = 2**20
    leaves = jnp.ones((1, rows, priorities.WIDTH))
    table = priorities.Priorities(leaves, leaves.sum(-1), jnp.ones(1))
    _, slot, probability = jax.jit(priorities.sample, static_argnums=2)(table, jax.random.key(0), 4096)
    # One draw's 24 bits reach every second slot of the 2**25.
    assert abs((np.asarray(slot) % 2).mean() - 0.5) < 4 * 0.5 / np.sqrt(4096)
    np.testing.assert_allclose(probability, 2.0**-25, rtol=1e-5)


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(
    "frames", [((4,), np.float32, False, 2), ((10, 10, 4), np.float32, True, 6), ((5, 5), np.uint8, False, 300)]
)
def test_size_of_a_replay_is_that_of_its_arrays(frames: tuple[Any, ...], prioritized: bool) -> None:
    shape, dtype, binary, actions = frames
    replay = ReplayBuffer(1000, 3, shape, dtype, binary, actions, 3, 2, 50, prioritized)
    memory = jax.eval_shape(replay.init, jax.ShapeDtypeStruct((3, *shape), dtype))
    assert replay.nbytes == sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(memory))
