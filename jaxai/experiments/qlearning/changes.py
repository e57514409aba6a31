"""Changes of the configuration that a resumed run of deep Q-learning may have, and their effect on its state."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxai.core import State
from jaxai.dqn import priorities
from jaxai.dqn.config import Config, Hyperparameters
from jaxai.runtime.continuation import Changes

CLOCK = "the clock of the replay buffer depends on it"
REPLAY = "the layout of the replay buffer depends on it"
CHANGES = Changes(
    applied=(
        *("expected", "workload.total_steps", "workload.batch_size", "workload.discount"),
        *("workload.epsilon", "workload.epsilon_start", "workload.epsilon_end", "workload.epsilon_steps"),
        *("workload.target_every", "workload.target_rate", "workload.double", "workload.huber_delta"),
        *("workload.munchausen", "workload.munchausen_temperature", "workload.munchausen_minimum"),
        "workload.importance_exponent",
    ),
    measured=("workload.evaluation_episodes", "workload.evaluation_steps", "workload.dtype"),
    optimizers=("workload.optimizer",),
    never_switched=("workload.priority_exponent",),
    refused={
        "workload.learning_starts": CLOCK,
        "workload.train_every": CLOCK,
        "workload.num_envs": CLOCK,
        "workload.updates_per_step": "the clock of the optimizer depends on it",
        "workload.capacity": REPLAY,
        "workload.n_step": REPLAY,
        "workload.frame_stack": REPLAY,
        "workload.storage": REPLAY,
        "workload.truncation_spacing": REPLAY,
        "workload.prioritized": REPLAY,
        "workload.save_replay": "it determines whether checkpoints contain the replay buffer",
    },
)


def apply(config: Config, set_members: Callable[[State], State] | None, state: State) -> State:
    """A restored state with the hyperparameters of the current configuration, and priorities for its exponent.

    Args:
      config: of the run.
      set_members: stacked states of several trainings -> the same with the hyperparameters of each; None for a single
        training, whose state is not stacked.
      state: from the checkpoint.
    """
    learner = state if set_members is None else state.local
    old = learner.extra["hyperparameters"]
    new = jax.tree.map(lambda leaf, value: jnp.broadcast_to(value, leaf.shape), old, Hyperparameters.of(config))
    learner = learner.replace(extra=learner.extra | {"hyperparameters": new})
    if set_members is not None:
        learner = set_members(learner)
        new = learner.extra["hyperparameters"]
    placed = jax.tree.map(lambda leaf, value: jax.device_put(value, leaf.sharding), old, new)
    learner = learner.replace(extra=learner.extra | {"hyperparameters": placed})
    if learner.local is None:  # a checkpoint without the replay buffer
        return learner if set_members is None else state.replace(local=learner)
    memory = learner.local.memory
    if memory.priorities is not None and bool((old.priority_exponent != new.priority_exponent).any()):
        power, table = new.priority_exponent / old.priority_exponent, memory.priorities
        raised = priorities.raised(table, power) if set_members is None else jax.vmap(priorities.raised)(table, power)
        raised = jax.tree.map(lambda leaf, value: jax.device_put(value, leaf.sharding), table, raised)
        learner = learner.replace(local=learner.local.replace(memory=memory.replace(priorities=raised)))
    return learner if set_members is None else state.replace(local=learner)
