"""A trained run, loaded in one line.

::

    run = jaxai.load("runs/demo")          # from any working directory
    run.predict(images)                    # probabilities [n, classes]; run.classes names the columns
    jaxai.load("runs/dates").translate(["3 May 2021"])
    jaxai.load("runs/digits").sample(64, label=7)
    jaxai.load("runs/catch").act(observation)

Loading writes nothing, needs no data set, and works while the training is still running.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from jaxai import averages, transfer
from jaxai.core import PyTree, State, Workload, whole

__all__ = ["Trained", "load", "load_params"]

ROWS = (32, 512)
"""Batch sizes of compiled programs, a small and a large one, so that any number of examples compiles at most two."""


def load(
    folder: str | os.PathLike[str],
    checkpoint: str = "best",
    *,
    member: int | None = None,
    workload: Workload | Callable[[None], Workload] | None = None,
    experiments: Sequence[type] = (),
    preset: str | os.PathLike[str] | None = None,
    env_name: str | None = None,
) -> Any:
    """A trained run, ready to predict with.

    Args:
      folder: of the run, the `workdir` of its training.
      checkpoint: "best" by the evaluation, or "latest"; of a translator also "average", the mean of the parameters of
        both.
      member: index of one of several trainings in one program, from 0; None: the best by the evaluation. Only for deep
        Q-learning.
      workload: for a run of `jaxai.train`: the same workload or function as in the training.
      experiments: your own experiment classes, one of which the run may have. Code is never imported because a run
        folder names it.
      preset: the run's preset, where it defines the experiment's class or registers its environment.
      env_name: for an agent with its own environment: the value of `--env.name` in the training, as "mine:make".

    Returns:
      A `Trained`: a `TrainedClassifier`, `TrainedGenerator`, `TrainedTranslator` or `TrainedAgent` where jaxai knows
      the experiment.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the folder holds no run, or runs of several seeds; the checkpoint is missing or damaged; the
        experiment or its environment is unknown. One line with the fix.
    """
    from jaxai.files.paths import given_path, path_text
    from jaxai.runtime import parallel
    from jaxai.runtime.experiment import open_run

    path = given_path(path_text(folder, "the run folder"), "the run folder")
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"the run folder {path} {kind}; give the workdir of a training")
    path = path.absolute()
    parallel.check_backend()
    if workload is not None:
        return _of_workload(path, workload, checkpoint, member)
    import jaxai.experiments  # noqa: F401  # registers them

    return of_bound(open_run(path, tuple(experiments), preset, env_name=env_name), checkpoint, member)


def of_bound(bound: Any, checkpoint: str = "best", member: int | None = None) -> Any:
    """The trained run of a bound experiment.

    Args:
      bound: see `jaxai.runtime.experiment.Bound`.
      checkpoint, member: as in `load`.

    Raises:
      ValueError: as in `load`; also where `member` is given and the run has one training.
    """
    config = bound.config
    if member is None:
        return bound.trained(checkpoint)
    if not config.trains_seeds_together:
        raise ValueError(f"member is {member}, but {config.run.workdir} holds one training; leave member out")
    return bound.trained(checkpoint, member)


def _of_workload(path: Path, workload: Any, checkpoint: str, member: int | None) -> "Trained":
    """The trained run of the caller's workload, as for `jaxai.train`."""
    from jaxai.runtime.config import Run
    from jaxai.runtime.run_folder import RunFolder
    from jaxai.runtime.train import Own

    if member is not None:
        raise ValueError(f"member is {member}, but {path} holds one training; leave member out")
    if not isinstance(workload, Workload):
        if not callable(workload):
            raise ValueError(f"workload is a {type(workload).__name__}; expected a jaxai.Workload, as for the training")
        workload = workload(None)
        if not isinstance(workload, Workload):
            raise ValueError(
                f"workload is a function that returns a {type(workload).__name__}; expected a jaxai.Workload"
            )
    file = RunFolder(path)
    known = (path / "config.json").is_file() and file.knows_class(Own)
    config = file.load_config(Own) if known else None
    found: Trained = Trained.read(Run(workdir=str(path)), workload, checkpoint, config)
    return found


class Trained:
    """One checkpoint of a run, ready to use; `jaxai.load` returns it.

    Attributes:
      folder: of the run.
      config: the run's experiment with all fields, from `config.json`; None for a run of `jaxai.train`.
      workload: the pure functions, for one device.
      state: from the checkpoint: parameters, optimizer state, step.
      checkpoint: name of the checkpoint, as "best".
    """

    def __init__(self, folder: Path, config: Any, workload: Workload, state: State, checkpoint: str):
        self.folder, self.config, self.workload, self.state = folder, config, workload, state
        self.checkpoint = checkpoint

    @classmethod
    def read(cls, run: Any, workload: Workload, checkpoint: str, config: Any = None) -> Any:
        """Reads a checkpoint of `run.workdir`.

        Args:
          run: the `Run` of the training.
          workload: made for one device.
          checkpoint: "best" or "latest".
          config: the run's experiment; None for a run of `jaxai.train`.

        Raises:
          ValueError: the checkpoint is missing or damaged.
        """
        return cls(Path(run.workdir), config, workload, read_state(run, workload, checkpoint), checkpoint)

    @property
    def step(self) -> int:
        """Number of optimizer steps at the checkpoint."""
        return int(self.state.step)

    @property
    def variables(self) -> dict[str, PyTree]:
        """The collections that evaluation applies the network with, as `{"params": ..., "batch_stats": ...}`."""
        if self.state.extra is None or isinstance(self.state.extra, Mapping):
            return averages.variables(self.state)
        return {"params": self.state.params}

    @property
    def params(self) -> PyTree:
        """The parameters that evaluation uses: averaged ones where the run has an average."""
        return self.variables["params"]

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, one for each call and each evaluation, with its `step`."""
        from jaxai.files.json_files import read_lines

        return read_lines(self.folder / "metrics.jsonl")

    @functools.cached_property
    def result(self) -> dict[str, Any]:
        """The final results of the training, from `result.json`; empty while it has not ended."""
        return self._json("result.json")

    def predict(self, inputs: Any, /) -> Any:
        """The result of `workload.predict`, as NumPy arrays.

        Args:
          inputs: arrays, as for the workload's `predict`.

        Raises:
          ValueError: the workload predicts nothing.
        """
        return jax.device_get(self._predict(self.state, inputs))

    def init_from(self, workload: Any) -> Any:
        """The workload with an `init` that starts from the parameters of this run: for fine-tuning.

        The new state has the parameters and statistics that evaluation uses; the optimizer state is new, and the step
        is 0. The number of classes may differ: parameters that depend on it are initialised by `workload.init`.

        Args:
          workload: a `Workload` of the same network, with the same or another number of classes; or a function
            axis_name -> Workload.

        Returns:
          A workload, or such a function, for `jaxai.train` or for your own loop.

        Raises:
          ValueError: other parameters differ in name or shape; one line that names one of them.
        """
        if not isinstance(workload, Workload):
            if not callable(workload):
                raise ValueError(
                    f"workload is a {type(workload).__name__}; expected a jaxai.Workload, or a function axis_name ->"
                    " Workload"
                )
            return lambda axis_name: self.init_from(workload(axis_name))
        start = self.starting_point
        start.check(workload)
        return workload._replace(init=lambda key: start.begin(workload.init(key)))

    @property
    def starting_point(self) -> transfer.Start:
        """The variables of this run for fine-tuning; see `init_from`."""
        variables = self.variables
        extra = {name: value for name, value in variables.items() if name != "params"} | averages.start(variables)
        return transfer.Start(variables["params"], extra, self._sizes, str(self.folder))

    def save_params(self, path: str | os.PathLike[str]) -> Path:
        """Writes the variables that evaluation uses as safetensors, named as `params/Dense_0/kernel`.

        Args:
          path: of the file, as "digits.safetensors". Its metadata has `experiment`, `step`, and `classes` as JSON.

        Returns:
          The path of the file.

        Raises:
          MissingExtraError: safetensors is not installed (the extra `export`).
        """
        from jaxai import weights

        return weights.save(path, self.variables, self._metadata)

    def export(
        self,
        path: str | os.PathLike[str],
        platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
        batch_size: int | None = None,
        inputs: PyTree = None,
    ) -> Path:
        """Writes the prediction as one program with its weights, which only needs JAX to run.

        `jax.export.deserialize(open(path, "rb").read()).call(...)` runs it, without jaxai and flax; reading needs the
        package flatbuffers. JAX can read files that a version up to six months older has written. Activations are
        float32 where the dtype in the run's configuration is `auto`. Arguments and outputs by workload:

        - classification: images [batch, height, width, channels] uint8 -> probabilities [batch, classes] float32;
        - generation: latents [batch, latent_size] float32, and labels [batch] int32 of a conditional model -> images
          [batch, height, width, channels] uint8;
        - translation: source [batch, length] int32, tokens that end with END and are padded with 0, and their number
          [batch] int32 -> the tokens of the greedy translation [batch, longest] int32, padded with 0, and their
          number [batch] int32. `run.source.encode(text)` and `run.target.decode(tokens)` convert; the vocabularies are
          files of the run folder. The length is at most 64; `inputs` sets another one;
        - deep Q-learning: observations [batch, ...] -> the best actions [batch] int32, and the action values [batch,
          actions] float32; illegal actions are not masked.

        Args:
          path: of the file, as "digits.jaxexport".
          platforms: that it can run on: "cpu", "cuda", "rocm", "tpu".
          batch_size: number of examples in a call; None: any number.
          inputs: shapes and dtypes of the arguments, a tuple of arrays or `jax.ShapeDtypeStruct`s whose leading axis is
            the batch; None: those above. Required for your own workload.

        Returns:
          The path of the file.

        Raises:
          ValueError: the program cannot be compiled for any number of examples, or a platform is unknown.
          MissingExtraError: flatbuffers is not installed (the extra `export`).
        """
        from jaxai import exporting

        function, expected = self._exported()
        if inputs is None:
            inputs = expected
        if inputs is None:
            raise ValueError(
                "inputs is None, and the inputs of this workload's predict are unknown; give their shapes, as"
                " inputs=(jax.ShapeDtypeStruct((1, 28, 28, 1), numpy.uint8),)"
            )
        return exporting.write(path, function, inputs, platforms, batch_size)

    def __repr__(self) -> str:
        facts = [f"{self.checkpoint} checkpoint", f"step {self.step:,}", self._size]
        with contextlib.suppress(ValueError):  # of a damaged file, which is reported where its content is needed
            facts = [self._description, *facts, *(f"{name} {value:.4g}" for name, value in self._scores.items())]
        return f"<{type(self).__name__} {self.folder}: {', '.join(fact for fact in facts if fact)}>"

    # Overridden by each kind of run.

    @property
    def _description(self) -> str:
        """A short description of the run."""
        return "" if self.config is None else type(self.config).__qualname__

    @property
    def _size(self) -> str:
        return f"{sum(np.size(leaf) for leaf in jax.tree.leaves(self.params)):,} parameters"

    @property
    def _scores(self) -> dict[str, float]:
        """The final value of the metric that decides which checkpoint is the best."""
        found = {
            name: value
            for name, value in self.result.items()
            if name.startswith("best_") and name not in ("best_step", "best_epoch")
        }
        return {name: value for name, value in found.items() if isinstance(value, int | float)}

    @property
    def _sizes(self) -> Mapping[str, int]:
        """Sizes that may differ in a network for another task, as the number of classes; see `transfer.Start`."""
        return {}

    @property
    def _metadata(self) -> dict[str, Any]:
        """The metadata in the file of `save_params`."""
        from jaxai.runtime.config import type_name

        return {"experiment": "" if self.config is None else type_name(type(self.config)), "step": self.step}

    def _exported(self) -> tuple[Callable[..., PyTree], tuple[PyTree, ...] | None]:
        """The function that `export` writes, and the shapes and dtypes of its arguments for one example."""
        predict = self._pure_predict
        return lambda inputs: predict(self.state, inputs), None

    @property
    def _pure_predict(self) -> Callable[[State, Any], PyTree]:
        if self.workload.predict is None:
            raise ValueError("the workload has no predict; make it with Workload(..., predict=...)")
        return self.workload.predict

    @functools.cached_property
    def _predict(self) -> Callable[[State, Any], PyTree]:
        return jax.jit(self._pure_predict)

    def _json(self, file: str) -> dict[str, Any]:
        """The content of a JSON file of the run folder; empty where it does not exist."""
        from jaxai.files.json_files import read_object

        return read_object(self.folder / file) if (self.folder / file).is_file() else {}


def load_params(path: str | os.PathLike[str]) -> dict[str, PyTree]:
    """The variables in a file of `Trained.save_params`: nested dicts, as `{"params": {"Dense_0": {"kernel": ...}}}`.

    `network.apply(jaxai.load_params(path), inputs, train=False)` applies a linen module with them.

    Args:
      path: of the safetensors file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a safetensors file, or is damaged.
      MissingExtraError: safetensors is not installed (the extra `export`).
    """
    from jaxai import weights

    return weights.load(path)


def read_state(run: Any, workload: Workload, checkpoint: str) -> State:
    """The state of a run's checkpoint on one device.

    Args:
      run: a `Run`, whose `workdir` is the folder.
      workload: made for one device.
      checkpoint: "best" or "latest".

    Raises:
      ValueError: another name, or there is no complete checkpoint of this name.
    """
    from jaxai.runtime import parallel
    from jaxai.runtime.restore import trained_state

    if checkpoint not in ("best", "latest"):
        raise ValueError(f"checkpoint is {checkpoint!r}; expected best or latest")
    one = dataclasses.replace(run, mode="jit", devices=None)
    return trained_state(workload, one, parallel.make_mesh(1), cast(Any, checkpoint))


class Beginning(NamedTuple):
    """How a training begins: a change of its initial state, and a line that describes it.

    Attributes:
      prepare: the state from `workload.init` -> the state before the first step.
      note: the parameters that are taken from another run; "" where there are none.
    """

    prepare: Callable[[State], State] = whole
    note: str = ""


def make_beginning(
    run: Any,
    workload: Workload,
    experiments: Sequence[type] = (),
    renewed: Callable[[Any], Collection[str]] = lambda source: (),
) -> Beginning:
    """How a training begins: from the run `run.init_from`, unless that is "" or the training is resumed.

    Args:
      run: the `Run` of the training.
      workload: the workload to train, made for one device.
      experiments: see `load`.
      renewed: the trained run -> names of its `sizes` whose parameters must be new; see `transfer.Start`.

    Raises:
      ValueError: there is no such run, or it does not fit the workload; one line.
    """
    from jaxai.runtime.checkpoint import Checkpoints
    from jaxai.runtime.run_folder import RunFolder

    if not run.init_from or Checkpoints(RunFolder(run.workdir).checkpoints).newest():
        return Beginning()
    try:
        source = load(run.init_from, experiments=experiments)
        start = dataclasses.replace(source.starting_point, renewed=frozenset(renewed(source)))
        return Beginning(start.begin, start.check(workload))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"--init-from: {error}") from None


def portable(config: Any) -> Any:
    """The configuration of a network, with dtype float32 in place of `auto`, which depends on the machine."""
    return dataclasses.replace(config, dtype="float32") if config.dtype == "auto" else config


def by_rows(function: Callable[..., PyTree], *arrays: np.ndarray) -> Any:
    """Applies a function of batches to any number of examples, in batches of one size.

    Args:
      function: arrays [rows, ...] -> arrays [rows, ...]; each row must depend on its own example only.
      arrays: [n, ...], n at least 1.
    """
    count = len(arrays[0])
    size = next((rows for rows in ROWS if count <= rows), ROWS[-1])
    parts = []
    for first in range(0, count, size):
        given = [array[first : first + size] for array in arrays]
        missing = size - len(given[0])
        padded = [np.concatenate([rows, np.repeat(rows[-1:], missing, 0)]) for rows in given]
        found = jax.device_get(function(*padded))
        parts.append(jax.tree.map(lambda leaf, kept=size - missing: leaf[:kept], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
