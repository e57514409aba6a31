"""A deep Q-learner bound to its environment: training, evaluation and pictures."""

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jaxai import dqn, population
from jaxai.core import Metric, State, Workload
from jaxai.dqn import advice
from jaxai.dqn.environment import make_environment
from jaxai.experiments.qlearning import card, figures
from jaxai.experiments.qlearning.changes import apply
from jaxai.experiments.qlearning.metrics import METRICS
from jaxai.metrics import Meanings
from jaxai.output import print_line
from jaxai.report import pictures
from jaxai.runtime import experiment, model_card, parallel, progress
from jaxai.runtime.callbacks import Callback, Measure
from jaxai.runtime.checkpoint import Which
from jaxai.runtime.continuation import measured_on
from jaxai.runtime.loop import Outcome, fit
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Log, Program, Scoring, Storage, Training
from jaxai.trained import Beginning, make_beginning

if TYPE_CHECKING:
    from jaxai.experiments.qlearning.experiment import Experiment
    from jaxai.experiments.qlearning.trained import TrainedAgent

EVALUATIONS = 20
"""Default number of evaluations per run; they take a few per cent of its time."""
STEPS_PER_CALL = 1_000
"""Approximate default number of train steps per call."""


class Bound(experiment.Bound):
    """A deep Q-learner in an environment that is available in this process."""

    def __init__(self, config: "Experiment"):
        self.config: Experiment = config

    def training(self) -> Training:
        """The parts of the training loop.

        Raises:
          ValueError: as for `Experiment.check`.
        """
        from jaxai.experiments.qlearning.experiment import Experiment

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
                recreated="" if config.save_replay else "the replay buffer",
            ),
            metrics=METRICS,
        )

    def make(self, axis_name: str | None = None) -> Workload:
        """The workload: one learner, or all seeds and settings in one program."""
        env, env_params = make_environment(self.config.env)
        if self.config.alone:
            # On one device without an axis: a seed then draws the same numbers as together with other seeds.
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
          console: for progress; None: standard output.
          callbacks: functions (step, metrics, state) that run between calls; see `jaxai.runtime.callbacks`.
          measures: functions state -> {name: value} that add to the metrics of each evaluation.
          metrics: name -> declaration of a metric of your own.
        """
        outcome = fit(self.training().measuring(measures, metrics), self.config, console, callbacks)
        if not outcome.interrupted:
            self.draw(outcome, RunFolder(self.config.run.workdir), console)
            if console and self.config.expected:
                got = outcome.result["return_mean"]
                print_line(console, progress.expectation("return_mean", self.config.expected, got, Meanings(METRICS)))
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

    def evaluate(self, console: Console | None = None, which: Which = "best", episodes: int = 100) -> dict[str, Any]:
        """Measures a checkpoint of the run over greedy episodes of every seed, and shows and returns the metrics.

        Args:
          console: for the metrics; None: standard output.
          which: checkpoint.
          episodes: number of greedy episodes for each seed, at least 1.

        Raises:
          ValueError: the run has no such checkpoint, or `episodes` is below 1.
          FloatingPointError: every training of the run diverged.
        """
        self.config.check_episodes("episodes", episodes)
        console = console or Console()
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
        """The picture of a finished run: an episode of its best agent.

        Args:
          outcome: of the training; unused here.
          folder: of the run; the picture is written into it.
          console: for a warning if drawing fails; None: standard output.
        """
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
        """All trainings together, in words."""
        return "the training" if self.config.alone else f"all {len(self.config.seeds)} trainings"

    def _advice(self) -> dict[str, str]:
        """Warnings about the configuration; for each kind the warning of the first setting."""
        found: dict[str, str] = {}
        for config in self.config.configs:
            found = advice.of_config(config) | found
        return found

    def _warnings(self, of_config: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, str]:
        """Warnings about the configuration, and about the last call.

        Raises:
          FloatingPointError: all trainings have diverged.
        """
        diverged = values.get("diverged_per_seed", [0.0])
        if all(diverged):
            raise FloatingPointError(
                f"{self.every_one} diverged by step {values['step']}; lower the learning rate, or train one alone"
                f" (--seeds 1 --seed {self.config.run.seed}) for a dump of the step that jaxai replay runs again"
            )
        return {**of_config, **advice.of_call(values, self.config.workload, self.config.names)}

    def _with_settings(self, members: State) -> State:
        """The stacked states, each with its own hyperparameters."""
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
