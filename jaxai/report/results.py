"""The results of runs as HTML: tiles with the first figures, a table of several runs, all figures of one run."""

import math
from collections.abc import Sequence
from html import escape

from jaxai.metrics import Meanings, is_number
from jaxai.report.elements import swatch, table
from jaxai.report.run_record import Record, RunRecord, declared_together
from jaxai.report.spread import mean_of, shown_keys, spread_of

__all__ = ["outcome", "results", "seeds_of", "tiles"]

TILES = 3
"""Number of scores in the tiles at the top."""


def tiles(run: RunRecord) -> str:
    """The most important figures: scores, then figures declared as text, then the costs."""
    meanings, result = run.meanings, run.result
    scores = _scores(run)[:TILES]
    texts = [key for key in run.declared.metrics if isinstance(result.get(key), str)]
    costs = [key for key, metric in meanings.metrics.items() if metric.shown] if meanings.metrics else _costs(run)
    keys = [*scores, *texts, *(key for key in costs if is_number(result.get(key)))]
    found = []
    for key in dict.fromkeys(keys):
        deviation, interval, _ = spread_of(result, key, meanings)
        spread = ", ".join(filter(None, [interval or deviation, seeds_of(run)])) if interval or deviation else ""
        floors = [floor for floor in meanings.floors(key) if not isinstance(floor, str) or is_number(result.get(floor))]
        lines = [spread, *(_floor(run, key, floor) for floor in floors[:1])]
        below = "".join(f'<p class="muted">{escape(line)}</p>' for line in lines if line)
        found.append(
            f'<div class="tile"><p class="muted">{escape(meanings.heading(key))}</p>'
            f'<p class="big{" name" * (key in texts)}">{escape(meanings.text(key, result[key]))}</p>{below}</div>'
        )
    return f'<div class="tiles">{"".join(found)}</div>' if found else ""


def _floor(run: RunRecord, key: str, floor: str | float) -> str:
    if isinstance(floor, str):
        return f"{run.meanings.label(floor)}: {run.meanings.text(floor, run.result[floor])}"
    return f"floor: {run.meanings.text(key, floor)}"


def _scores(run: RunRecord) -> list[str]:
    """Names of the figures in a result that measure how good the model is: the score of the run first.

    Those are metrics with a direction; in a run without declarations, figures with an interval, then evaluation
    metrics.
    """
    keys = [key for key in shown_keys(run.result) if is_number(run.result[key])]
    meanings, declared = run.meanings, [*run.meanings.metrics]
    if not declared:
        measured = {meanings.parse(key).metric for key in run.measured}
        certain = [key for key in keys if spread_of(run.result, key, meanings)[1]]
        return list(dict.fromkeys([*certain, *(key for key in keys if meanings.parse(key).metric in measured)]))
    main = meanings.parse(run.declared.score).metric

    def order(key: str) -> tuple[bool, bool, int]:
        parts = meanings.parse(key)
        return parts.best, parts.metric != main, declared.index(parts.metric)

    return sorted(
        (k for k in keys if meanings.better(k) and meanings.parse(k).metric in run.declared.metrics), key=order
    )


def _costs(run: RunRecord) -> list[str]:
    """Names of the speed and the times in the result of a run that declares nothing."""
    timed = {key for member in run.members for line in member.timing for key in line}
    return [key for key in run.result if key in timed or run.meanings.metric(key).unit == "s"]


def seeds_of(run: RunRecord) -> str:
    """The number of seeds of a run, in folders or in one program, as text; "" for a single one."""
    count = len(run.seeds) or run.result.get("seeds")
    count = len(count) if isinstance(count, list) else count
    return f"{count} seeds" if isinstance(count, int) and count > 1 else ""


def results(runs: Sequence[RunRecord], marked: bool = True) -> str:
    """Final figures, a row for each run; if `marked`, the best value of each column is bold."""
    meanings = declared_together(runs)
    scores = [key for run in runs for key in _scores(run)]
    texts = [key for key in meanings.metrics if any(isinstance(run.result.get(key), str) for run in runs)]
    others = [key for run in runs for key in shown_keys(run.result)]
    others = [key for key in others if any(is_number(mean_of(run.result, key)) for run in runs)]
    keys = list(dict.fromkeys([*scores, *texts, *others]))
    best = {key: _best(runs, key, meanings) if marked else None for key in keys}
    rows = []
    for index, run in enumerate(runs):
        values = {key: mean_of(run.result, key) for key in keys}
        bold = {key for key in keys if best[key] is not None and values[key] == best[key]}
        rows.append([swatch(index, run.label), *(_cell(run.result, key, meanings, key in bold) for key in keys)])
    anything = any(value is not None for value in best.values())
    note = '<p class="muted">Bold: the best of its column.</p>' if anything else ""
    return table(["Run", *map(meanings.heading, keys)], rows, "results") + note if keys else ""


def _best(runs: Sequence[RunRecord], key: str, meanings: Meanings) -> float | None:
    """The best value of several; None if no direction is declared, or all are equal."""
    values = [mean_of(run.result, key) for run in runs]
    numbers = [value for value in values if is_number(value) and math.isfinite(value)]
    better = meanings.better(key)
    if better is None or len({*numbers}) < 2:
        return None
    return max(numbers) if better == "higher" else min(numbers)


def outcome(result: Record, meanings: Meanings) -> str:
    """Final figures of one run, a row for each."""
    rows = []
    for key in shown_keys(result):
        better = meanings.better(key)
        direction = f"<small>{better} is better</small>" if better else ""
        label = escape(meanings.heading(key)) + direction
        rows.append([f"<code>{escape(key)}</code>", label, _cell(result, key, meanings)])
    return table([], rows) if rows else ""


def _cell(result: Record, key: str, meanings: Meanings, bold: bool = False) -> str:
    """A figure with its spread; the interval and the seeds in small print."""
    if key not in result:
        return "-"
    deviation, *small = spread_of(result, key, meanings)
    text = escape(" ".join(filter(None, [meanings.text(key, mean_of(result, key)), deviation])))
    text = f"<b>{text}</b>" if bold else text
    return text + "".join(f"<small>{escape(line)}</small>" for line in small if line)
