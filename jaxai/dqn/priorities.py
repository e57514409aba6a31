"""Sampling in proportion to priorities, on the device: proportional, of Schaul et al. 2016 (arXiv:1511.05952).

Priorities are stored in short rows, together with the sum of each row. A draw adds the sums in blocks, the blocks in
blocks, and so on, and then searches back down: a few vectorized passes, where a binary sum tree needs log2(capacity)
dependent ones. Each sum is computed from its whole row, so that it never drifts.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxai.core import Key

__all__ = ["Priorities", "init", "nbytes", "raised", "sample", "set_slot", "update"]

WIDTH = 32
"""Slots in a row, and sums in a block; small, since a draw gathers one row or block of each level."""
FINE = 2**20
"""Largest number of slots that the 24 bits of one float32 draw select uniformly."""
MOST = FINE * WIDTH
"""Largest number of slots that can be drawn uniformly: `FINE` rows, and a second draw within the row."""


class Priorities(struct.PyTreeNode):
    """Priorities of the slots of every environment, already raised to alpha; 0: not to be drawn.

    Attributes:
      leaves: [environments, rows, width] float32; slot `row * width + column`.
      sums: [environments, rows] float32, of each row.
      largest: [environments] float32, the largest priority that was ever set; new transitions get the maximum of all.
    """

    leaves: jax.Array
    sums: jax.Array
    largest: jax.Array


def init(num_envs: int, slots: int) -> Priorities:
    """Priorities of 0, so that no slot is drawn; the first transitions get a priority of 1."""
    width = min(slots, WIDTH)
    rows = -(-slots // width)
    return Priorities(jnp.zeros((num_envs, rows, width)), jnp.zeros((num_envs, rows)), jnp.ones(num_envs))


def nbytes(slots: int) -> int:
    """Bytes of the priorities of one environment."""
    width = min(slots, WIDTH)
    rows = -(-slots // width)
    return 4 * (rows * width + rows + 1)


def set_slot(priorities: Priorities, slot: jax.Array, value: jax.Array | float) -> Priorities:
    """Sets the priority of one slot, the same slot in every environment.

    Args:
      priorities: as they are.
      slot: [] int32.
      value: [] or [environments, 1] float32, 0 or more.
    """
    width = priorities.leaves.shape[-1]
    row = slot // width
    leaves = lax.dynamic_index_in_dim(priorities.leaves, row, 1, keepdims=False)
    leaves = jnp.where(jnp.arange(width) == slot % width, value, leaves)
    return priorities.replace(
        leaves=priorities.leaves.at[:, row].set(leaves), sums=priorities.sums.at[:, row].set(leaves.sum(-1))
    )


def update(priorities: Priorities, environment: jax.Array, slot: jax.Array, values: jax.Array) -> Priorities:
    """Sets the priorities of drawn slots. If a slot occurs several times, one of its values is kept, any of them.

    Args:
      priorities: as they are.
      environment: [batch] int32.
      slot: [batch] int32.
      values: [batch] float32, already raised to alpha; 0: never drawn again.
    """
    width = priorities.leaves.shape[-1]
    row = slot // width
    leaves = priorities.leaves.at[environment, row, slot % width].set(values)
    sums = priorities.sums.at[environment, row].set(leaves[environment, row].sum(-1))
    return Priorities(leaves, sums, priorities.largest.at[environment].max(values))


def raised(priorities: Priorities, power: jax.Array | float) -> Priorities:
    """The priorities raised to a power (scalar): alpha / old alpha changes their exponent; 0 stays 0."""
    leaves = jnp.where(priorities.leaves > 0, priorities.leaves**power, 0.0)
    return Priorities(leaves, leaves.sum(-1), priorities.largest**power)


def sample(priorities: Priorities, key: Key, batch_size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Stratified draws: one from each of `batch_size` equal shares of the total.

    Args:
      priorities: at least one of them above 0.
      key: of the draws.
      batch_size: number of draws.

    Returns:
      environment [batch] int32, slot [batch] int32, probability [batch] float32 of each draw.
    """
    rows, width = priorities.leaves.shape[1:]
    levels = [priorities.leaves.reshape(-1, width), _blocks(priorities.sums.reshape(-1))]
    while len(levels[-1]) > 1:
        levels.append(_blocks(levels[-1].sum(-1)))
    total = levels[-1].sum()
    rest = (jnp.arange(batch_size) + jax.random.uniform(key, (batch_size,))) / batch_size * total
    index = jnp.zeros(batch_size, jnp.int32)
    for level in reversed(levels):
        weights = level[index]
        if level is levels[0] and level.size > FINE:
            # The rest of the first draw has too few bits for the slots of a row: some would never be drawn.
            rest = jax.random.uniform(jax.random.fold_in(key, 1), (batch_size,)) * weights.sum(-1)
        column, rest = _search(weights, rest)
        index = index * level.shape[-1] + column
    environment, slot = index // (rows * width), index % (rows * width)
    return environment, slot, jnp.take_along_axis(weights, column[:, None], 1)[:, 0] / total


def _blocks(sums: jax.Array) -> jax.Array:
    """[count] -> [blocks, WIDTH], padded with zeros."""
    return jnp.pad(sums, (0, -len(sums) % WIDTH)).reshape(-1, WIDTH)


def _search(weights: jax.Array, mass: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Index [batch] of the first cumulative weight ([batch, width]) above a mass [batch], and the mass left for it.

    Its weight is never 0, whatever the rounding, unless all are 0.
    """
    width = weights.shape[-1]
    # For few weights this is faster than `cumsum`, and it is always monotone.
    before = jnp.where(jnp.tri(width, k=-1, dtype=bool), weights[:, None, :], 0.0).sum(-1)
    reached = (before <= mass[:, None]) & (weights > 0)
    # The last whose share begins at or below the mass.
    index = jnp.where(reached.any(-1), width - 1 - reached[:, ::-1].argmax(-1), (weights > 0).argmax(-1))
    return index, mass - jnp.take_along_axis(before, index[:, None], 1)[:, 0]
