"""The report: what run folders hold, as one HTML file that opens offline, in light and dark.

The page loads nothing: styles are inline, charts are SVG that takes its colours from them, pictures are data URIs.
"""

import base64
import html
import math
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxai
from jaxai.runtime import pictures
from jaxai.runtime.pictures import Curve
from jaxai.runtime.run_record import SPLITS, Record, Run, is_number, read_run

OPTIMISATION = ("learning_rate", "grad_norm")
SPEED = ("examples_per_second_per_chip", "data_wait", "mfu")
COSTS = ("examples_per_second_per_chip", "mfu", "seconds", "compile_seconds", "steps", "parameters")
CLOCKS = ("step", "epoch", "seconds", "time")
NAMES = {
    "mfu": "MFU",
    "seconds": "time",
    "compile_seconds": "compile time",
    "data_wait": "wait for data",
    "grad_norm": "gradient norm",
    "examples_per_second_per_chip": "examples/s/chip",
}
SPREAD = ("_std", "_per_seed")
TEMPLATE = Path(__file__).with_name("report.html")
PICTURE_BYTES = 1_200_000  # in all, so that the page stays below 2 MB


def write_report(runs: Sequence[Path], output: Path) -> Path:
    """Writes one self-contained HTML page about one run, several runs side by side, or the seeds of a run.

    Args:
      runs: run folders. A folder with `seed-*` folders in it is one run with a mean and a spread.
      output: the HTML file; its folder is made where it is missing.

    Returns:
      `output`.

    Raises:
      ValueError: no folder given, a folder is no run, or matplotlib is missing.
    """
    if not runs:
        raise ValueError("a report needs at least one run folder, got none")
    folders = [Path(run) for run in runs]
    loaded = [read_run(folder, label) for folder, label in zip(folders, _labels(folders), strict=True)]
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(_page(loaded), encoding="utf-8")
    return output


def _labels(folders: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents in front as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({index + 1})" for index, label in enumerate(labels)]  # the same folder twice


def _page(runs: Sequence[Run]) -> str:
    several = len(runs) > 1
    first = runs[0]
    title = f"{len(runs)} runs side by side" if several else first.label
    names = {str(_flat(run.environment).get("devices.name", "")) for run in runs} - {""}
    seeds = f"{len(first.seeds)} seeds" if first.seeds and not several else ""
    subtitle = " · ".join(filter(None, [", ".join(sorted(names)), seeds]))
    notes = [f"{run.label}: {note}" if several else note for run in runs for note in run.notes]
    configs, environments = (
        [_flat(value) for value in values]
        for values in ([run.config for run in runs], [run.environment for run in runs])
    )
    body = [
        f'<header><p class="over">jaxai report</p><h1>{_e(title)}</h1><p class="muted">{_e(subtitle)}</p></header>',
        '<ul class="notes">' + "".join(f"<li>{_e(note)}</li>" for note in notes) + "</ul>" if notes else "",
    ]
    if several:
        labels = [run.label for run in runs]
        body += [
            _section("Results", _results(runs)),
            _section("What differs in the configuration", _differences(labels, configs)),
        ]
        if any(environment != environments[0] for environment in environments):
            body.append(_section("What differs in the environment", _differences(labels, environments)))
    else:
        body += [_tiles(first), _section("Seeds", _results(first.seeds) if first.seeds else "")]
    body += _charts(runs)
    body.append(_section("Pictures", _figures(runs)))
    if several:
        shared = {key: value for key, value in configs[0].items() if all(key in c and c[key] == value for c in configs)}
        body.append(_section("Configuration that all share", _fields(shared)))
    else:
        body += [
            _section("Final figures", _fields(_flat(first.result))),
            _section("Configuration", _fields(configs[0])),
            _section("Environment", _fields(environments[0])),
        ]
    commands = [f"<pre><code>{_e(run.command)}</code></pre>" for run in runs if run.command]
    body.append(_section("Command" if len(commands) == 1 else "Commands", "".join(commands)))
    page = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=_e(title), body="\n".join(filter(None, body)), version=jaxai.__version__)


def _tiles(run: Run) -> str:
    """The few figures that a reader looks for first."""
    scores = [key for key in run.result if _split(key) and not key.endswith(SPREAD) and is_number(run.result[key])]
    scores.sort(key=lambda key: ("accuracy" not in key, SPLITS.index(_split(key))))
    tiles = []
    for key in [*scores[:3], *(key for key in COSTS if is_number(run.result.get(key)))]:
        spread = run.result.get(key + "_std")
        plus = f"± {_value(key, spread)}, {len(run.seeds)} seeds"
        below = f'<p class="muted">{_e(plus)}</p>' if is_number(spread) else ""
        tiles.append(
            f'<div class="tile"><p class="muted">{_e(_words(key))}</p><p class="big">{_e(_value(key, run.result[key]))}'
            f"</p>{below}</div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _charts(runs: Sequence[Run]) -> list[str]:
    """Sections of charts. One run has training and test in one chart; several have a chart for each figure."""
    several = len(runs) > 1
    members = [seed for run in runs for seed in run.seeds or [run]]
    keys = _keys(seed.metrics for seed in members)
    groups: dict[str, list[str]] = {}
    for key in sorted(keys, key=lambda key: ("loss" not in key, "accuracy" not in key, several and not _split(key))):
        if key not in OPTIMISATION:
            groups.setdefault(key if several else key.removeprefix(_split(key)), []).append(key)
    learning = [_chart(title, group, runs, "metrics") for title, group in groups.items()]
    optimisation = [_chart(key, [key], runs, "metrics") for key in OPTIMISATION if key in keys]
    timed = _keys(seed.timing for seed in members)
    speed = [_chart(key, [key], runs, "timing") for key in SPEED if key in timed]
    explained = "" if several else "Strong: running mean. Faint: each logged value."
    if any(run.seeds for run in runs):
        explained = "Strong: mean over the seeds. Band: from the lowest to the highest."
        explained += "" if several else " Thin: each seed."
    legend = "".join(_swatch(index, run.label) for index, run in enumerate(runs)) if several else ""
    above = f'<p class="legend">{legend}</p><p class="muted">{explained}</p>'
    return [
        _section("Learning", (above + _grid(learning)) if learning else "<p>No metrics have been logged yet.</p>"),
        _section("Optimisation", _grid(optimisation)),
        _section("Speed", _grid(speed)),
    ]


def _chart(title: str, keys: Sequence[str], runs: Sequence[Run], source: str) -> str:
    """One chart as a card. `source`: the field of a run, metrics or timing, that the keys are looked up in."""
    lines: list[Curve] = []
    lost = 0
    for index, run in enumerate(runs):
        for key in keys:
            histories = [_history(getattr(seed, source), key) for seed in run.seeds or [run]]
            lost += sum(int(np.isnan(y).sum()) for _, y in histories)
            series = index if len(runs) > 1 else _series(key)
            lines += pictures.seed_curves(
                [(x[~np.isnan(y)], y[~np.isnan(y)]) for x, y in histories], series, markers=bool(_split(key))
            )
    if len(runs) > 1:
        lines = [line for line in lines if not line.faint] or lines
    low, high = min(float(line.y.min()) for line in lines), max(float(line.y.max()) for line in lines)
    log = ("loss" in title or "norm" in title) and low > 0 and high > 30 * low
    svg = pictures.curves_svg(lines, title=_words(title), percent=_is_share(title), log=log)
    names = [_swatch(_series(key), _split(key).removesuffix("_") or "training") for key in keys]
    legend = f"<span>{''.join(names)}</span>" if len(keys) > 1 else ""
    note = f'<p class="muted">Left out, for it is not finite: {lost} of the values.</p>' if lost else ""
    scale = ' <span class="muted">log scale</span>' if log else ""
    heading = f"<figcaption><h3>{_e(_words(title))}{scale}</h3>{legend}</figcaption>"
    return f'<figure class="card">{heading}{svg}{note}</figure>'


def _history(records: Iterable[Record], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps in rising order and values, both [points]; NaN for a value that was not finite, which JSON cannot hold."""
    values = {record["step"]: record[key] for record in records if key in record}
    steps = sorted(values)
    y = np.asarray([values[step] if is_number(values[step]) else math.nan for step in steps], float)
    return np.asarray(steps, int), np.where(np.isfinite(y), y, math.nan)


def _figures(runs: Sequence[Run]) -> str:
    """The pictures of the runs, embedded as long as the page stays small."""
    left, parts = PICTURE_BYTES, []
    for run in runs:
        cards = []
        for path, caption in run.pictures:
            data = path.read_bytes()
            if len(data) > left:
                cards.append(f'<p class="muted">{_e(caption)}: {_e(path.name)} is too large to embed.</p>')
                continue
            left -= len(data)
            source = base64.b64encode(data).decode()
            image = f'<img alt="{_e(caption)}" src="data:image/png;base64,{source}">'
            cards.append(
                f'<figure class="card"><div class="paper">{image}</div><figcaption>{_e(caption)}</figcaption></figure>'
            )
        if cards:
            origin = f'<p class="muted">of {_e(run.seeds[0].label)}</p>' if run.seeds else ""
            heading = f"<h3>{_e(run.label)}</h3>" if len(runs) > 1 else ""
            parts.append(heading + origin + _grid(cards, "pictures"))
    return "".join(parts)


def _results(runs: Sequence[Run]) -> str:
    """Final figures, a row a run."""
    keys = list(dict.fromkeys(key for run in runs for key, value in run.result.items() if is_number(value)))
    keys = [key for key in keys if not key.endswith(SPREAD)]
    keys.sort(key=lambda key: (not key.startswith(SPLITS), "accuracy" not in key))
    rows = []
    for index, run in enumerate(runs):
        cells = []
        for key in keys:
            spread = run.result.get(key + "_std")
            plus = f" ± {_value(key, spread)}" if is_number(spread) else ""
            cells.append(_value(key, run.result.get(key, "-")) + plus)
        rows.append([_swatch(index, run.label), *map(_e, cells)])
    return _table(["Run", *map(_words, keys)], rows) if keys else ""


def _differences(labels: Sequence[str], records: Sequence[Record]) -> str:
    """The fields that are not the same everywhere, a row a field."""
    missing = object()
    rows = [
        [f"<code>{_e(key)}</code>", *(_e(_value(key, record.get(key, "-"))) for record in records)]
        for key in dict.fromkeys(key for record in records for key in record)
        if any(record.get(key, missing) != records[0].get(key, missing) for record in records)
    ]
    return _table(["Field", *labels], rows) if rows else '<p class="muted">Nothing.</p>'


def _fields(record: Record) -> str:
    rows = [[f"<code>{_e(key)}</code>", _e(_value(key, value))] for key, value in record.items()]
    return _table([], rows) if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table. `head`: text; `rows`: HTML."""
    top = f"<thead><tr>{''.join(f'<th>{_e(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_e(title)}</h2>{content}</section>" if content else ""


def _grid(cards: Sequence[str], kind: str = "charts") -> str:
    return f'<div class="{kind}">{"".join(cards)}</div>' if cards else ""


def _swatch(series: int, label: str) -> str:
    colour = f"var(--series-{series % len(pictures.PALETTE)})"
    return f'<span class="swatch"><i style="background:{colour}"></i>{_e(label)}</span>'


def _keys(histories: Iterable[list[Record]]) -> list[str]:
    found = dict.fromkeys(
        key for records in histories for record in records for key in record if is_number(record[key])
    )
    return [key for key in found if key not in CLOCKS]


def _split(key: str) -> str:
    """The prefix of an evaluation figure; empty for one of training."""
    return next((prefix for prefix in SPLITS if key.startswith(prefix)), "")


def _series(key: str) -> int:
    """Colour of a figure where there is one run: training, test, validation."""
    return ("", *SPLITS).index(_split(key))


def _flat(record: Record, prefix: str = "") -> Record:
    flat: Record = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _value(key: str, value: Any) -> str:
    """A value as a reader wants it: shares in percent, seconds as time, thousands apart."""
    if isinstance(value, list | tuple):
        return ", ".join(_value(key, item) for item in value)
    if value is None:
        return "none"
    if not _is_finite(value):
        return str(value)
    if _is_share(key) and 0 <= value <= 1:
        return f"{100 * value:.2f} %"
    if key.endswith("seconds"):
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return (
            f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{value:.3g} s"
        )
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _is_share(key: str) -> bool:
    return "accuracy" in key or key in ("data_wait", "mfu")


def _words(key: str) -> str:
    """A figure's name as a heading."""
    words = NAMES.get(key, key.replace("_", " "))
    return words[:1].upper() + words[1:]


def _e(text: str) -> str:
    return html.escape(str(text))
