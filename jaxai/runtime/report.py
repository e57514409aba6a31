"""The report: what run folders hold, as one HTML file that opens offline, in light and dark.

The page loads nothing: styles are inline, charts are SVG that takes its colours from them, pictures are data URIs.
"""

import base64
import dataclasses
import html
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxai
from jaxai.runtime import pictures
from jaxai.runtime.pictures import Curve

SPLITS = ("test_", "validation_")
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
PICTURE_BYTES = 1_200_000  # in all, so that the page stays below 2 MB

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder holds; what is missing is empty and told in `notes`."""

    label: str
    config: Record
    environment: Record
    command: str
    result: Record
    metrics: list[Record]
    timing: list[Record]
    pictures: list[tuple[Path, str]]
    seeds: list["Run"]
    notes: list[str]


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


def read_run(folder: Path, label: str | None = None) -> Run:
    """Reads a run folder. A run that was interrupted is read as far as it came.

    Raises:
      ValueError: the folder is no run.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no run: there is no such folder; give one that jaxai train --workdir has written"
        )
    seeds = [
        read_run(seed)
        for seed in sorted(folder.glob("seed-*"), key=lambda seed: (len(seed.name), seed.name))
        if (seed / "config.json").is_file()
    ]
    if not seeds and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} is no run: it holds no config.json; give a folder that jaxai train --workdir has written"
        )
    notes: list[str] = []
    result = _read_json(folder / "result.json", notes)
    metrics = _read_lines(folder / "metrics.jsonl", notes)
    if seeds:
        notes += [f"{seed.label}: {note}" for seed in seeds for note in seed.notes]
        result = result or _spread([seed.result for seed in seeds if seed.result])
    elif not result:
        steps = [record["step"] for record in metrics]
        progress = f"its last logged step is {max(steps):,}" if steps else "it has logged nothing yet"
        notes.insert(0, f"The run has not finished (no result.json): {progress}.")
    command = folder / "command.txt"
    return Run(
        label=label or folder.resolve().name,
        config=_read_json(folder / "config.json", notes) or (seeds[0].config if seeds else {}),
        environment=_read_json(folder / "environment.json", notes) or (seeds[0].environment if seeds else {}),
        command=command.read_text(encoding="utf-8", errors="replace").strip() if command.is_file() else "",
        result=result,
        metrics=metrics,
        timing=_read_lines(folder / "timing.jsonl", notes),
        pictures=_read_pictures(folder / "pictures", notes) or (seeds[0].pictures if seeds else []),
        seeds=seeds,
        notes=notes,
    )


def _labels(folders: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents in front as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({index + 1})" for index, label in enumerate(labels)]  # the same folder twice


def _read_json(path: Path, notes: list[str]) -> Record:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    notes.append(f"{path.name} could not be read: it is no JSON object.")
    return {}


def _read_lines(path: Path, notes: list[str]) -> list[Record]:
    if not path.is_file():
        return []
    records, broken = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
        else:
            broken += bool(line.strip())
    if broken:
        notes.append(f"{path.name}: {broken} line{'s' * (broken > 1)} could not be read and were left out.")
    return records


def _read_pictures(folder: Path, notes: list[str]) -> list[tuple[Path, str]]:
    captions = _read_json(folder / "captions.json", notes)
    found = {path.name: path for path in sorted(folder.glob("*.png"))}
    names = [name for name in captions if name in found] + [name for name in found if name not in captions]
    return [(found[name], str(captions.get(name, found[name].stem.replace("_", " ")))) for name in names]


def _spread(results: Sequence[Record]) -> Record:
    """Mean, sample standard deviation and values of the figures that all results have."""
    spread: Record = {}
    for key in results[0] if results else ():
        values = [result.get(key) for result in results]
        if all(_is_number(value) for value in values):
            numbers = [float(value) for value in values if value is not None]
            spread[key] = float(np.mean(numbers))
            if key.startswith(SPLITS):
                spread[key + "_std"] = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
                spread[key + "_per_seed"] = numbers
    return spread


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
    return PAGE.format(title=_e(title), style=STYLE, body="\n".join(filter(None, body)), version=jaxai.__version__)


def _tiles(run: Run) -> str:
    """The few figures that a reader looks for first."""
    scores = [key for key in run.result if _split(key) and not key.endswith(SPREAD) and _is_number(run.result[key])]
    scores.sort(key=lambda key: ("accuracy" not in key, SPLITS.index(_split(key))))
    tiles = []
    for key in [*scores[:3], *(key for key in COSTS if _is_number(run.result.get(key)))]:
        spread = run.result.get(key + "_std")
        plus = f"± {_value(key, spread)}, {len(run.seeds)} seeds"
        below = f'<p class="muted">{_e(plus)}</p>' if _is_number(spread) else ""
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
    y = np.asarray([values[step] if _is_number(values[step]) else math.nan for step in steps], float)
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
    keys = list(dict.fromkeys(key for run in runs for key, value in run.result.items() if _is_number(value)))
    keys = [key for key in keys if not key.endswith(SPREAD)]
    keys.sort(key=lambda key: (not key.startswith(SPLITS), "accuracy" not in key))
    rows = []
    for index, run in enumerate(runs):
        cells = []
        for key in keys:
            spread = run.result.get(key + "_std")
            plus = f" ± {_value(key, spread)}" if _is_number(spread) else ""
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
        key for records in histories for record in records for key in record if _is_number(record[key])
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_share(key: str) -> bool:
    return "accuracy" in key or key in ("data_wait", "mfu")


def _words(key: str) -> str:
    """A figure's name as a heading."""
    words = NAMES.get(key, key.replace("_", " "))
    return words[:1].upper() + words[1:]


def _e(text: str) -> str:
    return html.escape(str(text))


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title} · jaxai report</title>
<style>{style}</style>
</head>
<body>
{body}
<footer class="muted">Written by jaxai {version}. This page loads nothing from elsewhere.</footer>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --page: #f5f7fa; --card: #fff; --ink: #20262e; --muted: #687280; --rule: #e3e7ec;
  --accent: #2563eb; --warn: #fff6e0; --warn-edge: #e0a100;
  --series-0: #2563eb; --series-1: #e4572e; --series-2: #12875f; --series-3: #8e44ad; --series-4: #c98a00;
  --series-5: #0e8fb0; --series-6: #c2306e; --series-7: #5b6470; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161c; --card: #1b212a; --ink: #e8ecf1; --muted: #98a3b1; --rule: #313a46;
    --accent: #7aa7ff; --warn: #33290f; --warn-edge: #d9a520;
    --series-0: #7aa7ff; --series-1: #ff8d6b; --series-2: #4fd1a0; --series-3: #c792ea; --series-4: #f2c14e;
    --series-5: #5fd0ea; --series-6: #ff85b3; --series-7: #a9b4c2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 2.5rem 1.5rem 3rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { margin: 2.75rem 0 .75rem; font-size: 1.2rem; letter-spacing: -.01em; }
h3 { margin: 0; font-size: .95rem; font-weight: 600; }
p { margin: 0 0 .5rem; } .muted { color: var(--muted); font-size: .85rem; font-weight: 400; }
.over { margin: 0 0 .25rem; color: var(--accent); font-size: .78rem; font-weight: 600; letter-spacing: .08em;
  text-transform: uppercase; }
.notes { margin: 1.25rem 0 0; padding: .75rem 1rem .75rem 2rem; background: var(--warn); border-radius: 8px;
  border-left: 4px solid var(--warn-edge); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: .7rem; margin-top: 1.5rem; }
.tile, .card, .scroll { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.tile { padding: .8rem .85rem; } .tile p { margin: 0; }
.tile .big { font-size: 1.3rem; font-weight: 650; letter-spacing: -.02em; white-space: nowrap; }
.tile:first-child .big { color: var(--accent); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: .9rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .9rem; align-items: flex-start; }
.card { margin: 0; padding: 1rem 1.1rem; } .charts .card:only-child { max-width: 620px; }
.pictures .card { max-width: 100%; width: fit-content; } .pictures figcaption { padding-top: .6rem; }
.card figcaption { display: flex; justify-content: space-between; flex-wrap: wrap; gap: .25rem 1rem; }
.card svg { display: block; width: 100%; height: auto; margin-top: .4rem; }
.card svg text { font-family: inherit !important; }
.paper { background: #fff; border-radius: 6px; padding: .4rem; } .paper img { display: block; max-width: 100%; }
.swatch { display: inline-flex; align-items: center; gap: .4rem; margin-right: .9rem; font-size: .85rem; }
.swatch i { width: .9rem; height: .25rem; border-radius: 2px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem 1rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
th { color: var(--muted); font-size: .82rem; font-weight: 500; white-space: nowrap; }
tr:last-child td { border-bottom: 0; } td { overflow-wrap: break-word; max-width: 46rem; }
code, pre { font: .86rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: 0 0 .6rem; padding: .8rem 1rem; overflow-x: auto; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; }
footer { margin-top: 3rem; }
"""
