"""The experiment of deep Q-learning: its configuration, and the checks before anything compiles."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax
import tyro
from rich.console import Console

from jaxai import dqn, ranges
from jaxai.dqn import own
from jaxai.dqn.config import make_replay_buffer
from jaxai.dqn.environment import Environment, is_gymnaxs, is_registered, make_environment
from jaxai.experiments.qlearning.bound import EVALUATIONS, Bound
from jaxai.experiments.qlearning.changes import CHANGES
from jaxai.experiments.qlearning.commands import COMMANDS
from jaxai.ranges import Finite
from jaxai.runtime import chips, experiment, parallel
from jaxai.runtime.config import Run, check_experiment
from jaxai.runtime.continuation import Changes
from jaxai.runtime.registry import Commands


@dataclass(frozen=True)
class Experiment(experiment.Experiment):
    """A deep Q-learner, the environment that it learns in, and the run."""

    workload: Annotated[dqn.Config, tyro.conf.arg(name="")] = dqn.Config()
    env: Environment = Environment()
    expected: Finite = 0.0  # mean return that the preset reaches, reported together with the result; 0: unknown
    run: Annotated[Run, tyro.conf.arg(name="")] = Run(mode="shard_map")

    changes: ClassVar[Changes] = CHANGES
    commands: ClassVar[Commands] = COMMANDS
    trains_seeds_together: ClassVar[bool] = True

    @property
    def task(self) -> Environment:
        """The environment."""
        return self.env

    @property
    def from_preset(self) -> str:
        """A user's environment, if it is registered by the preset."""
        return "" if is_gymnaxs(self.env) or self.named_again else f"registers {self.env.name}"

    @property
    def named_again(self) -> str:
        """A user's environment, if it was imported by its name."""
        return f"--env.name {self.env.name}" if self.env.name in own.IMPORTED else ""

    @property
    def missing(self) -> str:
        """A user's environment, if it is not available in this process."""
        name = self.env.name
        if is_registered(name):
            return ""
        if own.is_dotted(name):
            remedy = (
                f"--env.name {name} (env_name= of jaxai.load), or --preset FILE (preset=), the preset that defines it"
            )
            return f"was trained in {name!r}, which this process does not know; add {remedy}"
        remedy = "--preset FILE (preset= of jaxai.load), the preset that registers it"
        return f"was trained in {name!r}, which gymnax does not have; add {remedy}"

    def provide(self, **needs: str) -> None:
        """Imports the run's environment, which the user names again.

        Raises:
          ValueError: the name is not that of the run's environment, or it cannot be imported.
        """
        name = needs["env_name"]
        if name != self.env.name:
            raise ValueError(f"env.name is {name}, and the run was trained in {self.env.name}; give this name")
        if own.is_dotted(name):
            own.load(name)

    @property
    def settings(self) -> list[dict[str, float]]:
        """The hyperparameters of each setting that differ from the configuration: none, except in a sweep."""
        return [{}]

    @property
    def seeds(self) -> list[int]:
        """The seed of each training: all seeds of the first setting, then all of the next."""
        return [*range(self.run.seed, self.run.seed + self.run.seeds)] * len(self.settings)

    @property
    def names(self) -> list[str]:
        """The name of each of several trainings: `seed 3`, or `learning_rate 0.001, seed 3`."""
        settings = [setting for setting in self.settings for _ in range(self.run.seeds)]
        return [
            ", ".join([*(f"{name} {value:g}" for name, value in setting.items()), f"seed {seed}"])
            for setting, seed in zip(settings, self.seeds, strict=True)
        ]

    @property
    def configs(self) -> list[dqn.Config]:
        """The configuration of each setting."""
        found = []
        for setting in self.settings:
            changes: dict[str, Any] = dict(setting)
            rate = changes.pop("learning_rate", self.workload.optimizer.learning_rate)
            changes["optimizer"] = dataclasses.replace(self.workload.optimizer, learning_rate=rate)
            found.append(dataclasses.replace(self.workload, **changes))
        return found

    @property
    def alone(self) -> bool:
        """Whether it is a single training without changes, whose state is not stacked with others."""
        return len(self.seeds) == 1 and not self.settings[0]

    @property
    def cpu_devices(self) -> int:
        """Number of CPU devices that trains fastest: each of several trainings on one core, a single one on all."""
        members = max(1, len(self.seeds))
        return max(count for count in range(1, chips.usable_cores() + 1) if members % count == 0)

    @property
    def small_operations(self) -> bool:
        """Whether a CPU computes each operation fastest on one thread, as the small layers of an MLP."""
        config = self.workload
        return config.torso == "mlp" or (config.torso == "auto" and not self.env.name.endswith("MinAtar"))

    def check(self) -> None:
        """Raises ValueError, before anything compiles, for a configuration that cannot be trained."""
        ranges.check(self)
        self.check_workload()
        self.check_size()
        steps = self.workload.train_steps
        if self.run.evaluate_every > steps:
            raise ValueError(
                f"evaluate_every is {self.run.evaluate_every} train steps, above the {steps} of total_steps"
                f" ({self.workload.total_steps}); lower it, or 0 for {EVALUATIONS} evaluations"
            )

    def check_workload(self) -> None:
        """Raises ValueError for a configuration that is invalid, or does not fit the environment."""
        env, env_params = make_environment(self.env)
        for config in self.configs:
            dqn.make(config, env, env_params)

    def check_size(self) -> None:
        """Raises ValueError for a replay buffer, or an evaluation, that does not fit the memory."""
        memory = chips.memory(parallel.make_mesh(self.run.devices))
        if memory is not None and self.replay_bytes > memory:
            raise ValueError(
                f"capacity is {self.workload.capacity}: {self.replay_size}, and there are {chips.shown_bytes(memory)}"
                " of memory; lower it" + (", or train fewer together" if len(self.seeds) > 1 else "")
            )
        self.check_episodes("evaluation_episodes", self.workload.evaluation_episodes)

    def check_episodes(self, name: str, episodes: int) -> None:
        """Raises ValueError for a number of episodes whose environments do not fit the memory together.

        Args:
          name: of the field, for the message.
          episodes: number of episodes, each in an environment of its own.
        """
        if episodes < 1:
            raise ValueError(f"{name} is {episodes}; it must be at least 1")
        env, env_params = make_environment(self.env)
        one = jax.eval_shape(lambda key: env.reset(key, env_params), jax.eval_shape(lambda: jax.random.key(0)))
        size = len(self.seeds) * episodes * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))
        memory = chips.memory(parallel.make_mesh(self.run.devices))
        if memory is not None and size > memory:
            raise ValueError(
                f"{name} is {episodes}: this number of environments takes {chips.shown_bytes(size)}, and there are"
                f" {chips.shown_bytes(memory)} of memory; lower it"
            )

    @property
    def replay_bytes(self) -> int:
        """Bytes of the replay buffers of all trainings."""
        spec = dqn.make_environment_spec(*make_environment(self.env))
        return len(self.seeds) * make_replay_buffer(self.workload, spec).nbytes

    @property
    def replay_size(self) -> str:
        """`replay buffer of 100,000 transitions, 5.6 MB`, with the number of trainings if there are several."""
        each = f"{len(self.seeds)} x " if len(self.seeds) > 1 else ""
        return f"replay buffer of {each}{self.workload.capacity:,} transitions, {chips.shown_bytes(self.replay_bytes)}"

    def bind(self, data: None = None, console: Console | None = None) -> Bound:
        """Checks that it can be trained: the environment exists, and the replay buffer fits the memory.

        An environment `module:name` is imported, because the configuration comes from the user.

        Args:
          data: None; the environment generates it.
          console: unused.

        Raises:
          ValueError: one line with the reason.
        """
        del data, console
        if own.is_dotted(self.env.name):
            own.load(self.env.name)
        check_experiment(self)
        self.check()
        return self.of_run()

    def of_run(self, data: None = None) -> Bound:
        """The bound form of the configuration of a run folder."""
        del data
        return Bound(self)
