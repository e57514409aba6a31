"""The same training from several seeds, with the mean and the spread of their results."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console

from jaxai.files.results import over_seeds
from jaxai.files.unwritten import FULL, UnwrittenError, reason
from jaxai.output import print_line
from jaxai.runtime import progress
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.config import check_experiment
from jaxai.runtime.experiment import Experiment, with_run
from jaxai.runtime.run_folder import RunFolder

NO_HOOKS: Mapping[str, Any] = MappingProxyType({})


def train_seeds(experiment: Experiment, console: Console, hooks: Mapping[str, Any] = NO_HOOKS) -> str:
    """Trains `experiment.run.seeds` times, each in a folder of its own, and writes the mean and the spread.

    An experiment with `trains_seeds_together` is trained once, in one folder. A seed that diverges does not stop the
    others: it is reported, and mean and spread are over the others.

    Args:
      experiment: to train.
      console: for progress.
      hooks: `callbacks`, `measures` and `metrics` for each training; see `jaxai.runtime.callbacks`.

    Returns:
      The name of the signal that interrupted it; "" if none did.

    Raises:
      ValueError: fewer than one seed, a folder that holds another run, or an error of a training.
      FloatingPointError: every seed diverged.
    """
    run = experiment.run
    check_experiment(experiment)
    if run.seeds == 1 or experiment.trains_seeds_together:
        with with_saved_step(Path(run.workdir)):
            return experiment.bind(console=console).train(console, **hooks).interrupted
    if (Path(run.workdir) / "config.json").exists():
        raise ValueError(f"{run.workdir} holds a run of one seed; choose another --workdir for {run.seeds} seeds")
    results: list[dict[str, Any]] = []
    folders: list[str] = []
    diverged: dict[int, FloatingPointError] = {}
    for seed in range(run.seed, run.seed + run.seeds):
        console.rule(f"seed {seed}")
        one = dataclasses.replace(run, seed=seed, seeds=1, workdir=str(Path(run.workdir) / f"seed-{seed}"))
        try:
            with with_saved_step(Path(one.workdir)):
                outcome = with_run(experiment, one).bind(console=console).train(console, **hooks)
        except FloatingPointError as error:
            diverged[seed] = error
            results.append({})
            print_line(console, f"seed {seed} diverged: {error}")
            continue
        if outcome.interrupted:
            return outcome.interrupted
        results.append(outcome.result)
        folders.append(one.workdir)
    if len(diverged) == run.seeds:
        raise FloatingPointError(f"all {run.seeds} seeds diverged; the first: {diverged[run.seed]}")
    together = over_seeds(results)
    RunFolder(run.workdir).write_json("result.json", together)
    meanings = RunFolder(folders[-1]).declarations().meanings
    console.print(progress.results(together, meanings, title=f"Mean and spread of {run.seeds} seeds"))
    if diverged:
        lost = f"seed{'s' * (len(diverged) > 1)} {', '.join(map(str, diverged))} diverged"
        print_line(console, f"{lost}: mean and spread are over the others")
    return ""


@contextlib.contextmanager
def with_saved_step(workdir: Path) -> Iterator[None]:
    """Adds the last saved step of the run in `workdir` to an error of a file that could not be written.

    Raises:
      UnwrittenError: a file could not be written.
    """
    try:
        yield
    except OSError as error:
        if not isinstance(error, UnwrittenError) and error.errno not in FULL:
            raise
        what = str(error) if isinstance(error, UnwrittenError) else f"cannot write to {workdir}: {reason(error)}"
        saved = [int(folder.name) for folder in Checkpoints(RunFolder(workdir).checkpoints).newest()]
        way = f"step {saved[0]} is safe" if saved else "no step was saved yet"
        raise UnwrittenError(
            error.errno, f"{what}; {way}: make room, and the same command resumes from there"
        ) from error
