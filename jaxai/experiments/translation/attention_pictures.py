"""Pictures of translations: heat maps of the attention, and the score by length.

They are drawn like those of `jaxai.report.pictures`. Tokens may have any script (`jaxai.report.lettering`); a note in
the picture explains boxes for missing characters.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxai.report.lettering import BOX, Letters, readable
from jaxai.report.pictures import INK, MUTED, PALETTE, RULE, bare, blank_figure, save

LONGEST = 18
"""Number of characters of a token that are shown."""
NOTE = 0.25
"""Inches below the panels for a line with an explanation."""


class Alignment(NamedTuple):
    """The attention of one sentence: weights [target, source], rows with the sum 1, and the tokens of both sides."""

    weights: np.ndarray
    source_tokens: Sequence[str]
    target_tokens: Sequence[str]
    title: str = ""


def heat_map(weights: np.ndarray, source_tokens: Sequence[str], target_tokens: Sequence[str], path: Path) -> Path:
    """Writes the attention of one sentence as PNG: source tokens along the top, target tokens on the left.

    Args:
      weights: [target, source], 0 to 1, without padding.
      source_tokens: the text of each column.
      target_tokens: the text of each row.
      path: of the PNG.

    Raises:
      ValueError: the weights do not fit the tokens, or matplotlib is missing.
    """
    return heat_maps([Alignment(weights, source_tokens, target_tokens)], path)


def heat_maps(alignments: Sequence[Alignment], path: Path, *, columns: int = 2) -> Path:
    """Writes several sentences on one page; see `heat_map`.

    Args:
      alignments: one for each sentence.
      path: of the PNG.
      columns: number of sentences in a row.

    Raises:
      ValueError: no sentence, weights that do not fit the tokens, or matplotlib is missing.
    """
    if not alignments:
        raise ValueError("a page of attention got no sentence, expected one or more")
    for each in alignments:
        shape, expected = np.shape(each.weights), (len(each.target_tokens), len(each.source_tokens))
        if shape != expected or 0 in expected:
            raise ValueError(
                f"attention weights have shape {list(shape)}, expected {list(expected)} for {expected[0]} target and"
                f" {expected[1]} source tokens: cut the padding off, and leave empty sentences out"
            )
    columns = max(1, min(columns, len(alignments)))
    panels = [_Panel.of(each) for each in alignments]
    lines = [panels[at : at + columns] for at in range(0, len(panels), columns)]
    widths = [max(line[at].width for line in lines if at < len(line)) for at in range(columns)]
    heights = [max(panel.height for panel in line) for line in lines]
    texts = [text for each in alignments for text in (*each.source_tokens, *each.target_tokens, each.title)]
    letters = Letters.of(map(_shown, texts))
    width, height = sum(widths), sum(heights) + NOTE
    figure = blank_figure(width, height)
    figure.set_layout_engine("none")  # all positions are computed here: cells of one size make pictures comparable
    for index, (each, panel) in enumerate(zip(alignments, panels, strict=True)):
        line, column = divmod(index, columns)
        left = sum(widths[:column]) + panel.left
        bottom = height - sum(heights[:line]) - panel.top - panel.cell * len(each.target_tokens)
        cells = panel.cell * len(each.source_tokens), panel.cell * len(each.target_tokens)
        axes = figure.add_axes((left / width, bottom / height, cells[0] / width, cells[1] / height))
        bare(axes)
        axes.set_facecolor(RULE)
        image = np.ma.masked_invalid(np.asarray(each.weights, float))
        axes.imshow(image, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        source, target = ([letters.drawn(_shown(token)) for token in side] for side in each[1:3])
        style: dict[str, Any] = {**letters.style, "fontsize": panel.points}
        axes.xaxis.tick_top()
        axes.set_xticks(range(len(source)), source, rotation=90 if panel.upright else 0, **style)
        axes.set_yticks(range(len(target)), target, **style)
        axes.tick_params(length=0, colors=INK)
        if each.title:
            title = letters.drawn(readable(" ".join(each.title.split())))
            place = (left - panel.left + 0.08) / width, 1 - (sum(heights[:line]) + 0.06) / height
            figure.text(*place, title, va="top", fontsize=8, color=MUTED, **letters.style)
    note = "darker: more attention" + f"; {BOX}: a character that no font of this machine has" * bool(letters.missing)
    figure.text(0.08 / width, 0.06 / height, note, fontsize=7, color=MUTED)
    return save(figure, path)


def scores_by_length(rows: Sequence[Mapping[str, Any]], path: Path, *, unit: str = "") -> Path:
    """Writes a bar for each range of lengths as PNG, with its score and its number of sentences.

    Args:
      rows: from `scores.by_length`: `length`, `count` and one score.
      path: of the PNG.
      unit: of the lengths ("words").

    Raises:
      ValueError: no row, a row without a score, or matplotlib is missing.
    """
    names = [name for name in (rows[0] if rows else ()) if name not in ("length", "count")]
    if len(names) != 1:
        raise ValueError(f"bars by length need rows of length, count and one score, got {list(rows[:1])}")
    name, values = names[0], [float(row[names[0]]) for row in rows]
    figure = blank_figure(max(3.8, 0.75 * len(rows) + 1.2), 2.9)
    axes = figure.add_subplot()
    bare(axes)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    bars = axes.bar(range(len(rows)), values, color=PALETTE[0], width=0.7)
    axes.bar_label(
        bars,
        [f"{value:.3g}\n{row['count']:,}" for value, row in zip(values, rows, strict=True)],
        fontsize=7.5,
        color=INK,
        padding=2,
    )
    axes.margins(y=0.22)
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(rows)), [str(row["length"]) for row in rows])
    axes.set_xlabel(f"length of the source{f' in {unit}' if unit else ''}", color=MUTED, fontsize=9)
    axes.set_title("above each bar: score and number of sentences", fontsize=7.5, color=MUTED, loc="left")
    axes.set_ylabel(name.replace("_", " ") if name != "bleu" else "BLEU", color=MUTED, fontsize=9)
    return save(figure, path)


class _Panel(NamedTuple):
    """The layout of one sentence's part of the page; in inches, and the size of letters in points."""

    cell: float
    points: float
    upright: bool
    left: float
    top: float
    width: float
    height: float

    @classmethod
    def of(cls, alignment: Alignment) -> "_Panel":
        rows, columns = np.shape(alignment.weights)
        cell = float(np.clip(8.0 / max(rows, columns), 0.13, 0.3))
        points = float(np.clip(cell * 30, 4.5, 9))
        letter = points / 72
        upright = max(map(_letters, alignment.source_tokens)) > 2
        left = 0.2 + 0.62 * letter * max(map(_letters, alignment.target_tokens))
        top = 0.15 + letter * (0.62 * max(map(_letters, alignment.source_tokens)) if upright else 1.2)
        top += 0.22 * bool(alignment.title)
        title = 0.2 + 0.62 * 8 / 72 * _letters(alignment.title, None)
        width = max(left + cell * columns + 0.15, title if alignment.title else 0, 1.6)
        return cls(cell, points, upright, left, top, width, top + cell * rows + 0.1)


def _letters(text: str, longest: int | None = LONGEST) -> int:
    """The width of a text in letters; those of East Asian scripts count as two."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text[:longest])


def _shown(token: str) -> str:
    """A token with visible white space: a vocabulary of characters has it as a token."""
    return readable(token, LONGEST).replace(" ", "\u2423")
