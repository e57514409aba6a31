"""A trained run, read back in one line.

::

    run = jaxai.load("runs/demo")          # from any working directory
    run.predict(images)                    # probabilities [n, classes]; run.classes names the columns
    jaxai.load("runs/dates").translate(["3 May 2021"])
    jaxai.load("runs/digits").sample(64, label=7)
    jaxai.load("runs/catch").act(observation)

Reading writes nothing, needs no data set, and works beside a training that goes on.
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
"""Examples in one call of a compiled program: a few, or many. So any number of examples compiles at most two."""


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
      member: which of several trainings in one program, from 0; None: the best by the evaluation. Of deep Q-learning
        alone.
      workload: what was trained, for a run of `jaxai.train`: the same workload or function as for the training.
      experiments: classes of your own that the run may be an experiment of. A folder never names code to import.
      preset: the run's preset, where it defines the experiment's class or registers its environment.
      env_name: an agent's own environment, as it was given to `--env.name`: "mine:make". A folder alone imports
        nothing.

    Returns:
      A `Trained`: a `TrainedClassifier`, `TrainedGenerator`, `TrainedTranslator` or `TrainedAgent` where jaxai knows
      the experiment.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the folder holds no run, or runs of several seeds; the checkpoint is not there or damaged; the
        experiment or its environment is unknown. One line, with what to give instead.
    """
    from jaxai.files.paths import given_path
    from jaxai.runtime import parallel
    from jaxai.runtime.experiment import open_run

    path = given_path(os.fspath(folder), "the run folder")
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
    """The trained run of a bound experiment, see `jaxai.runtime.experiment`; `load` has the arguments."""
    config = bound.config
    if member is None:
        return bound.trained(checkpoint)
    if not config.trains_seeds_together:
        raise ValueError(f"member is {member}, but {config.run.workdir} holds one training; leave member out")
    return bound.trained(checkpoint, member)


def _of_workload(path: Path, workload: Any, checkpoint: str, member: int | None) -> "Trained":
    """The trained run of a workload that is handed in, as that of `jaxai.train`."""
    from jaxai.runtime.config import Run
    from jaxai.runtime.run_folder import RunFolder
    from jaxai.runtime.train import Own

    if member is not None:
        raise ValueError(f"member is {member}, but {path} holds one training; leave member out")
    if not isinstance(workload, Workload):
        if not callable(workload):
            raise ValueError(f"workload is a {type(workload).__name__}; expected a jaxai.Workload, as for the training")
        workload = workload(None)
    file = RunFolder(path)
    known = (path / "config.json").is_file() and file.knows_class(Own)
    config = file.load_config(Own) if known else None
    found: Trained = Trained.read(Run(workdir=str(path)), workload, checkpoint, config)
    return found


class Trained:
    """One checkpoint of a run and what can be done with it; `jaxai.load` returns it.

    Attributes:
      folder: of the run.
      config: the run's experiment with all its fields, as `config.json` has it; None for a run of `jaxai.train`.
      workload: the pure functions, for one device.
      state: as the checkpoint holds it: parameters, optimizer state, step.
      checkpoint: which one it is.
    """

    def __init__(self, folder: Path, config: Any, workload: Workload, state: State, checkpoint: str):
        self.folder, self.config, self.workload, self.state = folder, config, workload, state
        self.checkpoint = checkpoint

    @classmethod
    def read(cls, run: Any, workload: Workload, checkpoint: str, config: Any = None) -> Any:
        """Reads a checkpoint of `run.workdir`; see `load` for what it raises."""
        return cls(Path(run.workdir), config, workload, read_state(run, workload, checkpoint), checkpoint)

    @property
    def step(self) -> int:
        """Optimizer steps that the checkpoint was trained for."""
        return int(self.state.step)

    @property
    def variables(self) -> dict[str, PyTree]:
        """The collections that evaluation applies the network with, as `{"params": ..., "batch_stats": ...}`."""
        if self.state.extra is None or isinstance(self.state.extra, Mapping):
            return averages.variables(self.state)
        return {"params": self.state.params}

    @property
    def params(self) -> PyTree:
        """The parameters that evaluation uses: the averaged ones where the run has an average."""
        return self.variables["params"]

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`: of each call and each evaluation, with its `step`."""
        from jaxai.files.json_files import read_lines

        return read_lines(self.folder / "metrics.jsonl")

    @functools.cached_property
    def result(self) -> dict[str, Any]:
        """The final figures of the training; empty where it has not ended."""
        return self._json("result.json")

    def predict(self, inputs: Any, /) -> Any:
        """What `workload.predict` returns for inputs, on the host.

        Args:
          inputs: arrays as the workload's `predict` takes them.

        Raises:
          ValueError: the workload predicts nothing.
        """
        return jax.device_get(self._predict(self.state, inputs))

    def init_from(self, workload: Any) -> Any:
        """The workload, whose `init` takes the parameters of this run: for fine-tuning.

        Taken are the parameters and statistics that evaluation uses; the optimizer's state is new, and the step is 0.
        Another number of classes is allowed: what depends on it is initialised as by `workload.init`.

        Args:
          workload: a `Workload` of the same network, maybe with another number of classes; or a function axis_name ->
            Workload.

        Returns:
          The same, for `jaxai.train` or for your own loop.

        Raises:
          ValueError: something else does not fit; one line that names it.
        """
        if not isinstance(workload, Workload):
            return lambda axis_name: self.init_from(workload(axis_name))
        start = self.starting_point
        start.check(workload)
        return workload._replace(init=lambda key: start.begin(workload.init(key)))

    @property
    def starting_point(self) -> transfer.Start:
        """What a fine-tuning training takes from this run; see `init_from`."""
        variables = self.variables
        extra = {name: value for name, value in variables.items() if name != "params"} | averages.start(variables)
        return transfer.Start(variables["params"], extra, self._sizes, str(self.folder))

    def save_params(self, path: str | os.PathLike[str]) -> Path:
        """Writes the variables that evaluation uses as safetensors, named as `params/Dense_0/kernel`.

        Args:
          path: of the file, as "digits.safetensors". Its metadata has `experiment`, `step`, and `classes` as JSON.

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
        """Writes the prediction as one program with its weights, for JAX alone.

        `jax.export.deserialize(open(path, "rb").read()).call(...)` runs it, without jaxai and flax; reading needs the
        package flatbuffers. JAX reads what a version of at most six months earlier has written. Activations are
        float32 where the run leaves their dtype to the machine. Its arguments and outputs are, by workload:

        - classification: images [batch, height, width, channels] uint8 -> probabilities [batch, classes] float32;
        - generation: latents [batch, latent_size] float32, and labels [batch] int32 of a conditional model -> images
          [batch, height, width, channels] uint8;
        - translation: source [batch, length] int32, tokens that end with END and are padded with 0, and their number
          [batch] int32 -> the tokens of the greedy translation [batch, longest] int32, padded with 0, and their
          number [batch] int32. `run.source.encode(text)` and `run.target.decode(tokens)` convert; the vocabularies are
          files of the run folder. The length is 64 or less; `inputs` gives another one;
        - deep Q-learning: observations [batch, ...] -> the best actions [batch] int32, and the action values [batch,
          actions] float32, both without regard to which actions are legal.

        Args:
          path: of the file, as "digits.jaxexport".
          platforms: that it can run on: "cpu", "cuda", "rocm", "tpu".
          batch_size: examples in a call; None: any number.
          inputs: shapes and dtypes of the arguments, a tuple of arrays or `jax.ShapeDtypeStruct`s whose leading axis is
            the batch; None: those above. A workload of your own needs it.

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
                "inputs is None, and jaxai does not know what this workload predicts from; give it, as"
                " inputs=(jax.ShapeDtypeStruct((1, 28, 28, 1), numpy.uint8),)"
            )
        return exporting.write(path, function, inputs, platforms, batch_size)

    def __repr__(self) -> str:
        facts = [f"{self.checkpoint} checkpoint", f"step {self.step:,}", self._size]
        with contextlib.suppress(ValueError):  # of a damaged file, which is named where it is needed
            facts = [self._description, *facts, *(f"{name} {value:.4g}" for name, value in self._scores.items())]
        return f"<{type(self).__name__} {self.folder}: {', '.join(fact for fact in facts if fact)}>"

    # What each kind of run has of its own.

    @property
    def _description(self) -> str:
        """What it is, in a few words."""
        return "" if self.config is None else type(self.config).__qualname__

    @property
    def _size(self) -> str:
        return f"{sum(np.size(leaf) for leaf in jax.tree.leaves(self.params)):,} parameters"

    @property
    def _scores(self) -> dict[str, float]:
        """The final figure that decides which checkpoint is the best."""
        found = {
            name: value
            for name, value in self.result.items()
            if name.startswith("best_") and name not in ("best_step", "best_epoch")
        }
        return {name: value for name, value in found.items() if isinstance(value, int | float)}

    @property
    def _sizes(self) -> Mapping[str, int]:
        """What a network of another task may have another number of -> the number; see `transfer.Start`."""
        return {}

    @property
    def _metadata(self) -> dict[str, Any]:
        """What `save_params` writes beside the arrays."""
        from jaxai.runtime.config import type_name

        return {"experiment": "" if self.config is None else type_name(type(self.config)), "step": self.step}

    def _exported(self) -> tuple[Callable[..., PyTree], tuple[PyTree, ...] | None]:
        """What `export` writes: a pure function, and the shapes and dtypes of its arguments for one example."""
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
        """The content of one of the folder's JSON files; empty where it is not there."""
        from jaxai.files.json_files import read_object

        return read_object(self.folder / file) if (self.folder / file).is_file() else {}


def load_params(path: str | os.PathLike[str]) -> dict[str, PyTree]:
    """What `Trained.save_params` wrote: nested dicts of arrays, as `{"params": {"Dense_0": {"kernel": ...}}}`.

    `network.apply(jaxai.load_params(path), inputs, train=False)` applies a linen module with it.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no safetensors file, or is damaged.
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
      ValueError: it is another name, or there is no such checkpoint that is whole.
    """
    from jaxai.runtime import parallel
    from jaxai.runtime.restore import trained_state

    if checkpoint not in ("best", "latest"):
        raise ValueError(f"checkpoint is {checkpoint!r}; expected best or latest")
    one = dataclasses.replace(run, mode="jit", devices=None)
    return trained_state(workload, one, parallel.make_mesh(1), cast(Any, checkpoint))


class Beginning(NamedTuple):
    """How a training begins: what is done to its initial state, and one line about it.

    Attributes:
      prepare: the state from `workload.init` -> the state before the first step.
      note: states what is taken from another run; "" where nothing is.
    """

    prepare: Callable[[State], State] = whole
    note: str = ""


def make_beginning(
    run: Any,
    workload: Workload,
    experiments: Sequence[type] = (),
    renewed: Callable[[Any], Collection[str]] = lambda source: (),
) -> Beginning:
    """How a training begins by `run.init_from`; as `workload.init` does where that is "", or the run has begun already.

    Args:
      run: the `Run` of the training.
      workload: that is going to be trained, for one device.
      experiments: see `load`.
      renewed: the trained run -> which of its `sizes` count other things than those here; see `transfer.Start`.

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
    """The configuration of a network, with activations in float32 where their dtype would be the machine's choice."""
    return dataclasses.replace(config, dtype="float32") if config.dtype == "auto" else config


def by_rows(function: Callable[..., PyTree], *arrays: np.ndarray) -> Any:
    """What a function of batches returns for any number of examples, computed in batches of one shape.

    Args:
      function: arrays [rows, ...] -> arrays [rows, ...], each row from its own example alone.
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
