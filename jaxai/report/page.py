"""The report: what run folders hold, as one HTML file that opens offline, in light and dark.

The page loads nothing: styles are inline, charts are SVG that takes its colours from them, pictures are data URIs.
"""

import base64
import logging
import string
from collections.abc import Sequence
from html import escape
from pathlib import Path

import jaxai
from jaxai.files.json_files import read_object
from jaxai.files.unwritten import writing
from jaxai.report.charts import charts, grid, section, swatch
from jaxai.report.run_record import PICTURES, SPLITS, Record, Run, is_number, read_run
from jaxai.report.wording import mean_of, shown_keys, split_of, spread_of, value_of, words

SCORES = (
    *("return_mean", "return_iqm", "frechet_distance", "frechet_floor", "label_accuracy", "confident"),
    *("bleu", "word_error_rate", "exact_match", "chrf", "phoneme_error_rate", "character_error_rate"),
)
COSTS = ("env_steps_per_second_per_chip", "examples_per_second_per_chip", "mfu", "seconds", "compile_seconds")
TEMPLATE = Path(__file__).with_name("page.html")
PICTURE_BYTES = 1_200_000  # in all, so that the page stays below 2 MB
logger = logging.getLogger(__name__)
TABLE_ROWS, TABLE_BYTES = 200, 300_000  # of one table; of all that the page shows


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
    page = _page(loaded, folders)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8", errors="backslashreplace")
    return output


def _labels(folders: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents in front as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({index + 1})" for index, label in enumerate(labels)]  # the same folder twice


def _page(runs: Sequence[Run], folders: Sequence[Path]) -> str:
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
        if any(environment != environments[0] for environment in environments):
            body.append(section("What differs in the environment", _differences(labels, environments)))
    else:
        body += [_tiles(first), section("Seeds", _results(first.seeds) if first.seeds else "")]
    body += charts(runs)
    body.append(section("Pictures", _figures(runs)))
    body += _tables(runs, folders)
    if several:
        shared = {key: value for key, value in configs[0].items() if all(key in c and c[key] == value for c in configs)}
        body.append(section("Configuration that all share", _fields(shared)))
    else:
        body += [
            section("Final figures", _outcome(_flat(first.result))),
            section("Configuration", _fields(configs[0])),
            section("Environment", _fields(environments[0])),
        ]
    commands = [f"<pre><code>{escape(run.command)}</code></pre>" for run in runs if run.command]
    body.append(section("Command" if len(commands) == 1 else "Commands", "".join(commands)))
    page = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=escape(title), body="\n".join(filter(None, body)), version=jaxai.__version__)


def _tiles(run: Run) -> str:
    """The few figures that a reader looks for first."""
    scores = [key for key in shown_keys(run.result) if (key in SCORES or split_of(key)) and is_number(run.result[key])]
    order = {key: place for place, key in enumerate(SCORES)}
    scores.sort(key=lambda key: (order.get(key, len(order)), "accuracy" not in key, ("", *SPLITS).index(split_of(key))))
    sizes = ("env_steps" if "env_steps" in run.result else "steps", "parameters")
    tiles = []
    extractor = ["extractor"] if isinstance(run.result.get("extractor"), str) else []
    for key in [*scores[:3], *extractor, *(key for key in (*COSTS, *sizes) if is_number(run.result.get(key)))]:
        deviation, interval, _ = spread_of(run.result, key)
        spread = ", ".join(filter(None, [interval or deviation, _seeds(run)])) if interval or deviation else ""
        below = f'<p class="muted">{escape(spread)}</p>' if spread else ""
        tiles.append(
            f'<div class="tile"><p class="muted">{escape(words(key))}</p>'
            f'<p class="big{" name" * (key in extractor)}">{escape(value_of(key, run.result[key]))}</p>{below}</div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _seeds(run: Run) -> str:
    """How many seeds a run has: those in its folders, or those that were trained in one program."""
    count = len(run.seeds) or run.result.get("seeds")
    count = len(count) if isinstance(count, list) else count
    return f"{count} seeds" if isinstance(count, int) and count > 1 else ""


def _figures(runs: Sequence[Run]) -> str:
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


def _tables(runs: Sequence[Run], folders: Sequence[Path]) -> list[str]:
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
            title, content = _table_file(path, left)
            left -= len(content.encode())
            name = f"{title}: {run.label}" if len(runs) > 1 else title
            origin = f'<p class="muted">of {escape(path.parents[1].name)}</p>' if run.seeds else ""
            parts.append(section(name, origin + content))
    return parts


def _table_file(path: Path, bytes_left: int) -> tuple[str, str]:
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
        cells.append([f"<bdi>{escape(value_of(*cell))}</bdi>" for cell in zip(columns, row, strict=True)])
        bytes_left -= sum(len(cell.encode()) for cell in cells[-1]) + 20 * len(row) + 20
        if bytes_left < 0:
            cells.pop()
            break
    lines = [note] if note else []
    if len(cells) < len(rows):
        lines.append(f"{len(cells):,} of {len(rows):,} rows; all are in tables/{path.name}.")
    told = "".join(f'<p class="muted">{escape(line)}</p>' for line in lines)
    return title, told + (_table([words(name) for name in columns], cells) if cells else "")


def _results(runs: Sequence[Run]) -> str:
    """Final figures, a row a run."""
    keys = list(dict.fromkeys(key for run in runs for key in shown_keys(run.result)))
    keys = [key for key in keys if key == "extractor" or any(is_number(mean_of(run.result, key)) for run in runs)]
    keys.sort(key=lambda key: (key not in SCORES, not key.startswith(SPLITS), "accuracy" not in key))
    rows = [[swatch(index, run.label), *(_cell(run.result, key) for key in keys)] for index, run in enumerate(runs)]
    return _table(["Run", *map(words, keys)], rows, "results") if keys else ""


def _outcome(result: Record) -> str:
    """Final figures of one run, a row a figure."""
    rows = [[f"<code>{escape(key)}</code>", _cell(result, key)] for key in shown_keys(result)]
    return _table([], rows) if rows else ""


def _cell(result: Record, key: str) -> str:
    """A figure with its spread; the interval and the seeds in small print."""
    if key not in result:
        return "-"
    deviation, *small = spread_of(result, key)
    text = escape(" ".join(filter(None, [value_of(key, mean_of(result, key)), deviation])))
    return text + "".join(f"<small>{escape(line)}</small>" for line in small if line)


def _fields(record: Record) -> str:
    rows = [[f"<code>{escape(key)}</code>", escape(value_of(key, value))] for key, value in record.items()]
    return _table([], rows) if rows else ""


def _differences(labels: Sequence[str], records: Sequence[Record]) -> str:
    """The fields that are not the same everywhere, a row a field."""
    missing = object()
    rows = [
        [f"<code>{escape(key)}</code>", *(escape(value_of(key, record.get(key, "-"))) for record in records)]
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
