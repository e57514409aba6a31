"""A grid over hyperparameters, trained in one program by `jaxai sweep`."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxai.experiments.qlearning.bound import Bound
from jaxai.experiments.qlearning.experiment import Experiment
from jaxai.ranges import Count, NonNegative, Share
from jaxai.report import pictures
from jaxai.runtime.loop import Outcome
from jaxai.runtime.run_folder import RunFolder

BEST = 10
"""Number of settings in the table on the terminal; sweep.json has all."""


@dataclass(frozen=True)
class Grid:
    """The values to try; every combination is trained. An empty field keeps the value of the preset."""

    learning_rate: tuple[NonNegative, ...] = ()  # of the optimizer
    discount: tuple[Share, ...] = ()  # gamma
    epsilon_start: tuple[Share, ...] = ()  # initial share of random actions
    epsilon_end: tuple[Share, ...] = ()  # final share of random actions
    epsilon_steps: tuple[Count, ...] = ()  # environment steps over which the share of random actions falls
    target_rate: tuple[Share, ...] = ()  # step of the target towards the network
    priority_exponent: tuple[NonNegative, ...] = ()  # alpha of prioritized replay
    importance_exponent: tuple[Share, ...] = ()  # initial beta of prioritized replay

    def swept(self) -> dict[str, tuple[float, ...]]:
        """The fields that have values."""
        return {name: values for name, values in dataclasses.asdict(self).items() if values}


@dataclass(frozen=True)
class Sweep(Experiment):
    """An experiment, and the grid of its settings."""

    grid: Grid = Grid()

    @property
    def settings(self) -> list[dict[str, float]]:
        """Every combination of the grid's values."""
        swept = self.grid.swept()
        return [dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values())]

    def check(self) -> None:
        """Raises ValueError for an empty grid, or a value that is invalid in a preset too."""
        swept = self.grid.swept()
        if not swept:
            names = ", ".join(f"--grid.{field.name.replace('_', '-')}" for field in dataclasses.fields(Grid))
            raise ValueError(f"a sweep needs values to try, as --grid.learning-rate 1e-4 1e-3; one or more of {names}")
        unused = {"priority_exponent", "importance_exponent"} & swept.keys()
        if unused and not self.workload.prioritized:
            raise ValueError(f"grid.{min(unused)} has no effect without prioritized replay; add --prioritized")
        super().check()
        for name, values in swept.items():
            if len({np.float32(value) for value in values}) < len(values):  # the step computes in float32
                raise ValueError(f"grid.{name} is {values}: a value is given twice; leave it out once")

    def of_run(self, data: None = None) -> "BoundSweep":
        """The bound form of the configuration of a run folder."""
        del data
        return BoundSweep(self)


class BoundSweep(Bound):
    """A sweep in an environment that is available in this process."""

    config: Sweep

    def draw(self, outcome: Outcome, folder: RunFolder, console: Console | None) -> None:
        """The table of the settings, best first, in `sweep.json`, on the terminal and as a picture.

        Args:
          outcome: of the training.
          folder: of the run; table and picture are written into it.
          console: where the table is shown; None: nowhere.
        """
        swept, seeds = self.config.grid.swept(), self.config.run.seeds
        scores = np.array([np.nan if score is None else score for score in outcome.result["return_per_seed"]])
        scores = scores.reshape(-1, seeds)
        rows = ranking(self.config.settings, scores)
        folder.write_json("sweep.json", rows)
        if console:
            console.print(_table(rows, list(swept)))
        if not pictures.available():
            return
        with pictures.optional(console):
            folder.pictures.mkdir(exist_ok=True)
            grid = scores.reshape(*(len(values) for values in swept.values()), seeds)
            pictures.grid_search(swept, grid, folder.pictures / "sweep.png", score="mean return")
            caption = f"Mean return of the last evaluation over the grid, {seeds} seed{'s' * (seeds > 1)} a setting"
            folder.write_json("pictures/captions.json", {"sweep.png": caption})


def ranking(settings: Sequence[Mapping[str, float]], scores: np.ndarray) -> list[dict[str, Any]]:
    """The settings with their scores [settings, seeds], best mean first; one with a diverged seed comes last."""
    rows: list[dict[str, Any]] = []
    for setting, row in zip(settings, scores, strict=True):
        finite = row[np.isfinite(row)]
        rows.append(
            {
                **setting,
                "return_mean": float(finite.mean()) if len(finite) else None,
                "return_std": float(finite.std(ddof=1)) if len(finite) > 1 else None,
                "return_per_seed": [float(score) if np.isfinite(score) else None for score in row],
                "diverged": int(len(row) - len(finite)),
            }
        )
    return sorted(rows, key=lambda row: (row["diverged"], -(row["return_mean"] or 0.0)))


def _table(rows: Sequence[Mapping[str, Any]], swept: Sequence[str]) -> Table:
    table = Table(*swept, "return", "std", "diverged", title=f"The best {min(BEST, len(rows))} of {len(rows)} settings")
    for row in rows[:BEST]:
        figures = ("none" if row[name] is None else f"{row[name]:.2f}" for name in ("return_mean", "return_std"))
        table.add_row(*(f"{row[name]:g}" for name in swept), *figures, f"{row['diverged']}")
    return table
