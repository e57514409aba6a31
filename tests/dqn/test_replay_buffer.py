from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from scipy import stats

from jaxai.dqn.replay_buffer import ReplayBuffer

GAMMA = np.float32(0.9)
ENVIRONMENTS = 3


class Episodes:
    """What three random environments did, in lists, and what a transition of theirs is by the definition."""

    def __init__(self, replay, seed=0, ends=0.15):
        self.replay, self.random, self.ends = replay, np.random.default_rng(seed), ends
        self.frames, self.actions, self.rewards = [self._frames()], [], []
        self.terminated, self.truncated, self.finals = [], [], []

    def _frames(self):
        shape = (ENVIRONMENTS, *self.replay.observation_shape)
        frames = self.random.integers(0, 2 if self.replay.binary else 256, shape)
        return frames.astype(self.replay.observation_dtype)

    @property
    def time(self):
        return len(self.actions)

    def step(self):
        terminated, truncated = self.random.random((2, ENVIRONMENTS)) < self.ends
        self.actions.append(self.random.integers(0, self.replay.num_actions, ENVIRONMENTS).astype(np.int32))
        self.rewards.append(self.random.normal(size=ENVIRONMENTS).astype(np.float32))
        self.terminated.append(terminated)
        self.truncated.append(truncated)
        self.frames.append(self._frames())
        ended = (terminated | truncated).reshape(-1, *[1] * len(self.replay.observation_shape))
        self.finals.append(np.where(ended, self._frames(), self.frames[-1]))
        arrays = (self.actions, self.rewards, self.terminated, self.truncated, self.finals, self.frames)
        return np.int32(self.time - 1), *(array[-1] for array in arrays)

    def _ended(self, environment, time):
        return self.terminated[time][environment] or self.truncated[time][environment]

    def _stack(self, environment, time, newest):
        """The frames of the episode up to `time`, the last of them `newest`, after zeros."""
        count, frames = self.replay.frame_stack, [newest]
        while len(frames) < count and time > 0 and not self._ended(environment, time - 1):
            time -= 1
            frames.insert(0, self.frames[time][environment])
        if count == 1:
            return newest
        frames = [np.zeros_like(newest)] * (count - len(frames)) + frames
        return np.stack(frames, -1) if newest.ndim == 2 else np.concatenate(frames, -1)

    def drawable(self):
        """Newest and oldest starting times: the newest `capacity` whose return is complete."""
        newest = self.time - self.replay.n_step
        return range(max(0, newest - self.replay.capacity // ENVIRONMENTS + 1), newest + 1)

    def transition(self, environment, start):
        """The transition that begins at `start`, and whether its true successor must still be there."""
        total, here = 0.0, start
        for power in range(self.replay.n_step):
            here = start + power
            total += float(GAMMA) ** power * self.rewards[here][environment]
            if self._ended(environment, here):
                break
        terminated, truncated = self.terminated[here][environment], self.truncated[here][environment]
        block = here // self.replay.truncation_spacing
        lost = any(
            self.truncated[later][environment] and not self.terminated[later][environment]
            for later in range(here + 1, min(self.time, (block + 1) * self.replay.truncation_spacing))
        )
        successor = self.finals[here][environment]
        # The stack of a successor goes back into its own episode, even where the next frame is of another.
        frames, count = [successor], self.replay.frame_stack
        if count > 1:
            before = self._stack(environment, here, self.frames[here][environment])
            channels = before.shape[-1] // count
            frames = [before[..., channels:], successor[..., None] if successor.ndim == 2 else successor]
        return {
            "observation": self._stack(environment, start, self.frames[start][environment]),
            "action": self.actions[start][environment],
            "reward": total,
            "discount": 0.0 if terminated else float(GAMMA) ** (here + 1 - start),
            "next_observation": np.concatenate(frames, -1) if count > 1 else successor,
            "mask": 0.0 if truncated and not terminated and lost else 1.0,
        }, terminated


def replay_of(shape=(2, 2), dtype=np.uint8, binary=False, capacity=12, **options):
    options = {"truncation_spacing": 4} | options
    return ReplayBuffer(capacity, ENVIRONMENTS, shape, dtype, binary, 6, **options)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 60),
        ({"n_step": 3, "frame_stack": 4}, 60),
        ({"frame_stack": 4, "shape": (3, 3, 2), "dtype": np.float32, "binary": True, "prioritized": True}, 60),
        (
            {
                **{"n_step": 3, "frame_stack": 2, "shape": (3,), "dtype": np.float32},
                **{"capacity": 30, "truncation_spacing": 1, "prioritized": True},
            },
            60,
        ),
    ],
    ids=["plain", "n-step-stack", "bits-stack-prioritized", "n-step-prioritized-spacing-1"],
)
def test_every_draw_is_the_transition_that_the_definition_gives(options, steps):
    replay = replay_of(**options)
    episodes = Episodes(replay)
    memory = jax.jit(replay.init)(episodes.frames[0])
    add = jax.jit(replay.add, donate_argnums=0)
    sample = jax.jit(replay.sample, static_argnums=3)
    checked = lost = truncations = 0
    for step in range(steps):
        memory = add(memory, *episodes.step())
        if episodes.time < replay.n_step or step % 3:
            continue
        drawn = sample(memory, jax.random.key(step), np.int32(episodes.time), 256, GAMMA)
        times = {time % replay.slots: time for time in episodes.drawable()}
        drawn = jax.tree.map(np.asarray, drawn)
        keys = list(zip(drawn.env_index.tolist(), drawn.slot.tolist(), strict=True))
        # Whatever can be drawn is drawn, and nothing else.
        assert set(keys) == {(environment, slot) for environment in range(ENVIRONMENTS) for slot in times}
        np.testing.assert_allclose(drawn.probability, 1 / len(set(keys)), rtol=1e-5)
        assert int(replay.size(jnp.int32(episodes.time))) == len(times)
        for key in sorted(set(keys)):
            row = {name: values[keys.index(key)] for name, values in drawn.batch.items()}
            expected, terminated = episodes.transition(key[0], times[key[1]])
            np.testing.assert_equal(row["observation"], expected["observation"])
            assert row["observation"].dtype == row["next_observation"].dtype == np.dtype(replay.observation_dtype)
            assert row["action"] == expected["action"]
            np.testing.assert_allclose(row["reward"], expected["reward"], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(row["discount"], expected["discount"], rtol=1e-6)
            assert row["mask"] == expected["mask"]
            # What follows termination is not valued; a lost successor is masked.
            if not terminated and row["mask"]:
                np.testing.assert_equal(row["next_observation"], expected["next_observation"])
            checked, lost = checked + 1, lost + (row["mask"] == 0)
            truncations += not terminated and expected["discount"] > 0
    assert checked > 150
    assert truncations > 20
    assert (lost > 0) == (replay.truncation_spacing > 1)


def test_truncations_as_far_apart_as_promised_lose_no_successor():
    replay = replay_of(truncation_spacing=5, capacity=60)
    episodes = Episodes(replay, ends=0.0)
    memory = jax.jit(replay.init)(episodes.frames[0])
    add, sample = jax.jit(replay.add), jax.jit(replay.sample, static_argnums=3)
    for step in range(150):
        time, action, reward, terminated, truncated, final, frame = episodes.step()
        # Each environment with a phase and a distance of its own.
        truncated = np.array([step % 5 == 4, step % 7 == 2, step % 11 == 0])
        episodes.truncated[-1] = truncated
        memory = add(memory, time, action, reward, terminated, truncated, final, frame)
        if step % 10 == 9:
            drawn = sample(memory, jax.random.key(step), jnp.int32(step + 1), 256, GAMMA)
            assert np.asarray(drawn.batch["mask"]).all()


def test_draws_are_uniform():
    replay = replay_of(capacity=60)
    episodes = Episodes(replay)
    memory, add = replay.init(episodes.frames[0]), jax.jit(replay.add)
    for _ in range(50):
        memory = add(memory, *episodes.step())
    drawn = jax.jit(replay.sample, static_argnums=3)(memory, jax.random.key(0), jnp.int32(50), 60_000, GAMMA)
    counts = np.bincount(np.asarray(drawn.env_index * replay.slots + drawn.slot))
    counts = counts[counts > 0]
    assert len(counts) == replay.capacity
    assert stats.chisquare(counts).pvalue > 1e-4


def test_only_transitions_that_can_be_drawn_have_a_priority_and_new_ones_the_largest():
    replay = replay_of(n_step=3, frame_stack=2, prioritized=True)
    episodes = Episodes(replay)
    memory, add = jax.jit(replay.init)(episodes.frames[0]), jax.jit(replay.add)
    sample, prioritize = jax.jit(replay.sample, static_argnums=3), jax.jit(replay.prioritize)
    largest = 1.0
    for step in range(40):
        memory = add(memory, *episodes.step())
        leaves = np.asarray(memory.priorities.leaves).reshape(ENVIRONMENTS, -1)
        positive = {time % replay.slots for time in episodes.drawable()}
        assert all(set(np.flatnonzero(row)) == positive for row in leaves)
        if positive:
            newest = (episodes.time - replay.n_step) % replay.slots
            np.testing.assert_array_equal(leaves[:, newest], np.float32(largest))
            drawn = sample(memory, jax.random.key(step), jnp.int32(episodes.time), 4, GAMMA)
            values = jax.random.uniform(jax.random.key(step), (4,), minval=0.1, maxval=0.5 + step)
            memory, largest = prioritize(memory, drawn, values), max(largest, float(values.max()))


@pytest.mark.parametrize(
    ("replay", "most"),
    [
        (ReplayBuffer(100_000, 10, (10, 10, 4), np.float32, True, 6, truncation_spacing=1000), 64),
        (ReplayBuffer(100_000, 10, (10, 10, 4), np.float32, True, 6, truncation_spacing=1000, prioritized=True), 64),
        (ReplayBuffer(100_000, 10, (84, 84), np.uint8, False, 18, frame_stack=4, truncation_spacing=1000), 7_300),
        (ReplayBuffer(100_000, 10, (84, 84), np.uint8, False, 18, 3, 4, 1000, True), 7_300),
    ],
    ids=["minatar", "minatar-prioritized", "atari", "atari-prioritized"],
)
def test_a_transition_takes_few_bytes(replay, most):
    frames = jax.ShapeDtypeStruct((10, *replay.observation_shape), replay.observation_dtype)
    leaves = jax.tree.leaves(jax.eval_shape(replay.init, frames))
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / replay.capacity <= most


def collect(replay, memory, key, first):
    """Forty steps of random environments, each with an update from the replay."""

    def step(i, carry):
        memory, total = carry
        time, step_key = first + i, jax.random.fold_in(key, i)
        environments = len(memory.action)
        chance = jax.random.uniform(step_key, (environments,))
        frames = jax.random.bits(step_key, (environments, *replay.observation_shape), jnp.uint8) % 2
        frames = frames.astype(replay.observation_dtype)
        memory = replay.add(memory, time, chance > 0.5, chance, chance < 0.1, chance > 0.9, frames, frames)
        sample = replay.sample(memory, step_key, time + 1, 8, jnp.float32(GAMMA))
        if replay.prioritized:
            memory = replay.prioritize(memory, sample, sample.batch["reward"] + sample.batch["mask"])
        return memory, total + sum(jnp.mean(leaf.astype(jnp.float32)) for leaf in sample.batch.values())

    return jax.lax.fori_loop(0, 40, step, (memory, jnp.float32(0)))


@cache
def compiled_loop(seeds):
    """The loop over binary frames, compiled and with its first arguments; for so many seeds side by side, or one."""
    replay = ReplayBuffer(60_000, 4, (10, 10, 4), np.float32, True, 6, frame_stack=2, prioritized=True)
    loop, init = partial(collect, replay), replay.init
    keys, frames = jax.random.key(0), np.zeros((4, 10, 10, 4), np.float32)
    if seeds:
        loop, init = jax.vmap(loop, (0, 0, None)), jax.vmap(init)
        keys, frames = jax.random.split(keys, seeds), np.stack([frames] * seeds)
    memory = jax.jit(init)(frames)
    return jax.jit(loop, donate_argnums=0).lower(memory, keys, jnp.int32(3)).compile(), memory, keys


@pytest.mark.parametrize("seeds", [None, 4])
def test_a_compiled_loop_writes_in_place(seeds):
    compiled, memory, _ = compiled_loop(seeds)
    priorities = sum(leaf.nbytes for leaf in jax.tree.leaves(memory.priorities))
    analysis = compiled.memory_analysis()
    assert analysis.alias_size_in_bytes >= sum(leaf.nbytes for leaf in jax.tree.leaves(memory))
    # Less than a copy of any of the large ones, priorities included.
    assert analysis.temp_size_in_bytes < min(memory.observation.nbytes / 8, memory.reward.nbytes + priorities)


def test_vmapped_memories_equal_single_ones():
    loop, memories, keys = compiled_loop(4)
    single, _, _ = compiled_loop(None)
    copies = [jax.tree.map(lambda leaf, seed=seed: leaf[seed], memories) for seed in range(4)]
    together = loop(jax.tree.map(jnp.copy, memories), keys, jnp.int32(3))
    for seed, memory in enumerate(copies):
        alone = single(memory, keys[seed], jnp.int32(3))
        mine = jax.tree.map(lambda leaf, seed=seed: leaf[seed], together)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), mine, alone)


def test_environments_split_over_devices_hold_the_same():
    replay = ReplayBuffer(40, 8, (2, 2), np.uint8, False, 6, n_step=3, truncation_spacing=4, prioritized=True)
    mesh, split = Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data")
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (8, 2, 2)).astype(np.uint8)
    add = jax.jit(replay.add)
    sharded = jax.jit(
        jax.shard_map(
            replay.add, mesh=mesh, in_specs=(split, PartitionSpec(), *[split] * 6), out_specs=split, check_vma=False
        )
    )
    whole = parts = jax.jit(replay.init)(frames)
    for time in range(25):
        ends = random.random((2, 8)) < 0.2
        frames = random.integers(0, 256, (2, 8, 2, 2)).astype(np.uint8)
        step = (np.int32(time), random.integers(0, 6, 8), random.random(8).astype(np.float32), *ends, *frames)
        whole, parts = add(whole, *step), sharded(parts, *step)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
