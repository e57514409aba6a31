"""The configuration of deep Q-learning, and the hyperparameters that may differ between vmapped trainings."""

from dataclasses import dataclass
from typing import Annotated, Literal, cast

import jax
import jax.numpy as jnp
from flax import struct

from jaxai import ranges
from jaxai.dqn import priorities
from jaxai.dqn.model import Network
from jaxai.dqn.replay_buffer import ReplayBuffer
from jaxai.dqn.spec import EnvironmentSpec
from jaxai.optimizer import Optimizer
from jaxai.ranges import Count, Natural, NonNegative, Positive, Range, Share

__all__ = [
    "Config",
    "Hyperparameters",
    "Steps",
    "check",
    "env_steps",
    "epsilon",
    "make_replay_buffer",
    "observation_shape",
]

MOST = 2**31 - 1
"""The largest int32; steps, slots and updates are counted in int32."""
Steps = Annotated[int, Range(least=1, most=2**53)]
"""A number of environment steps, which may exceed an int32."""


@dataclass(frozen=True)
class Config(Network):
    """A network (the fields of `Network`) and how it learns. Steps are environment steps, over all environments."""

    total_steps: Steps = 500_000  # total number of environment steps
    num_envs: Count = 10  # number of environments that step together
    learning_starts: Natural = 10_000  # random environment steps that fill the replay buffer before the first update
    train_every: Count = 10  # environment steps between updates; a multiple of num_envs
    updates_per_step: Count = 1  # number of updates after every train_every environment steps
    batch_size: Count = 128  # transitions in an update, over all devices
    capacity: Steps = 100_000  # transitions in the replay buffer, over all devices
    discount: Share = 0.99  # gamma
    n_step: Count = 1  # rewards in a return before it bootstraps (Sutton 1988)
    save_replay: bool = True  # checkpoints contain the replay buffer; else a resumed run refills it, with other bits
    frame_stack: Count = 1  # number of last observations in the network's input (Mnih et al. 2015)
    storage: Literal["auto", "bits", "dtype"] = "auto"  # of stored observations; auto: bits if they are binary
    truncation_spacing: Natural = 0  # minimum steps between truncations of an environment; 0: longest episode, or 64
    epsilon: Literal["linear", "exponential"] = "linear"  # shape of the decay of the share of random actions
    epsilon_start: Share | None = None  # initial share of random actions; None: 1, or with noisy layers epsilon_end
    epsilon_end: Share | None = None  # final share of random actions; None: 0.05, or with noisy layers 0
    epsilon_steps: Steps = 50_000  # environment steps over which the share of random actions falls
    target_every: Count = 500  # environment steps between updates of the target network
    target_rate: Share = 1.0  # step of the target towards the network: 1 copies it, below 1 is Polyak averaging
    double: bool = False  # double Q-learning: the network selects, the target evaluates (van Hasselt et al. 2016)
    huber_delta: NonNegative = 1.0  # error at which the loss changes from squared to linear; 0: always squared
    munchausen: NonNegative = 0.0  # weight of the log-policy in the reward (Vieillard et al. 2020: 0.9); 0: off
    munchausen_temperature: Positive = 0.03  # of the softmax policy
    munchausen_minimum: Annotated[float, Range(most=0)] = -1.0  # lower bound of the scaled log-policy
    prioritized: bool = False  # sample in proportion to the last error (Schaul et al. 2016)
    priority_exponent: NonNegative = 0.6  # alpha: 0 is uniform
    importance_exponent: Share = 0.4  # initial beta; it rises linearly to 1 over total_steps
    evaluation_episodes: Count = 10  # greedy episodes in an evaluation, each in an environment of its own
    evaluation_steps: Natural = 0  # step limit of an evaluation episode; 0: the environment's, or 27,000
    optimizer: Optimizer = Optimizer(learning_rate=2.5e-4)

    @property
    def warmup_steps(self) -> int:
        """Environment steps that `init` takes: `learning_starts`, rounded up to whole steps of all environments."""
        return -(-self.learning_starts // self.num_envs) * self.num_envs

    @property
    def train_steps(self) -> int:
        """Number of train steps in `total_steps` environment steps, after those of `init`; rounded up."""
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
        """Initial and final share of random actions; noisy layers explore by themselves."""
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
    """Steps of all environments together -> environment steps, float32: the largest int32 is about 2e9."""
    return time.astype(jnp.float32) * config.num_envs


def epsilon(config: Config, hyperparameters: Hyperparameters, steps: jax.Array) -> jax.Array:
    """The share of random actions after a number of environment steps: linear or geometric from start to end.

    Args:
      config: `epsilon` is the shape of the decay.
      hyperparameters: initial and final value, and the number of steps between them.
      steps: [] float32, since they may exceed an int32.
    """
    start, end = hyperparameters.epsilon_start, hyperparameters.epsilon_end
    share = jnp.minimum(1.0, steps / hyperparameters.epsilon_steps)
    if config.epsilon == "exponential":
        # A constant 0, as with noisy layers, is not a geometric sequence.
        return jnp.where(start > 0, start * (end / start) ** share, 0.0)
    return jnp.asarray(start + (end - start) * share)


def make_replay_buffer(config: Config, spec: EnvironmentSpec) -> ReplayBuffer:
    """The replay that a configuration asks for, in an environment."""
    return ReplayBuffer(
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
    """Shape of the network's input: that of the environment, with the last axis times `frame_stack`.

    Without the batch axis. A shape of no or two axes gets one more, of `frame_stack`.
    """
    shape = spec.observation_shape
    if config.frame_stack == 1:
        return shape
    if len(shape) in (0, 2):
        shape = (*shape, 1)
    return (*shape[:-1], shape[-1] * config.frame_stack)


def check(config: Config, buffer: ReplayBuffer) -> None:
    """Raises ValueError, in one line, for a field with a value that cannot be trained with."""
    ranges.check(config)
    epsilons = dict(zip(("epsilon_start", "epsilon_end"), config.epsilons, strict=True))
    for name, value in epsilons.items():
        if config.epsilon == "exponential" and value <= 0 < max(epsilons.values()):
            raise ValueError(f"{name} is {value}; an exponential schedule never reaches 0: try 0.01")
    if buffer.slots * buffer.num_envs > MOST:
        raise ValueError(
            f"capacity is {config.capacity}, a replay buffer of {buffer.nbytes / 1e9:,.1f} GB; at most {MOST}"
            " transitions are possible, with those for return and stack: lower it"
        )
    if config.prioritized and buffer.slots * buffer.num_envs > priorities.MOST:
        raise ValueError(
            f"capacity is {config.capacity}; float32 distinguishes the priorities of at most {priorities.MOST}"
            " transitions: lower it, or draw uniformly"
        )
    if config.capacity < config.batch_size:
        raise ValueError(
            f"capacity is {config.capacity}, less than a batch of {config.batch_size}; raise capacity or lower"
            " batch_size"
        )
    if config.train_every % config.num_envs:
        raise ValueError(
            f"train_every is {config.train_every}, not divisible by the {config.num_envs} of num_envs;"
            f" choose a multiple of {config.num_envs}"
        )
    filled = config.warmup_steps - (config.n_step - 1) * config.num_envs
    if filled < min(config.batch_size, buffer.capacity):
        raise ValueError(
            f"learning_starts is {config.learning_starts}: too few transitions for a batch of {config.batch_size};"
            f" choose {config.batch_size + config.n_step * config.num_envs} or more"
        )
    if config.total_steps <= config.warmup_steps:
        raise ValueError(
            f"total_steps is {config.total_steps}, all of them before learning_starts ({config.learning_starts});"
            " raise total_steps or lower learning_starts"
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
