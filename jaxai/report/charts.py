"""The charts of a report: cards with curves over a run, of one run, of its seeds, or of several runs side by side.

The declarations of the metrics alone determine the contents, order and axes of the charts.
"""

import dataclasses
from collections.abc import Collection, Sequence
from html import escape

import numpy as np

from jaxai.metrics import PER_SEED, Meanings, is_number
from jaxai.report.curves import THIN_LINES, Curve, curves_svg, seed_curves
from jaxai.report.elements import grid, section, swatch
from jaxai.report.run_record import Record, RunRecord, declared_together, histories, is_per_seed

__all__ = ["charts"]

SUMMARIES = ("_iqm", "_low", "_high", "_std")
"""Statistics over seeds that the band of a chart shows."""
LOG_FACTOR = 30
"""Ratio of the highest value to the lowest from which a chart may have a logarithmic axis."""


@dataclasses.dataclass(frozen=True)
class _Charts:
    """The figures of one source of lines, metrics or timing, and how they are drawn."""

    runs: Sequence[RunRecord]
    source: str
    meanings: Meanings
    scores: Collection[str]

    @property
    def several(self) -> bool:
        """Whether there are several runs; each then has its own colour."""
        return len(self.runs) > 1

    @property
    def members(self) -> list[RunRecord]:
        """Every run that has lines of its own."""
        return [member for run in self.runs for member in run.members]

    def lines(self) -> list[Record]:
        """The lines of all runs."""
        return [line for run in self.runs for line in run.lines(self.source)]

    def keys(self) -> tuple[list[str], list[str]]:
        """Names of the figures to draw, and of diagnostics that are always 0.

        Lists over seeds are without `_per_seed`; positions and statistics over seeds are left out.
        """
        values: dict[str, bool] = {}
        for line in self.lines():
            for key, value in line.items():
                each = [item for item in (value if isinstance(value, list) else [value]) if is_number(item)]
                if each and (not isinstance(value, list) or key.endswith(PER_SEED)):
                    name = key.removesuffix(PER_SEED)
                    values[name] = values.get(name, False) or any(each)
        hidden = {key + ending for key in values for ending in SUMMARIES}
        hidden |= {position for run in self.runs for position in run.positions(self.source)}
        found = [key for key in values if key not in hidden]
        measured = {key for run in self.runs for key in run.measured}
        zero = [key for key in found if not (values[key] or key in measured or self.meanings.better(key))]
        return [key for key in found if key not in zero], zero

    def rank(self, key: str) -> tuple[bool, int]:
        """Order of a metric: the score of the run, then as declared."""
        metric = self.meanings.parse(key).metric
        declared = [*self.meanings.metrics]
        return metric not in self.scores, declared.index(metric) if metric in declared else len(declared)

    def over_seeds(self, key: str) -> bool:
        """Whether a figure has values of several seeds in one line."""
        return any(is_per_seed(line, key) and len(line[key + PER_SEED]) > 1 for line in self.lines())

    def grouped(self, keys: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Titles and figures of the charts. A figure of several runs, or of several seeds, has its own chart."""
        seeds = {self.meanings.parse(key).metric for key in keys if self.over_seeds(key)}
        floors = {self.floor(key) for key in keys}
        groups: dict[str, list[str]] = {}
        for key in keys:
            if key in floors:
                continue  # drawn together with its figure
            metric = self.meanings.parse(key).metric
            alone = self.several or metric in seeds
            together = self.meanings.metric(key).group or metric
            groups.setdefault(key if alone else together, []).append(key)
        for group in groups.values():
            group.sort(key=lambda key: (self.rank(key), self.meanings.parse(key).split))
        titles = [self._title(group) for group in groups.values()]
        return list(zip(titles, groups.values(), strict=True))

    def _title(self, keys: Sequence[str]) -> str:
        """The group of several figures, or their metric; for a single figure its name."""
        metric = self.meanings.metric(keys[0])
        alone = self.meanings.heading(keys[0] if len(keys) == 1 else self.meanings.parse(keys[0]).metric)
        return metric.group if metric.group and len(keys) > 1 else alone

    def floor(self, key: str) -> str | float | None:
        """The floor of a figure: a value, or the name of the figure that measures it."""
        for floor in self.meanings.floors(key):
            if not isinstance(floor, str) or any(is_number(line.get(floor)) for line in self.lines()):
                return floor
        return None

    def axis(self, keys: Sequence[str]) -> str:
        """The horizontal axis: the one that all runs declare, if each line with one of the figures has it."""
        axes = {run.declared.axis for run in self.runs}
        lines = [line for line in self.lines() if any(key in line or is_per_seed(line, key) for key in keys)]
        axis = axes.pop() if len(axes) == 1 else "step"
        return axis if all(is_number(line.get(axis)) for line in lines) else "step"

    def card(self, title: str, keys: Sequence[str], measured: Collection[str]) -> str:
        """One chart; empty without values."""
        axis = self.axis(keys)
        curves: list[Curve] = []
        missing = 0
        for index, run in enumerate(self.runs):
            for place, key in enumerate(keys):
                found = histories(run, self.source, key, axis)
                missing += sum(int(np.isnan(y).sum()) for _, y in found)
                curves += seed_curves(found, index if self.several else place, markers=key in measured)
        if self.several:
            curves = [curve for curve in curves if not curve.faint] or curves
        if not curves:
            return ""
        best = self._best(keys, measured)
        curves += self._floor_curves(keys, curves, axis) + [
            Curve("", np.array([line[axis]]), np.array([line[key]]), keys.index(key), ring=True)
            for key, line in best.items()
        ]
        metrics = [self.meanings.metric(key) for key in keys]
        low, high = min(float(curve.y.min()) for curve in curves), max(float(curve.y.max()) for curve in curves)
        log = all(metric.log for metric in metrics) and low > 0 and high > LOG_FACTOR * low
        percent = all(metric.unit == "%" for metric in metrics)
        svg = curves_svg(curves, title=title, x_label=self.meanings.label(axis), percent=percent, log=log)
        notes = [self._best_text(key, line, named=len(keys) > 1) for key, line in best.items()]
        notes += [f"Left out, because they are missing or not finite: {missing:,} values."] * bool(missing)
        note = f'<p class="muted">{escape(" ".join(notes))}</p>' if notes else ""
        heading = f"<figcaption><h3>{escape(title)}{self._facts(keys, log)}</h3>{self._legend(keys)}</figcaption>"
        return f'<figure class="card">{heading}{svg}{note}</figure>'

    def _best(self, keys: Sequence[str], measured: Collection[str]) -> dict[str, Record]:
        """A line with the best value of each evaluation metric of a single run."""
        found: dict[str, Record] = {}
        for key in keys if len(self.members) == 1 else ():
            better = self.meanings.better(key)
            if key in measured and better and not self.over_seeds(key):
                lines = [line for line in self.lines() if is_number(line.get(key)) and np.isfinite(line[key])]
                found[key] = (max if better == "higher" else min)(lines, key=lambda line: line[key])
        return found

    def _best_text(self, key: str, line: Record, named: bool) -> str:
        name = f" {self.meanings.label(key)}" if named else ""
        return f"Best{name}: {self.meanings.text(key, line[key])} at step {line['step']:,}."

    def _floor_curves(self, keys: Sequence[str], curves: Sequence[Curve], axis: str) -> list[Curve]:
        """Dashed lines at the value of a perfect model."""
        found: list[Curve] = []
        ends = np.array([min(curve.x.min() for curve in curves), max(curve.x.max() for curve in curves)])
        for place, key in enumerate(keys):
            floor = self.floor(key)
            if isinstance(floor, str):
                for index, run in enumerate(self.runs):
                    colour = index if self.several else place
                    means = seed_curves(histories(run, self.source, floor, axis), colour, markers=False)
                    found += [dataclasses.replace(curve, dashed=True) for curve in means if not curve.faint]
            elif floor is not None:
                found.append(Curve("", ends, np.full(2, float(floor)), place, dashed=True))
        return found

    def _legend(self, keys: Sequence[str]) -> str:
        """Names of the lines of one chart (their splits if all belong to one metric), and of the floors."""
        parts = [self.meanings.parse(key) for key in keys]
        names = [self.meanings.label(key) for key in keys]
        if len({part.metric for part in parts}) == 1:
            names = [part.split.replace("_", " ") or "training" for part in parts]
        lines = "".join(swatch(place, name) for place, name in enumerate(names)) if len(keys) > 1 else ""
        floors = {self._floor_text(key): 0 for key in keys if self.floor(key) is not None}
        lines += "".join(f'<span class="muted">dashed: {escape(name)}</span>' for name in floors)
        return f"<span>{lines}</span>" if lines else ""

    def _floor_text(self, key: str) -> str:
        floor = self.floor(key)
        return self.meanings.label(floor) if isinstance(floor, str) else f"floor: {self.meanings.text(key, floor)}"

    def _facts(self, keys: Sequence[str], log: bool) -> str:
        """Unit, direction and scale, to show after a title."""
        metrics = [self.meanings.metric(key) for key in keys]
        units, better = {metric.unit for metric in metrics}, {metric.better for metric in metrics}
        facts = [unit for unit in units if len(units) == 1 and unit not in ("", "%")]
        facts += [f"{direction} is better" for direction in better if len(better) == 1 and direction]
        facts += ["log scale"] * log
        return f' <span class="muted">{escape(", ".join(facts))}</span>' if facts else ""


def charts(runs: Sequence[RunRecord]) -> list[str]:
    """Sections of charts. One run has training and test in one chart; several have a chart for each figure."""
    meanings = declared_together(runs)
    scores = {meanings.parse(run.declared.score).metric for run in runs if run.declared.score}
    drawn = _Charts(runs, "metrics", meanings, scores)
    keys, zero = drawn.keys()
    measured = {key for run in runs for key in run.measured}
    order = {key: place for place, key in enumerate(keys)}
    keys.sort(
        key=lambda key: (
            *(drawn.rank(key)[0], key not in measured, meanings.better(key) is None),
            *(drawn.rank(key)[1], order[key]),
        )
    )
    learning: list[str] = []
    rest: list[str] = []
    for title, group in drawn.grouped(keys):
        learned = any(key in measured or meanings.better(key) for key in group)
        (learning if learned else rest).append(drawn.card(title, group, measured))
    above = _legend(runs, any(drawn.over_seeds(key) for key in keys) or any(run.seeds for run in runs))
    timed = _Charts(runs, "timing", meanings, ())
    speeds = sorted((key for key in timed.keys()[0] if meanings.metric(key).unit != "s"), key=timed.rank)
    speed = [timed.card(meanings.heading(key), [key], ()) for key in speeds]
    names = ", ".join(meanings.label(key) for key in zero)
    nothing = f'<p class="muted">Always zero, and not drawn: {escape(names)}.</p>' if zero else ""
    curves = above + grid(learning) if learning or rest else "<p>No metrics have been logged yet.</p>"
    return [
        section("Learning", curves),
        section("Diagnostics", grid(rest) + nothing),
        section("Speed", grid(speed)),
    ]


def _legend(runs: Sequence[RunRecord], over_seeds: bool) -> str:
    several = len(runs) > 1
    explained = "" if several else "Strong: running mean. Faint: each logged value."
    if over_seeds:
        explained = "Strong: mean over the seeds. Band: its 95 % bootstrap confidence interval."
        explained += "" if several else f" Thin: each seed, if there are at most {THIN_LINES}."
        explained += " Lines of many points are running means."
    legend = "".join(swatch(index, run.label) for index, run in enumerate(runs)) if several else ""
    return f'<p class="legend">{legend}</p><p class="muted">{explained}</p>'
