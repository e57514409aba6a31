"""Writes `dqn_steps.npz`: what 25 train steps of deep Q-learning leave behind, from a fixed seed.

    python -m tests.golden.make_dqn_steps

Parameters, target, replay and metrics of each case, as jaxai 0.1 computed them on a CPU with jax 0.10.2. A change that
moves code must leave them as they are; one that changes the algorithm on purpose writes the file anew and says why.
"""

import dataclasses
import pathlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxai import dqn
from tests.dqn.chain import TINY, Chain

STEPS = 25
FILE = pathlib.Path(__file__).with_name("dqn_steps.npz")


class Pixels(Chain):
    """The chain as pictures of 6 x 6 pixels: a bright square for the place, above a bar for the time."""

    def observation_space(self, params: Any) -> Any:
        return types.SimpleNamespace(low=0, high=255, shape=(6, 6), dtype=np.dtype("uint8"))

    def observe(self, state: jax.Array) -> jax.Array:
        rows, columns = jnp.mgrid[:6, :6]
        place = (rows // 2 == state[0] // 2) & (columns // 2 == state[0] % 2)
        time = (rows == 5) & (columns < state[1])
        return (200 * place + 50 * time).astype(jnp.uint8)


SMALL = dataclasses.replace(TINY, capacity=80, target_every=24)
CASES: dict[str, tuple[dqn.Config, Chain]] = {
    "plain": (SMALL, Chain()),
    "rainbow": (
        dataclasses.replace(
            SMALL,
            double=True,
            dueling=True,
            n_step=3,
            prioritized=True,
            noisy=True,
            distribution="categorical",
            atoms=7,
            value_min=-2.0,
            value_max=8.0,
            updates_per_step=2,
            optimizer=dqn.Optimizer(learning_rate=1e-3, clip_norm=1.0, schedule="linear"),
        ),
        Chain(goal=True),
    ),
    "munchausen": (
        dataclasses.replace(
            SMALL,
            torso="minatar",
            munchausen=0.9,
            distribution="quantile",
            atoms=5,
            frame_stack=2,
            target_rate=0.1,
            epsilon="exponential",
        ),
        Pixels(),
    ),
}
"""The configurations and their environments; the last one learns from stacked pixels."""


def run(name: str) -> dict[str, np.ndarray]:
    """Everything that a case leaves behind, by names that do not depend on where the state keeps it."""
    config, env = CASES[name]
    workload = dqn.make(config, env)

    @jax.jit
    def train(key: jax.Array) -> Any:
        return lax.scan(lambda state, _: workload.train_step(state, None), workload.init(key), length=STEPS)

    state, metrics = train(jax.random.key(0))
    memory = state.local.memory
    left = {
        "params": state.params,
        "target": state.extra["target"],
        "metrics": metrics,
        "action": memory.action,
        "reward": memory.reward,
        "ending": memory.ending,
        "observation": memory.observation,
        "final_observation": memory.final_observation,
        "final_time": memory.final_time,
        "priorities": {} if memory.priorities is None else memory.priorities.leaves,
        "episode_return": state.local.episode_return,
    }
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(left)
    }


def main() -> None:
    arrays = {f"{name}/{key}": value for name in CASES for key, value in run(name).items()}
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
