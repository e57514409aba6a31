"""Pictures for reports and run folders: a confusion matrix, a grid of images, the result of a grid search.

They are drawn with matplotlib, which is imported for the first picture and never through pyplot, so that no window
and no global figure is created.
"""

import contextlib
import importlib.util
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxai import extras
from jaxai.files.unwritten import UnwrittenError, writing
from jaxai.output import print_line
from jaxai.report.lettering import Letters, readable
from jaxai.report.statistics import bootstrap_interval

__all__ = [
    "INK",
    "MUTED",
    "PALETTE",
    "RULE",
    "available",
    "bare",
    "blank_figure",
    "confusion_matrix",
    "grid_search",
    "image_grid",
    "optional",
    "save",
]

# Distinct on white. In a page the SVG takes its colours from the style sheet instead: --series-0, --series-1, ...
PALETTE = ("#2563eb", "#e4572e", "#12875f", "#8e44ad", "#c98a00", "#0e8fb0", "#c2306e", "#5b6470")
INK, MUTED, RULE = "#20262e", "#687280", "#e3e7ec"
RATIOS = 0.4, 3.0
"""Lowest and highest ratio of height to width of a cell; other images are drawn with white margins."""
LONGEST_NAME = 24
"""Number of characters of a class name that are shown."""


def available() -> bool:
    """Whether matplotlib is installed; without it a run has no pictures and no report, but is otherwise complete."""
    return importlib.util.find_spec("matplotlib") is not None


@contextlib.contextmanager
def optional(console: Console | None, what: str = "a picture could not be drawn") -> Iterator[None]:
    """Context for drawing: an error inside becomes a warning of one line, and the run continues.

    Args:
      console: for the warning; None: standard output.
      what: the beginning of the warning.

    Raises:
      UnwrittenError: the disk is full or read-only, which affects the whole run.
    """
    try:
        yield
    except UnwrittenError:
        raise
    except Exception as error:  # a failed picture must not end the run
        reason = " ".join(str(error).split())[:200]
        line = f"warning: {what} ({type(error).__name__}: {reason}); all else is complete"
        print_line(console or Console(), readable(line))


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str], path: Path) -> Path:
    """Writes a confusion matrix as PNG: correct predictions in blue, wrong ones in orange, as shares of their row.

    Args:
      counts: [classes, classes] integers; row the true class, column the predicted one.
      class_names: one for each class, of any characters; long ones are cut.
      path: of the PNG.

    Raises:
      ValueError: the matrix is not square or the names do not fit it.
    """
    counts = np.asarray(counts)
    classes = len(class_names)
    if counts.shape != (classes, classes):
        raise ValueError(f"confusion matrix has shape {counts.shape}, expected ({classes}, {classes}) for its names")
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = np.eye(classes, dtype=bool)
    size = float(np.clip(0.42 * classes + 1.6, 4.2, 9.0))
    figure = blank_figure(size, size)
    from matplotlib.colors import PowerNorm

    axes = figure.add_subplot()
    bare(axes)
    axes.imshow(np.ma.masked_array(share, ~right), cmap="Blues", vmin=0, vmax=1.25)
    # Mistakes of a good network are rare: the power makes a share of 1 % visible.
    norm = PowerNorm(0.7, vmin=0, vmax=max(0.3, float(np.where(right, 0, share).max())))
    axes.imshow(np.ma.masked_array(share, right), cmap="Oranges", norm=norm)
    if classes <= 20:
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = share[row, column] > 0.6 if row == column else norm(share[row, column]) > 0.6
            colour = "white" if dark else INK
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=8, color=colour)
    if classes <= 50:
        names, style = _drawn_names(class_names)
        axes.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 3 else 0, **style)
        axes.set_yticks(range(classes), names, **style)
    axes.set_xlabel("predicted", color=MUTED)
    axes.set_ylabel("true", color=MUTED)
    return save(figure, path)


def image_grid(images: np.ndarray, captions: Sequence[str], path: Path, columns: int = 8) -> Path:
    """Writes a grid of captioned images as PNG.

    Args:
      images: [images, height, width, channels] uint8; 1 or 3 channels.
      captions: one for each image, of any characters.
      path: of the PNG.
      columns: number of images in a row.

    Raises:
      ValueError: wrong shape or dtype, or captions that do not fit.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"image grid got {images.dtype} {list(images.shape)}, expected uint8 [images, height, width, 1 or 3]"
        )
    if len(captions) != len(images):
        raise ValueError(f"image grid got {len(captions)} captions for {len(images)} images, expected one each")
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    _, height, width, channels = images.shape
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    letters = Letters.of(captions)
    ratio = float(np.clip(height / width, *RATIOS))
    figure = blank_figure(1.15 * columns, (1.15 * ratio + 0.17 * lines) * rows)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(image[..., 0] if channels == 1 else image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(letters.drawn(caption), fontsize=7.5, color=INK, pad=3, **letters.style)
    return save(figure, path)


def _drawn_names(class_names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Names as they are drawn, and their style; a name with a character that no font has begins with its number."""
    names = [readable(name, LONGEST_NAME) for name in class_names]
    letters = Letters.of(names)
    drawn = [letters.drawn(name) for name in names]
    numbered = enumerate(zip(drawn, names, strict=True))
    return [each if each == name else f"{label}: {each}" for label, (each, name) in numbered], letters.style


def grid_search(
    parameters: Mapping[str, Sequence[float]], scores: np.ndarray, path: Path, *, score: str = "score"
) -> Path:
    """Writes the scores of a sweep over a grid as PNG; higher scores are better.

    One swept parameter is drawn as a line with its 95 % bootstrap band, two as a heat map, more as a panel for each.
    A parameter with one value is not swept. Means are over the seeds that did not diverge; the number of diverged seeds
    is shown. The best setting is chosen among those without diverged seeds, if there are any.

    Args:
      parameters: name -> the values that were tried, in the order of the axes of `scores`.
      scores: [*grid, seeds]; NaN where a run diverged.
      path: of the PNG.
      score: name of the score.

    Raises:
      ValueError: the scores do not fit the parameters.
    """
    scores = np.asarray(scores, float)
    grid = [len(values) for values in parameters.values()]
    if not grid or list(scores.shape[:-1]) != grid or not scores.size:
        raise ValueError(
            f"grid search has scores {list(scores.shape)}, expected {grid} for {', '.join(parameters)}, then the seeds"
        )
    axes = [axis for axis, count in enumerate(grid) if count > 1] or [0]
    swept = {name: list(values) for axis, (name, values) in enumerate(parameters.items()) if axis in axes}
    scores = np.where(np.isfinite(scores), scores, np.nan).reshape([grid[axis] for axis in axes] + [-1])
    means, stable = _mean(scores, -1), np.isfinite(scores).all(-1)
    trusted = np.where(stable, means, np.nan) if stable.any() else means
    if len(swept) == 2:
        figure = _heat_map(swept, scores, means, trusted)
    else:
        columns = 2 if len(swept) == 4 else min(len(swept), 3)
        rows = -(-len(swept) // columns)
        figure = blank_figure(max(5.0, 3.9 * columns), 3.1 * rows + 0.4)
        first: Any = None
        for axis, (name, values) in enumerate(swept.items()):
            panel = figure.add_subplot(rows, columns, axis + 1, sharey=first)
            first = first or panel
            panel.set_ylabel(score if axis % columns == 0 else "", color=MUTED, fontsize=9)
            _marginal(panel, name, values, np.moveaxis(scores, axis, 0), np.moveaxis(trusted, axis, 0))
        if len(swept) > 1:
            first.legend(frameon=False, fontsize=8, labelcolor=INK)
    title = "every run diverged"
    if (best := _best(trusted)) is not None:
        where = ", ".join(f"{name} {values[at]:g}" for (name, values), at in zip(swept.items(), best, strict=True))
        among = "" if stable.all() or not stable.any() else " (where no seed diverged)"
        title = f"best {score} {trusted[best]:.4g} at {where}{among}"
    title = textwrap.fill(title, int(11 * figure.get_figwidth()))
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontsize=10)
    return save(figure, path)


def _marginal(panel: Any, name: str, values: Sequence[float], scores: np.ndarray, trusted: np.ndarray) -> None:
    """Means at each value of one parameter; `scores` [values, ..., seeds], `trusted` [values, ...]."""
    bare(panel)
    panel.grid(axis="y", color=RULE, linewidth=0.8)
    panel.margins(x=0.09, y=0.2)
    panel.set_xlabel(name, color=MUTED, fontsize=9)
    order = np.argsort(values)
    flat, trusted = scores.reshape(len(values), -1)[order], trusted.reshape(len(values), -1)[order]
    x = _positions(panel, np.asarray(values, float)[order])
    if scores.ndim > 2:
        highest = np.where(np.isnan(trusted), -np.inf, trusted).max(1)
        highest[np.isinf(highest)] = np.nan
        panel.plot(x, highest, "s--", color=PALETTE[2], linewidth=1.4, markersize=4, label="best")
    else:
        edges = [bootstrap_interval(row[~np.isnan(row)]) if np.isfinite(row).any() else (np.nan,) * 2 for row in flat]
        panel.fill_between(x, *np.transpose(edges), color=PALETTE[0], alpha=0.16, linewidth=0)
    panel.plot(x, _mean(flat, 1), "o-", color=PALETTE[0], linewidth=1.8, markersize=4, label="mean")
    lost = np.isnan(flat).sum(1)
    for at, count in zip(x[lost > 0], lost[lost > 0], strict=True):
        text = f"{count}/{flat.shape[1]}\ndiverged"
        panel.text(at, 0.02, text, transform=panel.get_xaxis_transform(), ha="center", fontsize=7, color=PALETTE[1])


def _positions(panel: Any, values: np.ndarray) -> np.ndarray:
    """Positions of rising values: logarithmic beyond a factor of 10, evenly spaced if too close, otherwise linear."""
    log = values[0] > 0 and values[-1] > 10 * values[0]
    if log:
        panel.set_xscale("log")
    elif len(values) > 1 and np.diff(values).min() < 0.1 * np.ptp(values):
        panel.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        return np.arange(len(values))
    if len(values) <= 7:
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.set_xticks([], minor=True)
    return values


def _heat_map(swept: Mapping[str, Sequence[float]], scores: np.ndarray, means: np.ndarray, trusted: np.ndarray) -> Any:
    """Two parameters: a cell for each pair with the mean over its seeds, and a frame around the best."""
    (row_name, row_values), (column_name, column_values) = swept.items()
    rows, columns = means.shape
    figure = blank_figure(float(np.clip(0.8 * columns + 1.8, 4.6, 14)), float(np.clip(0.5 * rows + 1.6, 3.0, 12)))
    panel = figure.add_subplot()
    bare(panel)
    panel.set_facecolor(RULE)
    image = panel.imshow(np.ma.masked_invalid(means), cmap="viridis", aspect="auto")
    for row, column in np.ndindex(rows, columns) if columns <= 16 else ():
        lost = int(np.isnan(scores[row, column]).sum())
        mean = means[row, column]
        text = "diverged" if math.isnan(mean) else f"{mean:.3g}" + f"\n{lost} diverged" * bool(lost)
        colour = MUTED if math.isnan(mean) else "white" if image.norm(mean) < 0.6 else INK
        panel.text(
            column, row, text, ha="center", va="center", fontsize=8 if mean == mean and not lost else 7, color=colour
        )
    if (best := _best(trusted)) is not None:
        from matplotlib.patches import Rectangle

        corner = (best[1] - 0.5, best[0] - 0.5)
        frame = Rectangle(corner, 1, 1, fill=False, edgecolor=PALETTE[1], linewidth=2.5, clip_on=False)
        panel.add_patch(frame)
    panel.set_xticks(range(columns), [f"{value:g}" for value in column_values])
    panel.set_yticks(range(rows), [f"{value:g}" for value in row_values])
    panel.set_xlabel(column_name, color=MUTED, fontsize=9)
    panel.set_ylabel(row_name, color=MUTED, fontsize=9)
    return figure


def _best(trusted: np.ndarray) -> tuple[int, ...] | None:
    """Index of the highest value; None if no value is finite."""
    if not np.isfinite(trusted).any():
        return None
    return tuple(int(at) for at in np.unravel_index(np.nanargmax(trusted), trusted.shape))


def _mean(scores: np.ndarray, axis: int) -> np.ndarray:
    """The mean of the finite values; NaN if there are none."""
    count = np.isfinite(scores).sum(axis)
    return np.where(count > 0, np.nansum(scores, axis) / np.maximum(count, 1), np.nan)


def blank_figure(width: float, height: float) -> Any:
    """A figure without pyplot. Width and height in inches.

    Raises:
      MissingExtraError: matplotlib is not installed.
    """
    return extras.load("matplotlib.figure", "a picture", "demo").Figure(
        figsize=(width, height), layout="constrained", facecolor="white"
    )


def bare(axes: Any) -> None:
    """Removes the frame and the ticks."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=MUTED, labelsize=9)
    axes.tick_params(which="minor", length=0, colors=MUTED, labelsize=8)


def save(figure: Any, path: Path) -> Path:
    """Writes a figure as PNG, with the same bytes for the same picture; creates the folder if it is missing."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, metadata={"Software": None})
    return path
