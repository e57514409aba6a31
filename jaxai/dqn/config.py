"""The configuration of deep Q-learning, what follows from it, and what may differ between vmapped trainings."""

from dataclasses import dataclass
from typing import Annotated, Literal, cast

import jax
import jax.numpy as jnp
from flax import struct

from jaxai import ranges
from jaxai.dqn import priorities
from jaxai.dqn.model import Network
from jaxai.dqn.replay import Replay
from jaxai.dqn.spec import EnvironmentSpec
from jaxai.optimizer import Optimizer
from jaxai.ranges import Count, Natural, NonNegative, Positive, Range, Share

MOST = 2**31 - 1
"""The largest int32, which steps, slots and updates are counted in."""
Steps = Annotated[int, Range(least=1, most=2**53)]
"""Environment steps, of which there may be more than an int32 holds."""


@dataclass(frozen=True)
class Config(Network):
    """A network (the fields of `Network`) and how it learns. Steps are environment steps, over all environments."""

    total_steps: Steps = 500_000  # environment steps in all
    num_envs: Count = 10  # environments that step side by side
    learning_starts: Natural = 10_000  # environment steps at random that fill the replay before the first update
    train_every: Count = 10  # environment steps between updates; a multiple of num_envs
    updates_per_step: Count = 1  # updates that follow them
    batch_size: Count = 128  # transitions in an update, over all devices
    capacity: Steps = 100_000  # transitions in the replay, over all devices
    discount: Share = 0.99  # gamma
    n_step: Count = 1  # rewards in a return before it bootstraps (Sutton 1988)
    save_replay: bool = True  # checkpoints hold the replay; else a run that goes on fills it anew, not bit for bit
    frame_stack: Count = 1  # last observations that the network sees together (Mnih et al. 2015)
    storage: Literal["auto", "bits", "dtype"] = "auto"  # observations in the replay: as bits where they are binary
    truncation_spacing: Natural = 0  # least steps between two truncations of an environment; 0: longest episode, or 64
    epsilon: Literal["linear", "exponential"] = "linear"  # how the share of random actions falls
    epsilon_start: Share | None = None  # share of random actions at first; None: 1, or with noisy layers epsilon_end
    epsilon_end: Share | None = None  # share of random actions in the end; None: 0.05, or with noisy layers 0
    epsilon_steps: Steps = 50_000  # environment steps over which it falls
    target_every: Count = 500  # environment steps between updates of the target network
    target_rate: Share = 1.0  # share of the way that the target goes to the network; below 1: Polyak averaging
    double: bool = False  # the network chooses the next action, the target values it (van Hasselt et al. 2016)
    huber_delta: NonNegative = 1.0  # where the loss turns from squared to linear; 0: squared
    munchausen: NonNegative = 0.0  # weight of the log-policy in the reward (Vieillard et al. 2020: 0.9); 0: off
    munchausen_temperature: Positive = 0.03  # of the softmax policy
    munchausen_minimum: Annotated[float, Range(most=0)] = -1.0  # least value of the scaled log-policy
    prioritized: bool = False  # draws in proportion to the last error (Schaul et al. 2016)
    priority_exponent: NonNegative = 0.6  # alpha: 0 is uniform
    importance_exponent: Share = 0.4  # beta at first; it rises linearly to 1 over total_steps
    evaluation_episodes: Count = 10  # greedy episodes in an evaluation, each of a fresh environment
    evaluation_steps: Natural = 0  # most steps of an evaluation episode; 0: the environment's longest, or 27,000
    optimizer: Optimizer = Optimizer(learning_rate=2.5e-4)

    @property
    def warmup_steps(self) -> int:
        """Environment steps that `init` takes: `learning_starts`, rounded up to whole steps of all environments."""
        return -(-self.learning_starts // self.num_envs) * self.num_envs

    @property
    def train_steps(self) -> int:
        """Train steps that make `total_steps` environment steps, those of `init` included; rounded up."""
        return -(-(self.total_steps - self.warmup_steps) // self.train_every)

    @property
    def vector_steps(self) -> int:
        """Steps of all environments together in a train step."""
        return self.train_every // self.num_envs

    @property
    def warmup_vector_steps(self) -> int:
        """Steps of all environments together that `init` takes."""
        return self.warmup_steps // self.num_envs

    @property
    def epsilons(self) -> tuple[float, float]:
        """The share of random actions at first and in the end; noisy layers explore by themselves."""
        end = (0.0 if self.noisy else 0.05) if self.epsilon_end is None else self.epsilon_end
        start = (end if self.noisy else 1.0) if self.epsilon_start is None else self.epsilon_start
        return start, end


class Hyperparameters(struct.PyTreeNode):
    """What may differ between vmapped trainings: float32 scalars in `state.extra["hyperparameters"]`."""

    learning_rate: jax.Array | float
    discount: jax.Array | float
    epsilon_start: jax.Array | float
    epsilon_end: jax.Array | float
    epsilon_steps: jax.Array | float
    target_rate: jax.Array | float
    priority_exponent: jax.Array | float
    importance_exponent: jax.Array | float

    @classmethod
    def of(cls, config: Config) -> "Hyperparameters":
        """Those of a configuration."""
        start, end = config.epsilons
        derived = {"learning_rate": config.optimizer.learning_rate, "epsilon_start": start, "epsilon_end": end}
        fields = {name: getattr(config, name) for name in cls.__dataclass_fields__ if name not in derived}
        return cast(Hyperparameters, jax.tree.map(jnp.float32, cls(**derived, **fields)))


def env_steps(config: Config, time: jax.Array) -> jax.Array:
    """Steps of all environments together -> environment steps, float32: an int32 ends at two thousand million."""
    return time.astype(jnp.float32) * config.num_envs


def epsilon(config: Config, hyperparameters: Hyperparameters, steps: jax.Array) -> jax.Array:
    """The share of random actions after so many environment steps: from start to end, in a line or geometrically.

    Args:
      config: says how it falls.
      hyperparameters: from where to where, and over how many steps.
      steps: scalar; float32, since there may be more than an int32 holds.
    """
    start, end = hyperparameters.epsilon_start, hyperparameters.epsilon_end
    share = jnp.minimum(1.0, steps / hyperparameters.epsilon_steps)
    if config.epsilon == "exponential":
        # 0 all the time, as noisy layers have it, is no geometric sequence.
        return jnp.where(start > 0, start * (end / start) ** share, 0.0)
    return jnp.asarray(start + (end - start) * share)


def make_replay(config: Config, spec: EnvironmentSpec) -> Replay:
    """The replay that a configuration asks for, in an environment."""
    return Replay(
        capacity=config.capacity,
        num_envs=config.num_envs,
        observation_shape=spec.observation_shape,
        observation_dtype=spec.observation_dtype,
        binary=config.storage == "bits" or (config.storage == "auto" and spec.binary),
        num_actions=spec.num_actions,
        n_step=config.n_step,
        frame_stack=config.frame_stack,
        truncation_spacing=config.truncation_spacing or spec.max_steps or 64,
        prioritized=config.prioritized,
        masked=spec.masked,
    )


def observation_shape(config: Config, spec: EnvironmentSpec) -> tuple[int, ...]:
    """What the network sees: the environment's shape, its last axis (made where it has none or two) times
    `frame_stack`.
    """
    shape = spec.observation_shape
    if config.frame_stack == 1:
        return shape
    if len(shape) in (0, 2):
        shape = (*shape, 1)
    return (*shape[:-1], shape[-1] * config.frame_stack)


def check(config: Config, replay: Replay) -> None:
    """Raises ValueError, in one line, for a field that nothing can be trained with."""
    ranges.check(config)
    epsilons = dict(zip(("epsilon_start", "epsilon_end"), config.epsilons, strict=True))
    for name, value in epsilons.items():
        if config.epsilon == "exponential" and value <= 0 < max(epsilons.values()):
            raise ValueError(f"{name} is {value}; an exponential schedule never reaches 0: try 0.01")
    if replay.slots * replay.num_envs > MOST:
        raise ValueError(
            f"capacity is {config.capacity}, a replay of {replay.nbytes / 1e9:,.1f} GB; at most {MOST} transitions are"
            " counted, with those that return and stack need: lower it"
        )
    if config.prioritized and replay.slots * replay.num_envs > priorities.MOST:
        raise ValueError(
            f"capacity is {config.capacity}; float32 distinguishes the priorities of at most {priorities.MOST}"
            " transitions: lower it, or draw uniformly"
        )
    if config.capacity < config.batch_size:
        raise ValueError(
            f"capacity is {config.capacity}, less than a batch of {config.batch_size}; raise the one or lower the other"
        )
    if config.train_every % config.num_envs:
        raise ValueError(
            f"train_every is {config.train_every}, which {config.num_envs} environments cannot take together;"
            f" choose a multiple of {config.num_envs}"
        )
    filled = config.warmup_steps - (config.n_step - 1) * config.num_envs
    if filled < min(config.batch_size, replay.capacity):
        raise ValueError(
            f"learning_starts is {config.learning_starts}: too few transitions for a batch of {config.batch_size};"
            f" choose {config.batch_size + config.n_step * config.num_envs} or more"
        )
    if config.total_steps <= config.warmup_steps:
        raise ValueError(
            f"total_steps is {config.total_steps}, all of them before learning_starts ({config.learning_starts});"
            " raise the one or lower the other"
        )
    # The replay's clock counts steps of all environments together, the optimizer its updates; both are int32.
    together = -(-config.total_steps // config.num_envs)
    if together > MOST:
        raise ValueError(
            f"total_steps is {config.total_steps}: {together} steps of {config.num_envs} environments together, and"
            f" at most {MOST} are counted; lower it, or raise num_envs"
        )
    if config.train_steps * config.updates_per_step > MOST:
        raise ValueError(
            f"total_steps is {config.total_steps}: {config.train_steps * config.updates_per_step} updates, and at most"
            f" {MOST} are counted; lower it, or raise train_every"
        )
