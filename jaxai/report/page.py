"""The report: what run folders hold, as one HTML file that opens offline, in light and dark.

The page loads nothing: styles are inline, charts are SVG that takes its colours from them, pictures are data URIs.
"""

import base64
import logging
import math
import string
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import jaxai
from jaxai.files.json_files import read_object
from jaxai.files.unwritten import writing
from jaxai.metrics import Meanings, is_number
from jaxai.report.charts import charts, grid, section, swatch
from jaxai.report.run_record import PICTURES, Record, RunRecord, declared_together, read_run
from jaxai.report.spread import mean_of, shown_keys, spread_of

__all__ = ["write_report"]

TEMPLATE = Path(__file__).with_name("page.html")
PICTURE_BYTES = 1_200_000  # in all, so that the page stays below 2 MB
TABLE_ROWS, TABLE_BYTES = 200, 300_000  # of one table; of all tables on the page
TILES = 3
"""Number of scores in the tiles at the top."""
LISTED = 50
"""Number of items of a list that are shown."""
PLAIN = Meanings({})
logger = logging.getLogger(__name__)


def write_report(runs: Path | str | Sequence[Path | str], output: Path | str | None = None) -> Path:
    """Writes one self-contained HTML page about one run, several runs side by side, or the seeds of a run.

    Args:
      runs: a run folder, or several. A folder with `seed-*` folders in it is one run with a mean and a spread.
      output: the HTML file; its folder is created if it is missing. None: `report.html` in the run folder, or in
        the working directory for several runs.

    Returns:
      The path of the HTML file.

    Raises:
      ValueError: no folder given, or a folder that is no run.
      ImportError: matplotlib is missing.
    """
    if not runs:
        raise ValueError("a report needs at least one run folder, got none")
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    loaded = [read_run(folder, label) for folder, label in zip(folders, _labels(folders), strict=True)]
    default = folders[0] / "report.html" if len(folders) == 1 else Path("report.html")
    output = default if output is None else Path(output)
    page = _page(loaded, folders)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8", errors="backslashreplace")
    return output


def _labels(folders: Sequence[Path]) -> list[str]:
    """Folder names, with the parents that make them differ."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({index + 1})" for index, label in enumerate(labels)]  # the same folder twice


def _page(runs: Sequence[RunRecord], folders: Sequence[Path]) -> str:
    several = len(runs) > 1
    first = runs[0]
    title = f"{len(runs)} runs side by side" if several else first.label
    names = {str(_flat(run.environment).get("devices.name", "")) for run in runs} - {""}
    seeds = "" if several else _seeds(first)
    subtitle = " · ".join(filter(None, [", ".join(sorted(names)), seeds]))
    notes = [f"{run.label}: {note}" if several else note for run in runs for note in run.notes]
    configs, environments = (
        [_flat(value) for value in values]
        for values in ([run.config for run in runs], [run.environment for run in runs])
    )
    body = [
        f'<header><p class="over">jaxai report</p><h1>{escape(title)}</h1>'
        f'<p class="muted">{escape(subtitle)}</p></header>',
        '<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>" if notes else "",
    ]
    if several:
        labels = [run.label for run in runs]
        body += [
            section("Results", _results(runs)),
            section("What differs in the configuration", _differences(labels, configs)),
        ]
        for what, records in {"data": [_flat(run.data) for run in runs], "environment": environments}.items():
            if any(record != records[0] for record in records):
                body.append(section(f"What differs in the {what}", _differences(labels, records)))
    else:
        body += [_tiles(first), section("Seeds", _results(first.seeds, marked=False) if first.seeds else "")]
    body += charts(runs)
    body.append(section("Pictures", _figures(runs)))
    body += _tables(runs, folders)
    if several:
        shared = {key: value for key, value in configs[0].items() if all(key in c and c[key] == value for c in configs)}
        body += [section("Configuration that all share", _fields(shared)), section("Model cards", _cards(runs))]
    else:
        body += [
            section("Final figures", _outcome(_flat(first.result), first.meanings)),
            section("Data", _fields(_flat(first.data))),
            section("Configuration", _fields(configs[0])),
            section("Environment", _fields(environments[0])),
            section("Model card", _cards(runs)),
        ]
    commands = [f"<pre><code>{escape(run.command)}</code></pre>" for run in runs if run.command]
    body.append(section("Command" if len(commands) == 1 else "Commands", "".join(commands)))
    page = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=escape(title), body="\n".join(filter(None, body)), version=jaxai.__version__)


def _tiles(run: RunRecord) -> str:
    """The few figures that a reader looks for first: scores, then what is declared as text, then the cost."""
    meanings, result = run.meanings, run.result
    scores = _scores(run)[:TILES]
    texts = [key for key in run.declared.metrics if isinstance(result.get(key), str)]
    costs = [key for key, metric in meanings.metrics.items() if metric.shown] if meanings.metrics else _costs(run)
    keys = [*scores, *texts, *(key for key in costs if is_number(result.get(key)))]
    tiles = []
    for key in dict.fromkeys(keys):
        deviation, interval, _ = spread_of(result, key, meanings)
        spread = ", ".join(filter(None, [interval or deviation, _seeds(run)])) if interval or deviation else ""
        floors = [floor for floor in meanings.floors(key) if not isinstance(floor, str) or is_number(result.get(floor))]
        lines = [spread, *(_floor(run, key, floor) for floor in floors[:1])]
        below = "".join(f'<p class="muted">{escape(line)}</p>' for line in lines if line)
        tiles.append(
            f'<div class="tile"><p class="muted">{escape(meanings.heading(key))}</p>'
            f'<p class="big{" name" * (key in texts)}">{escape(meanings.text(key, result[key]))}</p>{below}</div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _floor(run: RunRecord, key: str, floor: str | float) -> str:
    if isinstance(floor, str):
        return f"{run.meanings.label(floor)}: {run.meanings.text(floor, run.result[floor])}"
    return f"floor: {run.meanings.text(key, floor)}"


def _scores(run: RunRecord) -> list[str]:
    """Names of the figures in a result that measure how good the model is: the score of the run first.

    Those are metrics with a direction; in a run that declares nothing, what its evaluations measured.
    """
    meanings, declared = run.meanings, [*run.meanings.metrics]
    measured = {meanings.parse(key).metric for key in run.measured}
    main = meanings.parse(run.declared.score).metric

    def is_score(key: str) -> bool:
        parts = meanings.parse(key)
        directed = meanings.better(key) is not None and parts.metric in run.declared.metrics
        return is_number(run.result[key]) and (directed or (not declared and parts.metric in measured))

    def order(key: str) -> tuple[bool, bool, int]:
        parts = meanings.parse(key)
        return parts.best, parts.metric != main, declared.index(parts.metric) if declared else 0

    return sorted((key for key in shown_keys(run.result) if is_score(key)), key=order)


def _costs(run: RunRecord) -> list[str]:
    """Names of the speed and the times in the result of a run that declares nothing."""
    timed = {key for member in run.members for line in member.timing for key in line}
    return [key for key in run.result if key in timed or run.meanings.metric(key).unit == "s"]


def _seeds(run: RunRecord) -> str:
    """How many seeds a run has: those in its folders, or those that were trained in one program."""
    count = len(run.seeds) or run.result.get("seeds")
    count = len(count) if isinstance(count, list) else count
    return f"{count} seeds" if isinstance(count, int) and count > 1 else ""


def _figures(runs: Sequence[RunRecord]) -> str:
    """The pictures of the runs, embedded as long as the page stays small."""
    left, parts = PICTURE_BYTES, []
    for run in runs:
        cards = []
        for path, caption in run.pictures:
            data = path.read_bytes()
            if len(data) > left:
                cards.append(f'<p class="muted">{escape(caption)}: {escape(path.name)} is too large to embed.</p>')
                continue
            left -= len(data)
            source = base64.b64encode(data).decode()
            image = f'<img alt="{escape(caption)}" src="data:{PICTURES[path.suffix]};base64,{source}">'
            below = f"<figcaption>{escape(caption)}</figcaption>"
            cards.append(f'<figure class="card"><div class="paper">{image}</div>{below}</figure>')
        if cards:
            origin = f'<p class="muted">of {escape(run.seeds[0].label)}</p>' if run.seeds else ""
            heading = f"<h3>{escape(run.label)}</h3>" if len(runs) > 1 else ""
            parts.append(heading + origin + grid(cards, "pictures"))
    return "".join(parts)


def _tables(runs: Sequence[RunRecord], folders: Sequence[Path]) -> list[str]:
    """A section for each `tables/NAME.json` that a run folder holds, in the order of their names.

    A table is an object with `title`, `columns` (names), `rows` (a list of text and numbers each) and maybe `note`.
    """
    left, parts = TABLE_BYTES, []
    for run, folder in zip(runs, folders, strict=True):
        inside = sorted(folder.glob("tables/*.json")) or sorted(folder.glob("seed-*/tables/*.json"))
        inside = [
            path for path in inside if path.parent == inside[0].parent
        ]  # of the first seed alone, as pictures are
        for path in inside:
            title, content = _table_file(path, left, run.meanings)
            left -= len(content.encode())
            name = f"{title}: {run.label}" if len(runs) > 1 else title
            origin = f'<p class="muted">of {escape(path.parents[1].name)}</p>' if run.seeds else ""
            parts.append(section(name, origin + content))
    return parts


def _table_file(path: Path, bytes_left: int, meanings: Meanings) -> tuple[str, str]:
    """Title and HTML of one table; a line that says so where it cannot be read or is too long."""
    try:
        table = read_object(path)
        title, columns, note = str(table["title"]), [str(name) for name in table["columns"]], str(table.get("note", ""))
        rows = [list(row) for row in table["rows"]]
        if any(len(row) != len(columns) for row in rows):
            raise ValueError("a row of another length than the columns")
    except (ValueError, KeyError, TypeError, AttributeError) as damage:
        logger.warning("%s could not be read as a table (%r)", path, damage)
        return path.stem.replace("_", " ").capitalize(), f'<p class="muted">{escape(path.name)} could not be read.</p>'
    cells: list[list[str]] = []
    for row in rows[:TABLE_ROWS]:
        # bdi: text may run from right to left, and then does so by itself.
        cells.append([f"<bdi>{escape(meanings.text(*cell))}</bdi>" for cell in zip(columns, row, strict=True)])
        bytes_left -= sum(len(cell.encode()) for cell in cells[-1]) + 20 * len(row) + 20
        if bytes_left < 0:
            cells.pop()
            break
    lines = [note] if note else []
    if len(cells) < len(rows):
        lines.append(f"{len(cells):,} of {len(rows):,} rows; all are in tables/{path.name}.")
    notes = "".join(f'<p class="muted">{escape(line)}</p>' for line in lines)
    return title, notes + (_table([meanings.heading(name) for name in columns], cells) if cells else "")


def _results(runs: Sequence[RunRecord], marked: bool = True) -> str:
    """Final figures, a row for each run; where it is `marked`, the best value of a column is bold."""
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
    return _table(["Run", *map(meanings.heading, keys)], rows, "results") + note if keys else ""


def _best(runs: Sequence[RunRecord], key: str, meanings: Meanings) -> float | None:
    """The best value of several; None where no direction is declared, or all are equal."""
    values = [mean_of(run.result, key) for run in runs]
    numbers = [value for value in values if is_number(value) and math.isfinite(value)]
    better = meanings.better(key)
    if better is None or len({*numbers}) < 2:
        return None
    return max(numbers) if better == "higher" else min(numbers)


def _outcome(result: Record, meanings: Meanings) -> str:
    """Final figures of one run, a row for each."""
    rows = []
    for key in shown_keys(result):
        better = meanings.better(key)
        direction = f"<small>{better} is better</small>" if better else ""
        label = escape(meanings.heading(key)) + direction
        rows.append([f"<code>{escape(key)}</code>", label, _cell(result, key, meanings)])
    return _table([], rows) if rows else ""


def _cell(result: Record, key: str, meanings: Meanings, bold: bool = False) -> str:
    """A figure with its spread; the interval and the seeds in small print."""
    if key not in result:
        return "-"
    deviation, *small = spread_of(result, key, meanings)
    text = escape(" ".join(filter(None, [meanings.text(key, mean_of(result, key)), deviation])))
    text = f"<b>{text}</b>" if bold else text
    return text + "".join(f"<small>{escape(line)}</small>" for line in small if line)


def _fields(record: Record) -> str:
    rows = [[f"<code>{escape(key)}</code>", escape(_value(key, value))] for key, value in record.items()]
    return _table([], rows) if rows else ""


def _value(key: str, value: Any) -> str:
    """A value of a configuration or of the data; of a long list its beginning."""
    if isinstance(value, list) and len(value) > LISTED:
        return f"{PLAIN.text(key, value[:LISTED])} and {len(value) - LISTED:,} more"
    return PLAIN.text(key, value)


def _cards(runs: Sequence[RunRecord]) -> str:
    """The model cards, folded up."""
    return "".join(
        f"<details><summary>{escape(run.label)}/README.md</summary><pre>{escape(run.card)}</pre></details>"
        for run in runs
        if run.card
    )


def _differences(labels: Sequence[str], records: Sequence[Record]) -> str:
    """The fields that are not the same everywhere, a row a field."""
    missing = object()
    rows = [
        [f"<code>{escape(key)}</code>", *(escape(_value(key, record.get(key, "-"))) for record in records)]
        for key in dict.fromkeys(key for record in records for key in record)
        if any(record.get(key, missing) != records[0].get(key, missing) for record in records)
    ]
    return _table(["Field", *labels], rows) if rows else '<p class="muted">Nothing.</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table. `head`: text; `rows`: HTML."""
    top = f"<thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="{f"scroll {kind}".strip()}"><table>{top}<tbody>{body}</tbody></table></div>'


def _flat(record: Record, prefix: str = "") -> Record:
    flat: Record = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
