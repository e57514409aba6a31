"""The report: the content of run folders as one HTML file that opens offline, in light and dark.

The page loads nothing: styles are inline, charts are SVG that takes its colours from them, pictures are data URIs.
"""

import base64
import logging
import string
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import jaxai
from jaxai.files.json_files import read_object
from jaxai.files.unwritten import writing
from jaxai.metrics import Meanings
from jaxai.report.charts import charts
from jaxai.report.elements import grid, section, table
from jaxai.report.results import outcome, results, seeds_of, tiles
from jaxai.report.run_record import PICTURES, Record, RunRecord, read_run

__all__ = ["write_report"]

TEMPLATE = Path(__file__).with_name("page.html")
PICTURE_BYTES = 1_200_000  # in total, so that the page stays below 2 MB
TABLE_ROWS, TABLE_BYTES = 200, 300_000  # of one table; of all tables on the page
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
    seeds = "" if several else seeds_of(first)
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
            section("Results", results(runs)),
            section("What differs in the configuration", _differences(labels, configs)),
        ]
        for what, records in {"data": [_flat(run.data) for run in runs], "environment": environments}.items():
            if any(record != records[0] for record in records):
                body.append(section(f"What differs in the {what}", _differences(labels, records)))
    else:
        body += [tiles(first), section("Seeds", results(first.seeds, marked=False) if first.seeds else "")]
    body += charts(runs)
    body.append(section("Pictures", _figures(runs)))
    body += _tables(runs, folders)
    if several:
        shared = {key: value for key, value in configs[0].items() if all(key in c and c[key] == value for c in configs)}
        body += [section("Configuration that all share", _fields(shared)), section("Model cards", _cards(runs))]
    else:
        body += [
            section("Final figures", outcome(_flat(first.result), first.meanings)),
            section("Data", _fields(_flat(first.data))),
            section("Configuration", _fields(configs[0])),
            section("Environment", _fields(environments[0])),
            section("Model card", _cards(runs)),
        ]
    commands = [f"<pre><code>{escape(run.command)}</code></pre>" for run in runs if run.command]
    body.append(section("Command" if len(commands) == 1 else "Commands", "".join(commands)))
    page = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=escape(title), body="\n".join(filter(None, body)), version=jaxai.__version__)


def _figures(runs: Sequence[RunRecord]) -> str:
    """The pictures of the runs, embedded while the page stays small."""
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
    """A section for each `tables/NAME.json` in a run folder, in the order of their names.

    A table is an object with `title`, `columns` (names), `rows` (lists of text and numbers) and an optional `note`.
    """
    left, parts = TABLE_BYTES, []
    for run, folder in zip(runs, folders, strict=True):
        inside = sorted(folder.glob("tables/*.json")) or sorted(folder.glob("seed-*/tables/*.json"))
        inside = [path for path in inside if path.parent == inside[0].parent]  # only of the first seed, like pictures
        for path in inside:
            title, content = _table_file(path, left, run.meanings)
            left -= len(content.encode())
            name = f"{title}: {run.label}" if len(runs) > 1 else title
            origin = f'<p class="muted">of {escape(path.parents[1].name)}</p>' if run.seeds else ""
            parts.append(section(name, origin + content))
    return parts


def _table_file(path: Path, bytes_left: int, meanings: Meanings) -> tuple[str, str]:
    """Title and HTML of one table, with a line about it if it cannot be read or is too long."""
    try:
        stored = read_object(path)
        title, note = str(stored["title"]), str(stored.get("note", ""))
        columns, rows = [str(name) for name in stored["columns"]], [list(row) for row in stored["rows"]]
        if any(len(row) != len(columns) for row in rows):
            raise ValueError("a row and the columns differ in length")
    except (ValueError, KeyError, TypeError, AttributeError) as damage:
        logger.warning("%s could not be read as a table (%r)", path, damage)
        return path.stem.replace("_", " ").capitalize(), f'<p class="muted">{escape(path.name)} could not be read.</p>'
    cells: list[list[str]] = []
    for row in rows[:TABLE_ROWS]:
        # bdi: text from right to left keeps its own direction.
        cells.append([f"<bdi>{escape(meanings.text(*cell))}</bdi>" for cell in zip(columns, row, strict=True)])
        bytes_left -= sum(len(cell.encode()) for cell in cells[-1]) + 20 * len(row) + 20
        if bytes_left < 0:
            cells.pop()
            break
    lines = [note] if note else []
    if len(cells) < len(rows):
        lines.append(f"{len(cells):,} of {len(rows):,} rows; all are in tables/{path.name}.")
    notes = "".join(f'<p class="muted">{escape(line)}</p>' for line in lines)
    return title, notes + (table([meanings.heading(name) for name in columns], cells) if cells else "")


def _fields(record: Record) -> str:
    rows = [[f"<code>{escape(key)}</code>", escape(_value(key, value))] for key, value in record.items()]
    return table([], rows) if rows else ""


def _value(key: str, value: Any) -> str:
    """A value of a configuration or of the data; a long list is shortened."""
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
    """The fields that differ between runs, a row for each."""
    missing = object()
    rows = [
        [f"<code>{escape(key)}</code>", *(escape(_value(key, record.get(key, "-"))) for record in records)]
        for key in dict.fromkeys(key for record in records for key in record)
        if any(record.get(key, missing) != records[0].get(key, missing) for record in records)
    ]
    return table(["Field", *labels], rows) if rows else '<p class="muted">Nothing.</p>'


def _flat(record: Record, prefix: str = "") -> Record:
    flat: Record = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
