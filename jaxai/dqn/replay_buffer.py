"""The replay buffer, on the device: every observation is stored once; successors and frame stacks are rebuilt.

Time is counted in steps of all environments together. Slot `time % slots` contains the observation, action and reward
of an environment at that time. So the successor of a transition is the observation of the next slot. Only where an
episode was truncated, the next slot belongs to another episode; the true successor, which the bootstrap needs, is in a
small separate ring. The ring has one place for every `truncation_spacing` steps, and stores the time of each. If an
environment truncates more often, the later truncation overwrites the place. A transition whose successor is lost has
no effect on an update, so that no bootstrap is wrong.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from jaxai.core import Key
from jaxai.dqn import priorities
from jaxai.dqn.frames import stack
from jaxai.dqn.priorities import Priorities

__all__ = ["Memory", "ReplayBuffer", "Sample"]

TERMINATED, TRUNCATED = 1, 2


class Memory(struct.PyTreeNode):
    """The contents; the leading axis of every leaf is the environments, so that devices can share them.

    Attributes:
      observation: [environments, slots, ...] single frames in their own dtype, or uint8 with eight binary values each.
      action: [environments, slots], the smallest unsigned integer that holds them.
      reward: [environments, slots] float32.
      ending: [environments, slots] uint8: TERMINATED, TRUNCATED, both or 0.
      final_observation: [environments, places, ...] true successors of truncated steps.
      final_time: [environments, places] int32, the time of that step; -1: none.
      priorities: of prioritized replay, else None.
      mask: [environments, slots, ceil(actions / 8)] uint8, the legal actions as bits; None where all are legal.
      final_mask: [environments, places, ceil(actions / 8)] uint8, those after `final_observation`.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    ending: jax.Array
    final_observation: jax.Array
    final_time: jax.Array
    priorities: Priorities | None
    mask: jax.Array | None = None
    final_mask: jax.Array | None = None


class Sample(struct.PyTreeNode):
    """Sampled transitions, and their positions.

    Attributes:
      batch: what `train_step` learns from: `observation`, `action`, `reward` (the n-step return), `discount`
        (gamma^n, 0 after termination), `next_observation`, and `mask` (0 where the successor is lost); where some
        actions are not legal, also `action_mask` and `next_action_mask`.
      env_index: [batch] int32, number of the environment.
      slot: [batch] int32.
      probability: [batch] float32 of the sample.
    """

    batch: dict[str, jax.Array]
    env_index: jax.Array
    slot: jax.Array
    probability: jax.Array


@dataclass(frozen=True)
class ReplayBuffer:
    """The functions of a replay buffer.

    Attributes:
      capacity: transitions that can be drawn, over all environments; rounded up to a multiple of them.
      num_envs: environments that write, over all devices.
      observation_shape: of one frame.
      observation_dtype: of one frame.
      binary: frames contain only 0 and 1, and are stored as bits.
      num_actions: actions are 0 to num_actions - 1.
      n_step: steps of a return.
      frame_stack: frames in an observation that the network sees.
      truncation_spacing: minimum number of steps between two truncations of an environment.
      prioritized: sample in proportion to priorities.
      masked: store the legal actions.
    """

    capacity: int
    num_envs: int
    observation_shape: tuple[int, ...]
    observation_dtype: Any
    binary: bool
    num_actions: int
    n_step: int = 1
    frame_stack: int = 1
    truncation_spacing: int = 64
    prioritized: bool = False
    masked: bool = False

    @property
    def slots(self) -> int:
        """Slots of each environment: its share of the capacity, and those whose return or stack is incomplete."""
        return -(-self.capacity // self.num_envs) + self.n_step + self.frame_stack - 1

    @property
    def places(self) -> int:
        """Places for true successors; one more than fit, so that no place in use is overwritten."""
        return -(-self.slots // self.truncation_spacing) + 1

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that `init` makes, for all environments."""
        numbers = math.prod(self.observation_shape)
        frame = -(-numbers // 8) if self.binary else numbers * np.dtype(self.observation_dtype).itemsize
        action = 1 if self.num_actions <= 256 else 4
        legal = -(-self.num_actions // 8) if self.masked else 0
        each = self.slots * (frame + action + legal + 4 + 1) + self.places * (frame + legal + 4)
        if self.prioritized:
            each += priorities.nbytes(self.slots)
        return self.num_envs * each

    def init(self, observation: jax.Array, mask: jax.Array | None = None) -> Memory:
        """An empty memory at time 0, when the environments return these frames [environments, *observation_shape].

        Args:
          observation: the frames.
          mask: [environments, actions] bool, the legal actions; None: all, always.
        """
        frames = self._encode(observation)
        environments = len(frames)
        action_dtype = jnp.uint8 if self.num_actions <= 256 else jnp.int32
        stored = jnp.zeros((environments, self.slots, *frames.shape[1:]), frames.dtype).at[:, 0].set(frames)
        legal = final_legal = None
        if mask is not None:
            bits = jnp.packbits(mask, axis=-1)
            legal = jnp.zeros((environments, self.slots, bits.shape[-1]), jnp.uint8).at[:, 0].set(bits)
            final_legal = jnp.zeros((environments, self.places, bits.shape[-1]), jnp.uint8)
        return Memory(
            observation=stored,
            action=jnp.zeros((environments, self.slots), action_dtype),
            reward=jnp.zeros((environments, self.slots)),
            ending=jnp.zeros((environments, self.slots), jnp.uint8),
            final_observation=jnp.zeros((environments, self.places, *frames.shape[1:]), frames.dtype),
            final_time=jnp.full((environments, self.places), -1, jnp.int32),
            priorities=priorities.init(environments, self.slots) if self.prioritized else None,
            mask=legal,
            final_mask=final_legal,
        )

    def add(
        self,
        memory: Memory,
        time: jax.Array,
        action: jax.Array,
        reward: jax.Array,
        terminated: jax.Array,
        truncated: jax.Array,
        final_observation: jax.Array,
        observation: jax.Array,
        final_mask: jax.Array | None = None,
        mask: jax.Array | None = None,
        begun: jax.Array | None = None,
    ) -> Memory:
        """The memory after step `time` (scalar int32) of all environments.

        Args:
          memory: before.
          time: of this step; the next one's observation goes to `time + 1`.
          action: [environments].
          reward: [environments].
          terminated: [environments] bool.
          truncated: [environments] bool.
          final_observation: [environments, *observation_shape], the true successors.
          observation: [environments, *observation_shape], the next ones, after a reset where an episode ended.
          final_mask: [environments, actions] bool, the legal actions after `final_observation`; None: all, always.
          mask: [environments, actions] bool, the legal actions in `observation`.
          begun: [environments] bool, whether the step only began an episode, as gymnasium's autoreset does: nothing is
            learned from it. None: no step did.
        """
        slot, place = time % self.slots, time // self.truncation_spacing % self.places
        # A terminated step is not bootstrapped, so that only truncation needs its successor.
        keep = truncated & ~terminated
        old_final, old_time = memory.final_observation[:, place], memory.final_time[:, place]
        chosen = keep.reshape(-1, *[1] * (old_final.ndim - 1))
        final = jnp.where(chosen, self._encode(final_observation), old_final)
        if begun is not None:
            truncated |= begun  # without the successor that `keep` stores: `mask` is 0 where it is drawn
        ending = TERMINATED * terminated.astype(jnp.uint8) + TRUNCATED * truncated.astype(jnp.uint8)
        memory = memory.replace(
            observation=_put(memory.observation, (time + 1) % self.slots, self._encode(observation)),
            action=_put(memory.action, slot, action),
            reward=_put(memory.reward, slot, reward),
            ending=_put(memory.ending, slot, ending),
            final_observation=_put(memory.final_observation, place, final),
            final_time=_put(memory.final_time, place, jnp.where(keep, time, old_time)),
        )
        if memory.mask is not None:
            assert memory.final_mask is not None
            assert final_mask is not None
            assert mask is not None
            old_mask = memory.final_mask[:, place]
            final_bits = jnp.where(keep[:, None], jnp.packbits(final_mask, axis=-1), old_mask)
            memory = memory.replace(
                mask=_put(memory.mask, (time + 1) % self.slots, jnp.packbits(mask, axis=-1)),
                final_mask=_put(memory.final_mask, place, final_bits),
            )
        if memory.priorities is None:
            return memory
        newest, oldest = self._drawable(time + 1)
        table = memory.priorities
        # Before `newest` reaches 0, its slot is written, and its priority set to 0, before it can be drawn.
        fresh = jnp.where(newest >= 0, table.largest.max(), 0.0)
        environments = len(memory.action)
        # Both at once: of two updates in a row XLA copies all priorities.
        table = priorities.update(
            table,
            jnp.tile(jnp.arange(environments), 2),
            jnp.repeat(jnp.stack([newest, oldest - 1]) % self.slots, environments),
            jnp.repeat(jnp.stack([fresh, jnp.zeros_like(fresh)]), environments),
        )
        return memory.replace(priorities=table)

    def size(self, time: jax.Array) -> jax.Array:
        """Transitions of one environment that can be drawn once `time` steps are taken."""
        newest, oldest = self._drawable(time)
        return newest - jnp.maximum(oldest, 0) + 1

    def sample(self, memory: Memory, key: Key, time: jax.Array, batch_size: int, discount: jax.Array) -> Sample:
        """Transitions at random, uniformly or by priority, once `time` steps are taken.

        Args:
          memory: at `time`.
          key: of the draw.
          time: scalar int32; at least `n_step`.
          batch_size: transitions.
          discount: gamma, scalar float32.
        """
        environments = len(memory.action)
        newest, oldest = self._drawable(time)
        oldest, size = jnp.maximum(oldest, 0), self.size(time)
        if memory.priorities is None:
            index = jax.random.randint(key, (batch_size,), 0, environments * size)
            environment, start = index // size, oldest + index % size
            slot, probability = start % self.slots, jnp.full(batch_size, 1.0) / (environments * size)
        else:
            environment, slot, probability = priorities.sample(memory.priorities, key, batch_size)
            start = newest - (newest - slot) % self.slots
        batch = self._transitions(memory, environment, start, discount)
        return Sample(batch, environment, slot, probability)

    def prioritize(self, memory: Memory, sample: Sample, values: jax.Array) -> Memory:
        """Sets the priorities of a sample's transitions.

        Args:
          memory: that the sample was drawn from; it must have priorities.
          sample: from `sample`.
          values: [batch] float32, already raised to alpha.
        """
        assert memory.priorities is not None
        return memory.replace(priorities=priorities.update(memory.priorities, sample.env_index, sample.slot, values))

    def _drawable(self, time: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Times of the newest and the oldest transition that can be drawn; the oldest is negative at first."""
        return time - self.n_step, time - self.slots + self.frame_stack

    def _transitions(
        self, memory: Memory, environment: jax.Array, start: jax.Array, discount: jax.Array
    ) -> dict[str, jax.Array]:
        steps = start[:, None] + jnp.arange(self.n_step)
        ending = memory.ending[environment[:, None], steps % self.slots]
        rewards = memory.reward[environment[:, None], steps % self.slots]
        ended = jnp.cumsum(ending > 0, 1)
        alive = ended - (ending > 0) == 0  # no episode ended before this step
        powers = discount ** jnp.arange(self.n_step)
        last = alive.sum(1) - 1  # steps after the first: where the episode ended, else the n-th
        ending = jnp.take_along_axis(ending, last[:, None], 1)[:, 0]
        terminated = ending & TERMINATED > 0
        truncated = (ending & TRUNCATED > 0) & ~terminated
        place = (start + last) // self.truncation_spacing % self.places
        found = memory.final_time[environment, place] == start + last
        final = memory.final_observation[environment, place]
        masks = {}
        if memory.mask is not None:
            assert memory.final_mask is not None
            following = memory.mask[environment, (start + last + 1) % self.slots]
            following = jnp.where(truncated[:, None], memory.final_mask[environment, place], following)
            masks["action_mask"] = self._legal(memory.mask[environment, start % self.slots])
            masks["next_action_mask"] = self._legal(following)
        return masks | {
            "observation": self._observation(memory, environment, start),
            "action": memory.action[environment, start % self.slots].astype(jnp.int32),
            "reward": (powers * rewards * alive).sum(1),
            "discount": jnp.where(terminated, 0.0, discount ** (last + 1)),
            "next_observation": self._observation(memory, environment, start + last + 1, truncated, final),
            "mask": jnp.where(truncated, found, True).astype(jnp.float32),
        }

    def _observation(
        self,
        memory: Memory,
        environment: jax.Array,
        time: jax.Array,
        replaced: jax.Array | None = None,
        by: jax.Array | None = None,
    ) -> jax.Array:
        """What the network saw at `time`; where `replaced`, its newest frame is `by`, of the same episode."""
        times = time[:, None] + jnp.arange(1 - self.frame_stack, 1)
        stored = memory.observation[environment[:, None], times % self.slots]
        # A frame belongs to the newest one's episode unless one ended in between; nothing was before time 0.
        ends = memory.ending[environment[:, None], times % self.slots] > 0
        if replaced is not None:
            assert by is not None
            chosen = replaced.reshape(-1, *[1] * (by.ndim - 1))
            stored = stored.at[:, -1].set(jnp.where(chosen, by, stored[:, -1]))
            if self.frame_stack > 1:
                ends = ends.at[:, -2].set(ends[:, -2] & ~replaced)
        ends = ends.at[:, -1].set(False)
        same_episode = jnp.cumsum(ends[:, ::-1], 1)[:, ::-1] == 0
        return stack(self._decode(stored), same_episode & (times >= 0))

    def _legal(self, bits: jax.Array) -> jax.Array:
        """Stored masks -> [batch, actions] bool."""
        return jnp.unpackbits(bits, axis=-1, count=self.num_actions).astype(bool)

    def _encode(self, frames: jax.Array) -> jax.Array:
        """[..., *observation_shape] -> as stored."""
        if not self.binary:
            return frames.astype(self.observation_dtype)
        lead = frames.shape[: frames.ndim - len(self.observation_shape)]
        return jnp.packbits(frames.reshape(*lead, -1) != 0, axis=-1)

    def _decode(self, stored: jax.Array) -> jax.Array:
        """The inverse of `_encode`, in the frames' own dtype."""
        if not self.binary:
            return stored
        count = 1
        for extent in self.observation_shape:
            count *= extent
        bits = jnp.unpackbits(stored, axis=-1, count=count)
        return bits.reshape(*stored.shape[:-1], *self.observation_shape).astype(self.observation_dtype)


def _put(buffer: jax.Array, slot: jax.Array, values: jax.Array) -> jax.Array:
    """The values [environments, ...] in one slot; a scatter, as `at[].set` makes, moves the whole buffer on CPU."""
    return lax.dynamic_update_index_in_dim(buffer, values.astype(buffer.dtype), slot, 1)
