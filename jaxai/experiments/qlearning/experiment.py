"""Binds deep Q-learning to an environment, evaluation and pictures: what `jaxai train`, `sweep` and `play` run."""

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from jaxai import dqn, population, ranges
from jaxai.core import Metric, State, Workload
from jaxai.dqn import advice, own
from jaxai.dqn.config import make_replay
from jaxai.dqn.environment import Environment, is_gymnaxs, is_registered, make_environment
from jaxai.experiments.qlearning import card, figures
from jaxai.experiments.qlearning.changes import CHANGES, apply
from jaxai.experiments.qlearning.commands import COMMANDS
from jaxai.experiments.qlearning.metrics import METRICS
from jaxai.metrics import Meanings
from jaxai.output import say
from jaxai.ranges import Finite
from jaxai.report import pictures
from jaxai.runtime import chips, experiment, model_card, parallel, progress
from jaxai.runtime.callbacks import Callback, Measure
from jaxai.runtime.checkpoint import Which
from jaxai.runtime.config import Run, check_experiment
from jaxai.runtime.continuation import Changes, measured_on
from jaxai.runtime.loop import Outcome, fit
from jaxai.runtime.registry import Commands
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Log, Program, Scoring, Storage, Training
from jaxai.trained import Beginning, make_beginning

if TYPE_CHECKING:
    from jaxai.experiments.qlearning.trained import TrainedAgent

EVALUATIONS = 20
"""As many evaluations in a run when nobody says: they cost a few per cent of it then."""
STEPS_PER_CALL = 1_000
"""About as many train steps in a call when nobody says."""


@dataclass(frozen=True)
class Experiment(experiment.Experiment):
    """A deep Q-learner, the environment that it learns in, and the run."""

    workload: Annotated[dqn.Config, tyro.conf.arg(name="")] = dqn.Config()
    env: Environment = Environment()
    expected: Finite = 0.0  # mean return that the preset is known to reach, shown beside what was got; 0: not known
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
        """An environment of one's own is registered by the preset."""
        return "" if is_gymnaxs(self.env) or self.named_again else f"registers {self.env.name}"

    @property
    def named_again(self) -> str:
        """An environment of one's own that was imported by its name."""
        return f"--env.name {self.env.name}" if self.env.name in own.IMPORTED else ""

    @property
    def missing(self) -> str:
        """An environment of one's own that this process does not know."""
        name = self.env.name
        if is_registered(name):
            return ""
        if own.is_dotted(name):
            remedy = f"--env.name {name}, or --preset FILE, the preset that defines it"
            return f"was trained in {name!r}, which this process does not know; add {remedy}"
        return f"was trained in {name!r}, which gymnax does not have; add --preset FILE, the preset that registers it"

    def provide(self, **needs: str) -> None:
        """Imports the run's own environment, which a user names again."""
        name = needs["env_name"]
        if name != self.env.name:
            raise ValueError(f"env.name is {name}, and the run was trained in {self.env.name}; give this name")
        if own.is_dotted(name):
            own.load(name)

    @property
    def settings(self) -> list[dict[str, float]]:
        """The hyperparameters in which the trainings differ, one after another: none but in a sweep."""
        return [{}]

    @property
    def seeds(self) -> list[int]:
        """The seed of each training: all seeds of the first setting, then all of the next."""
        return [*range(self.run.seed, self.run.seed + self.run.seeds)] * len(self.settings)

    @property
    def names(self) -> list[str]:
        """What each training is called where several are spoken of: `seed 3`, or `learning_rate 0.001, seed 3`."""
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
        """Whether it is one training as the preset has it, whose state is not stacked with others."""
        return len(self.seeds) == 1 and not self.settings[0]

    @property
    def cpu_devices(self) -> int:
        """CPU devices that train fastest: several trainings share the cores, each on one; a single one has them all."""
        members = max(1, len(self.seeds))
        return max(count for count in range(1, chips.usable_cores() + 1) if members % count == 0)

    @property
    def small_operations(self) -> bool:
        """Whether a CPU computes each operation fastest on one thread; an MLP's layers are so small."""
        config = self.workload
        return config.torso == "mlp" or (config.torso == "auto" and not self.env.name.endswith("MinAtar"))

    def check(self) -> None:
        """Raises ValueError, in one line and before anything compiles, for what cannot be trained."""
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
        """Raises ValueError for a configuration that does not fit the environment, or fits none."""
        env, env_params = make_environment(self.env)
        for config in self.configs:
            dqn.make(config, env, env_params)

    def check_size(self) -> None:
        """Raises ValueError for a replay, or an evaluation, that does not fit the memory."""
        memory = chips.memory(parallel.make_mesh(self.run.devices))
        if memory is not None and self.replay_bytes > memory:
            raise ValueError(
                f"capacity is {self.workload.capacity}: {self.replay_size}, and there are {chips.shown_bytes(memory)}"
                " of memory; lower it" + (", or train fewer together" if len(self.seeds) > 1 else "")
            )
        self.check_episodes("evaluation_episodes", self.workload.evaluation_episodes)

    def check_episodes(self, name: str, episodes: int) -> None:
        """Raises ValueError for a number of episodes, named so, whose environments cannot be side by side in memory."""
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
        """Bytes of all trainings' replays."""
        spec = dqn.make_environment_spec(*make_environment(self.env))
        return len(self.seeds) * make_replay(self.workload, spec).nbytes

    @property
    def replay_size(self) -> str:
        """`replay of 100,000 transitions, 5.6 MB`, with the number of trainings where there are several."""
        each = f"{len(self.seeds)} x " if len(self.seeds) > 1 else ""
        return f"replay of {each}{self.workload.capacity:,} transitions, {chips.shown_bytes(self.replay_bytes)}"

    def bind(self, data: None = None, console: Console | None = None) -> "Bound":
        """Checks that it can be trained: the environment exists, and the replay buffer fits the memory.

        An environment `module:name` is imported: only a configuration that a user gives is bound in this way.

        Args:
          data: none; the environment gives it.
          console: unused.

        Raises:
          ValueError: one line that names what cannot be.
        """
        del data, console
        if own.is_dotted(self.env.name):
            own.load(self.env.name)
        check_experiment(self)
        self.check()
        return self.of_run()

    def of_run(self, data: None = None) -> "Bound":
        """The bound form of the configuration of a run folder."""
        del data
        return Bound(self)


class Bound(experiment.Bound):
    """A deep Q-learner in an environment that is there."""

    def __init__(self, config: Experiment):
        self.config: Experiment = config

    def training(self) -> Training:
        """What the loop needs.

        Raises:
          ValueError: what `Experiment.check` raises.
        """
        self.config.check()
        config, members, steps = self.config.workload, len(self.config.seeds), self.config.workload.train_steps
        beginning = make_beginning(self.config.run, self._make_one(config), [Experiment, type(self.config)])
        notes = [f"{self.config.replay_size}, in {'each' if config.save_replay else 'no'} checkpoint"]
        alone = {"num_envs": config.num_envs, "batch_size": config.batch_size}
        return Training(
            Program(
                make=self.make,
                prepare=functools.partial(self._begun, beginning),
                parameters=lambda state: self.member(state, 0).params,
                steps_per_call=STEPS_PER_CALL,
                divided=alone if self.config.alone else {"trainings of one program:": members},
            ),
            steps=steps,
            data=None,
            scoring=Scoring(every=max(1, steps // EVALUATIONS), score="evaluation_return", splits={"evaluation": None}),
            log=Log(
                position=lambda step: {"env_steps": config.warmup_steps + step * config.train_every},
                unit="env_steps",
                units_per_step=config.train_every * members,
                describe=figures.describe,
                describe_evaluation=figures.describe_evaluation,
                summarize=self._summarize,
                warnings=functools.partial(self._warnings, self._advice()),
                opening="\n".join([*notes, *filter(None, [beginning.note])]),
            ),
            storage=Storage(
                apply=functools.partial(apply, config, None if self.config.alone else self._with_settings),
                recreated="" if config.save_replay else "the replay",
            ),
            metrics=METRICS,
        )

    def make(self, axis_name: str | None = None) -> Workload:
        """The workload: one learner, or all seeds and settings in one program."""
        env, env_params = make_environment(self.config.env)
        if self.config.alone:
            # Without an axis on one device: a seed then draws the numbers that it draws beside other seeds.
            several = axis_name is not None and parallel.make_mesh(self.config.run.devices).size > 1
            return dqn.make(self.config.workload, env, env_params, axis_name if several else None)
        alone = dqn.make(self.config.workload, env, env_params)
        return population.make(alone, self.config.seeds, self._with_settings, tolerant=len(self.config.seeds) > 1)

    def _make_one(self, config: dqn.Config) -> Workload:
        return dqn.make(config, *make_environment(self.config.env))

    def _begun(self, beginning: Beginning, state: State) -> State:
        """The state before the first step, of each of several trainings."""
        if self.config.alone:
            return beginning.prepare(state)
        prepare = jax.vmap(beginning.prepare, in_axes=(population.AXES,), out_axes=population.AXES)
        return state.replace(local=prepare(population.members_of(state)).replace(step=None))

    def train(
        self,
        console: Console | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        measures: Sequence[Measure] = (),
        metrics: Mapping[str, Metric] | None = None,
    ) -> Outcome:
        """Trains or resumes all seeds in one program, and leaves the pictures of the result in the run folder.

        Args:
          console: where progress goes; None: standard output.
          callbacks: functions (step, metrics, state) that run between calls; see `jaxai.runtime.callbacks`.
          measures: functions state -> {name: value} that add to the metrics of each evaluation.
          metrics: name -> what a metric of one's own means.
        """
        outcome = fit(self.training().measuring(measures, metrics), self.config, console, callbacks)
        if not outcome.interrupted:
            self.draw(outcome, RunFolder(self.config.run.workdir), console)
            if console and self.config.expected:
                got = outcome.result["return_mean"]
                say(console, progress.expectation("return_mean", self.config.expected, got, Meanings(METRICS)))
        self._write_card(outcome)
        return outcome

    def _write_card(self, outcome: Outcome) -> None:
        config = self.config
        params = self.member(outcome.state, 0).params
        spec = dqn.make_environment_spec(*make_environment(config.env))
        described = card.describe(config.workload, params, spec, str(config.env.name), len(config.seeds))
        model_card.write(RunFolder(config.run.workdir), described, bool(outcome.interrupted))

    def trained(self, checkpoint: str = "best", member: int | None = None) -> "TrainedAgent":
        """A checkpoint of the run, to act with; see `jaxai.load`."""
        from jaxai.experiments.qlearning.trained import TrainedAgent

        return TrainedAgent.of(self, checkpoint, member)

    def evaluate(self, console: Console, which: Which = "best", episodes: int = 100) -> dict[str, Any]:
        """Measures a checkpoint of the run over greedy episodes of every seed, and shows and returns what it finds.

        Raises:
          ValueError: the run has no such checkpoint, or no episode is asked for.
          FloatingPointError: every training of the run diverged.
        """
        self.config.check_episodes("episodes", episodes)
        state = self.restore(which)
        if not self.finite(state).any():
            raise FloatingPointError(
                f"{self.every_one} of {self.config.run.workdir} diverged: there is nothing to evaluate"
            )
        workload = dataclasses.replace(self.config.workload, evaluation_episodes=episodes)
        evaluate = type(self)(dataclasses.replace(self.config, workload=workload)).make().eval_step
        assert evaluate is not None
        sums = jax.device_get(jax.jit(lambda state: evaluate(state, None))(state))
        means = {f"evaluation_{name}": value / sums["count"] for name, value in sums.items()}
        result = figures.of_result(figures.describe_evaluation(means)) | {
            "episodes_per_seed": episodes,
            "step": int(state.step),
            "checkpoint": which,
            "measured_on": measured_on(self.config, None),
        }
        console.print(progress.results(result, Meanings(METRICS), title="Greedy episodes"))
        return result

    def member(self, state: State, index: int) -> State:
        """The state of one training of the run."""
        return state if self.config.alone else population.member_of(state, index)

    def draw(self, outcome: Outcome, folder: RunFolder, console: Console | None) -> None:
        """The picture of a finished run: an episode of its best agent."""
        del outcome
        if importlib.util.find_spec("PIL") is None:
            return
        with pictures.optional(console):
            self.trained().play(folder.pictures / "episode.gif")
            folder.write_json("pictures/captions.json", {"episode.gif": "A greedy episode of the best agent"})

    def finite(self, state: State) -> np.ndarray:
        """Whether the parameters of each training are finite."""
        params = state.params if self.config.alone else population.members_of(state).params
        leaves = [np.asarray(leaf).reshape(len(self.config.seeds), -1) for leaf in jax.tree.leaves(params)]
        return np.all([np.isfinite(leaf).all(1) for leaf in leaves], axis=0)

    @property
    def every_one(self) -> str:
        """What messages call all trainings together."""
        return "the training" if self.config.alone else f"all {len(self.config.seeds)} trainings"

    def _advice(self) -> dict[str, str]:
        """What is unusual about the configuration, of each kind the first setting's."""
        found: dict[str, str] = {}
        for config in self.config.configs:
            found = advice.of_config(config) | found
        return found

    def _warnings(self, unusual: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, str]:
        """What a person should know: what is unusual about the configuration, and what goes wrong in a call.

        Raises:
          FloatingPointError: all trainings have diverged.
        """
        diverged = values.get("diverged_per_seed", [0.0])
        if all(diverged):
            raise FloatingPointError(
                f"{self.every_one} diverged by step {values['step']}; lower the learning rate, or train one alone"
                f" (--seeds 1 --seed {self.config.run.seed}) for a dump of the step that jaxai replay runs again"
            )
        return {**unusual, **advice.of_call(values, self.config.workload, self.config.names)}

    def _with_settings(self, members: State) -> State:
        """The stacked states with each its hyperparameters."""
        settings = [setting for setting in self.config.settings for _ in range(self.config.run.seeds)]
        changes = {name: jnp.array([setting[name] for setting in settings], jnp.float32) for name in settings[0]}
        hyperparameters = members.extra["hyperparameters"].replace(**changes)
        return members.replace(extra=members.extra | {"hyperparameters": hyperparameters})

    def _summarize(self, result: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
        together = figures.of_result(result) | {
            "seeds": self.config.run.seeds,
            "env_steps": lines[-1]["env_steps"] if lines else 0,
        }
        if not self.config.alone:
            together["diverged"] = sum(score is None for score in together["return_per_seed"])
        last = figures.last_returns(lines)
        return together | {f"training_return_last_{figures.LAST_EPISODES}_per_seed": last}
