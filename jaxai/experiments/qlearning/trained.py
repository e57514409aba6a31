"""A trained agent: actions and action values of observations."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxai import dqn, transfer
from jaxai.core import PyTree, State
from jaxai.dqn.config import observation_shape
from jaxai.dqn.environment import make_environment
from jaxai.dqn.episode import run_episode
from jaxai.dqn.evaluation import longest_episode
from jaxai.files.unwritten import writing
from jaxai.runtime.run_folder import RunFolder
from jaxai.trained import Trained, by_rows, read_state

if TYPE_CHECKING:
    from jaxai.experiments.qlearning.experiment import Bound

__all__ = ["TrainedAgent"]


class TrainedAgent(Trained):
    """One training of a run of deep Q-learning; see `jaxai.load`.

    Attributes:
      member: number of the training in the run, from 0.
      members: names of the trainings of the run.
      env: the environment.
      env_params: its parameters.
    """

    member: int
    members: list[str]

    @classmethod
    def of(cls, bound: "Bound", checkpoint: str, member: int | None = None) -> "TrainedAgent":
        """A training of the run.

        Raises:
          ValueError: no such checkpoint or training, or one that diverged.
          FloatingPointError: every training of the run diverged.
        """
        experiment = bound.config
        state = read_state(experiment.run, bound.make(), checkpoint)
        chosen = _member(bound, state, member)
        # All seeds of the first setting come first, then all of the next.
        config = experiment.configs[chosen // experiment.run.seeds]
        env, env_params = make_environment(experiment.env)
        run = cls(
            Path(experiment.run.workdir),
            dataclasses.replace(experiment, workload=config),
            dqn.make(config, env, env_params),
            bound.member(state, chosen),
            checkpoint,
        )
        run.member, run.members, run.env, run.env_params = chosen, experiment.names, env, env_params
        return run

    env: Any
    env_params: Any

    @functools.cached_property
    def spec(self) -> dqn.EnvironmentSpec:
        """Shapes of the environment that the agent was trained in."""
        return dqn.make_environment_spec(self.env, self.env_params)

    def act(self, observations: Any, mask: Any = None) -> Any:
        """The best actions.

        Args:
          observations: [n, ...] as the environment returns them, or one without the first axis. With `frame_stack`
            the last observations are concatenated along the last axis; it is added to observations of no or two axes.
          mask: [n, actions] bool (or [actions]), True where an action is legal; None: all are.

        Returns:
          [n] int32, or one number: the action as the environment's `step` takes it.

        Raises:
          ValueError: the observations or the mask have another shape or kind than those of the training.
        """
        values = self.predict(observations)
        if mask is not None:
            mask = np.asarray(mask)
            if mask.shape != values.shape or mask.dtype != np.bool_:
                raise ValueError(
                    f"mask is {mask.dtype}{list(mask.shape)}; expected bool{list(values.shape)}: True where an action"
                    " is legal"
                )
            values = np.where(mask, values, -np.inf)
        return values.argmax(-1).astype(np.int32) + np.int32(self.spec.first_action)

    def predict(self, observations: Any) -> np.ndarray:
        """The expected return of each action: [n, actions] float32, or [actions] for one observation; see `act`."""
        given = np.asarray(observations)
        one = given.shape == observation_shape(self.config.workload, self.spec)
        found = by_rows(functools.partial(self._predict, self.state), given[None] if one else self._checked(given))
        return np.asarray(found[0] if one else found)

    def play(self, path: Path | str, seed: int = 0) -> dict[str, Any]:
        """Renders a greedy episode to an animated GIF.

        Args:
          path: of the GIF.
          seed: of the episode.

        Returns:
          `return`, `length` and `member`.

        Raises:
          MissingExtraError: Pillow is not installed.
        """
        from jaxai.experiments.qlearning import drawing

        config, env, env_params = self.config.workload, self.env, self.env_params
        policy = dqn.make_policy(config, env, env_params)

        def act(observation: jax.Array, key: jax.Array, mask: jax.Array | None = None) -> jax.Array:
            return policy(self.state, observation[None], None if mask is None else mask[None])[0]

        longest = longest_episode(config, self.spec.max_steps)
        episode = run_episode(act, env, env_params, jax.random.key(seed), longest, config.frame_stack)
        with writing(Path(path)):
            drawing.render(env, env_params, episode, path)
        return {"return": episode.undiscounted_return, "length": len(episode.rewards), "member": self.member}

    def _checked(self, observations: np.ndarray) -> np.ndarray:
        shape = observation_shape(self.config.workload, self.spec)
        if observations.shape[1:] != shape or not observations.size:
            raise ValueError(
                f"observations have shape {list(observations.shape)}; expected {list(shape)} for one, or"
                f" [n, {', '.join(map(str, shape))}]"
            )
        return observations

    def _exported(self) -> tuple[Callable[..., PyTree], tuple[PyTree, ...]]:
        """Observations -> (actions [batch] int32 as the environment takes them, action values [batch, actions])."""
        predict, first = self._pure_predict, self.spec.first_action
        shape = observation_shape(self.config.workload, self.spec)

        def act(observations: jax.Array) -> tuple[jax.Array, jax.Array]:
            values = predict(self.state, observations)
            return values.argmax(-1).astype(np.int32) + np.int32(first), values

        return act, (jax.ShapeDtypeStruct((1, *shape), self.spec.observation_dtype),)

    @property
    def _description(self) -> str:
        training = f", {self.members[self.member]} of {len(self.members)}" if len(self.members) > 1 else ""
        return f"{self.config.env.name}, {self.spec.num_actions} actions{training}"

    @property
    def starting_point(self) -> transfer.Start:
        """The parameters that evaluation uses, for the network and the target network."""
        return transfer.Start(self.params, {"target": self.params}, self._sizes, str(self.folder))

    @property
    def variables(self) -> dict[str, PyTree]:
        """The parameters of the network that evaluation acts with: {"params": ...}."""
        return {"params": dqn.parameters(self.state)}

    @property
    def _sizes(self) -> Mapping[str, int]:
        config, actions = self.config.workload, self.spec.num_actions
        outputs = actions * config.atoms if config.distribution != "none" else actions
        return {"actions": actions} | ({"outputs": outputs} if outputs != actions else {})


def _member(bound: "Bound", state: State, member: int | None) -> int:
    """The number of the given training, or of the best by the evaluation of the checkpoint."""
    experiment = bound.config
    members = len(experiment.seeds)
    if member is not None and not 0 <= member < members:
        raise ValueError(f"member is {member}; the run has {members} trainings, 0 to {members - 1}")
    finite = bound.finite(state)
    if not finite.any():
        raise FloatingPointError(f"{bound.every_one} of {experiment.run.workdir} diverged: there is nothing to play")
    if member is None:
        return int(np.argmax(np.where(finite, _scores(experiment, int(state.step)), -np.inf)))
    if not finite[member]:
        rest = ", ".join(map(str, np.flatnonzero(finite)))
        raise ValueError(f"member is {member} ({experiment.names[member]}), which diverged; choose one of {rest}")
    return member


def _scores(experiment: Any, step: int) -> np.ndarray:
    """The return of each training in the evaluation at a step, or in the last before it; -inf where it diverged."""
    lines = RunFolder(experiment.run.workdir).lines("metrics.jsonl")
    scored = (line for line in reversed(lines) if "evaluation_return_per_seed" in line and line["step"] <= step)
    scores = next(scored, {"evaluation_return_per_seed": [0.0] * len(experiment.seeds)})["evaluation_return_per_seed"]
    return np.array([-np.inf if score is None else score for score in scores])
