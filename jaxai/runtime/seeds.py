"""The same training from several seeds, and what they say together."""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxai import ranges
from jaxai.runtime import progress
from jaxai.runtime.run_folder import RunFolder


def train_seeds(experiment: Any, console: Console) -> str:
    """Trains `experiment.run.seeds` times, each in a folder of its own, and writes the mean and the spread.

    An experiment that trains all its seeds in one program, in one folder, does that.

    Returns:
      The name of the signal that cut it short; "" if none did.

    Raises:
      ValueError: fewer than one seed, or what a training raises.
    """
    run = experiment.run
    ranges.check(experiment)
    if run.seeds == 1 or experiment.trains_seeds_together:
        return experiment.train(console=console).interrupted
    results = []
    for seed in range(run.seed, run.seed + run.seeds):
        console.rule(f"seed {seed}")
        one = dataclasses.replace(run, seed=seed, seeds=1, workdir=str(Path(run.workdir) / f"seed-{seed}"))
        outcome = dataclasses.replace(experiment, run=one).train(console=console)
        if outcome.interrupted:
            return outcome.interrupted
        results.append(outcome.result)
    together = summarize(results)
    RunFolder(run.workdir).write_json("result.json", together)
    console.print(progress.results(together, title=f"Mean and spread of {run.seeds} seeds"))
    return ""


def summarize(results: list[dict[str, Any]]) -> dict[str, Any]:
    """For each figure its mean, `_std` (sample standard deviation) and `_per_seed`; what is no figure as it is."""
    together: dict[str, Any] = {"seeds": len(results)}
    for name, value in results[0].items():
        values = [result[name] for result in results if name in result]
        if isinstance(value, float):
            together[name] = statistics.fmean(values)
            together[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
            together[f"{name}_per_seed"] = values
        elif all(other == value for other in values):
            together[name] = value
        else:
            together[f"{name}_per_seed"] = values
    return together
