"""What is handed to the learner and to a policy: checked while tracing, in one line."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import dqn
from tests.dqn.chain import PLACES, TINY, Chain, started, transitions


def batch_with(**changes: Any) -> dict[str, np.ndarray]:
    batch = {**transitions(), **changes}
    return {name: value for name, value in batch.items() if value is not None}


@functools.cache
def learner() -> tuple[Any, Any]:
    workload, _, state = started()
    return workload, state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reward": None},
            "the batch has no 'reward'; it needs observation, action, reward, discount, next_observation",
        ),
        ({"reward": np.ones((8, 1), np.float32)}, r"reward has shape \(8, 1\); expected \(8,\): one for each of 8 obs"),
        ({"action": np.zeros((8, 1), np.int32)}, r"action has shape \(8, 1\); expected \(8,\)"),
        ({"action": np.zeros(8, np.float32)}, "action is float32; expected int32, from 0 to 1"),
        ({"discount": np.ones(7, np.float32)}, r"discount has shape \(7,\); expected \(8,\)"),
        ({"weight": np.ones((8, 8), np.float32)}, r"weight has shape \(8, 8\); expected \(8,\)"),
        (
            {"observation": np.zeros((8, PLACES, 1), np.float32)},
            r"observation has shape \(8, 4, 1\); expected \(batch, 4",
        ),
        (
            {"observation": np.zeros((8, PLACES), np.uint8)},
            "observation is uint8; expected float32, as the environment",
        ),
        ({"next_observation": np.zeros((7, PLACES), np.float32)}, r"next_observation has shape \(7, 4\)"),
        ({"next_action_mask": np.ones((8, 3), bool)}, r"next_action_mask has shape \(8, 3\); expected \(8, 2\)"),
        (
            {"action_mask": np.ones((8, 2), np.int32)},
            "action_mask is int32; expected bool, True where an action is legal",
        ),
    ],
)
def test_a_batch_of_another_kind_is_refused_in_one_line(changes, message):
    workload, state = learner()
    for function in (workload.train_step, workload.gradients):
        with pytest.raises(ValueError, match=message) as error:
            jax.eval_shape(function, state, batch_with(**changes))
        assert "\n" not in str(error.value)


def test_integer_rewards_of_a_batch_are_numbers_and_do_not_wrap():
    workload, state = learner()
    step = jax.jit(workload.train_step)
    _, narrow = step(state, batch_with(reward=np.full(8, 255, np.uint8)))
    _, wide = step(state, batch_with(reward=np.full(8, 255, np.float32)))
    assert float(narrow["loss"]) == float(wide["loss"]) > 200


def test_a_policy_takes_a_batch_of_the_environments_observations():
    _, state = learner()
    policy = dqn.make_policy(TINY, Chain())
    assert policy(state, jnp.zeros((3, PLACES))).shape == (3,)
    with pytest.raises(ValueError, match=r"observations has shape \(4,\); expected \(batch, 4\)"):
        policy(state, jnp.zeros(PLACES))
    with pytest.raises(ValueError, match="observations is int32; expected float32"):
        policy(state, jnp.zeros((3, PLACES), jnp.int32))
