"""Curves over a run: charts as PNG and as SVG, with thin lines for seeds, their mean and its confidence band."""

import dataclasses
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxai.report.pictures import INK, MUTED, PALETTE, RULE, bare, blank_figure, save
from jaxai.report.statistics import bootstrap_interval

__all__ = ["THIN_LINES", "Curve", "curves", "curves_svg", "seed_curves"]

POINTS = 2_000  # in a chart, over all of its lines
LONG = 100  # points; a longer line is shown with its running mean
MEAN_POINTS = 500  # of a mean over seeds and its band
THIN_LINES = 10  # with more seeds, only their mean and its band are drawn


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
      label: for the legend; an empty one is left out.
      x: [points].
      y: [points], finite.
      series: index of its colour.
      faint: thin and pale, for single values behind a mean.
      markers: a dot at each point, for metrics of some steps only.
      dashed: for a value to compare with.
      ring: a hollow circle around each point and no line.
      low, high: [points], edges of a band around it.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    series: int = 0
    faint: bool = False
    markers: bool = False
    dashed: bool = False
    ring: bool = False
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def curves(
    lines: Sequence[Curve], path: Path, *, title: str = "", x_label: str = "step", y_label: str = "", log: bool = False
) -> Path:
    """Writes a chart of several curves with a legend as PNG.

    Args:
      lines: the curves, in the order of drawing.
      path: of the PNG.
      title: above the chart.
      x_label: below the horizontal axis.
      y_label: at the vertical axis.
      log: the vertical axis is logarithmic.

    Returns:
      The path.
    """
    figure = blank_figure(6.4, 3.6)
    axes = _draw_curves(figure, lines, x_label, y_label, log=log)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    if any(line.label for line in lines):
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return save(figure, path)


def curves_svg(
    lines: Sequence[Curve],
    *,
    title: str,
    x_label: str = "step",
    percent: bool = False,
    log: bool = False,
) -> str:
    """A chart as inline SVG without legend, coloured by the style sheet of the page around it.

    Args:
      lines: what to draw.
      title: for screen readers; not drawn.
      x_label: below the horizontal axis.
      percent: y is a share, labelled in percent.
      log: the vertical axis is logarithmic.

    Returns:
      An `<svg>` element that uses the CSS variables --ink, --muted, --rule and --series-0 to --series-7.
    """
    figure = blank_figure(5.6, 3.0)
    axes = _draw_curves(figure, lines, x_label, "", log=log)
    if percent and not log:
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.6g} %")
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # several charts on one page would share these names
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{html.escape(title)}">', svg
    )
    for variable, colour in {"ink": INK, "muted": MUTED, "rule": RULE}.items():
        svg = svg.replace(colour, f"var(--{variable})")
    for index, colour in enumerate(PALETTE):
        svg = svg.replace(colour, f"var(--series-{index})")
    return svg


def seed_curves(histories: Sequence[tuple[np.ndarray, np.ndarray]], series: int, *, markers: bool) -> list[Curve]:
    """The course of one figure: one run as its line, several seeds as thin lines, their mean and its confidence band.

    Args:
      histories: steps, rising, and values of each seed, both [points]; NaN where a seed has no value. Long ones are
        shown by their running mean; the line of a single run stays behind it, faint.
      series: index of the colour.
      markers: a dot at each point.

    Returns:
      Curves in the order in which they are drawn. The mean has the steps that are in all histories. At each step it
      is over the seeds that have a value, and its band is the 95 % bootstrap interval. More than `THIN_LINES` seeds
      are not drawn as single lines.
    """
    kept = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in histories]
    shown = [(x, y) for x, y in kept if len(x)]
    if not shown:
        return []
    if len(shown) == 1:
        ((x, y),) = shown
        behind = [Curve("", x, y, series, faint=True)] if len(x) > LONG else []
        return [*behind, Curve("", x, _smooth(y), series, markers=markers)]
    lines = [Curve("", x, _smooth(y), series, faint=True) for x, y in shown] if len(shown) <= THIN_LINES else []
    common = sorted(set.intersection(*(set(x.tolist()) for x, y in histories if np.isfinite(y).any())))
    table = np.stack([_smooth(_bridged(y))[np.searchsorted(x, common)] for x, y in histories if np.isfinite(y).any()])
    filled = np.flatnonzero(np.isfinite(table).any(axis=0))
    if len(filled) > MEAN_POINTS:  # long curves are smooth, so that evenly spaced points are enough
        filled = filled[np.linspace(0, len(filled) - 1, MEAN_POINTS).round().astype(int)]
    if len(filled):
        mean, low, high = _mean_and_band(table[:, filled])
        lines.append(Curve("", np.asarray(common)[filled], mean, series, markers=markers, low=low, high=high))
    return lines


def _mean_and_band(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and bootstrap interval of each column of `table` [seeds, points] over the seeds that are finite there."""
    missing = np.isnan(table)
    mean, low, high = np.empty((3, table.shape[1]))
    for pattern in np.unique(missing, axis=1).T:
        columns = (missing == pattern[:, None]).all(axis=0)
        present = table[~pattern][:, columns]
        mean[columns] = present.mean(axis=0)
        low[columns], high[columns] = bootstrap_interval(present)
    return mean, low, high


def _bridged(y: np.ndarray) -> np.ndarray:
    """Linear interpolation between finite values; missing values at the ends stay missing."""
    at = np.arange(len(y))
    finite = np.isfinite(y)
    return np.interp(at, at[finite], y[finite], left=np.nan, right=np.nan)


def _smooth(y: np.ndarray) -> np.ndarray:
    """The running mean of the finite values if there are many, otherwise the values themselves."""
    finite = np.isfinite(y)
    if finite.sum() <= LONG:
        return y
    window = np.ones(max(3, int(finite.sum()) // 40) | 1)
    smooth = np.full(y.shape, np.nan)
    smooth[finite] = np.convolve(y[finite], window, "same") / np.convolve(np.ones(finite.sum()), window, "same")
    return smooth


def _thin(line: Curve, limit: int) -> Curve:
    """The lowest and the highest point of each interval, so that no spike is lost."""
    stretch = -(-2 * len(line.x) // max(limit, 40))
    if stretch <= 2:
        return line
    keep = sorted(
        {
            start + int(pick(line.y[start : start + stretch]))
            for start in range(0, len(line.x), stretch)
            for pick in (np.argmin, np.argmax)
        }
    )
    low, high = (None if edge is None else edge[keep] for edge in (line.low, line.high))
    return dataclasses.replace(line, x=line.x[keep], y=line.y[keep], low=low, high=high)


def _draw_curves(figure: Any, lines: Sequence[Curve], x_label: str, y_label: str, *, log: bool) -> Any:
    axes = figure.add_subplot()
    bare(axes)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter("")
    else:
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-4, 6))
        if max((float(np.abs(line.y).max()) for line in lines if len(line.y)), default=0.0) >= 1e4:
            axes.yaxis.set_major_formatter(
                lambda value, _: f"{value:,.6g}" if abs(value) < 1e6 else f"{value / 1e6:g} M"
            )
    for line in (_thin(line, POINTS // len(lines)) for line in lines):
        colour = PALETTE[line.series % len(PALETTE)]
        if line.ring:
            axes.plot(line.x, line.y, "o", color=colour, markerfacecolor="none", markersize=9, markeredgewidth=1.6)
            continue
        style = "--" if line.dashed or line.series >= len(PALETTE) else "-"
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(
            line.x,
            line.y,
            style,
            color=colour,
            label=line.label or None,
            linewidth=0.8 if line.faint else 1.2 if line.dashed else 1.8,
            alpha=0.35 if line.faint else 1,
            marker="o" if (line.markers and len(line.x) <= 60) or (len(line.x) == 1 and not line.dashed) else None,
            markersize=3.5,
        )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.get_major_locator().set_params(nbins=7)
    last = max((float(line.x.max()) for line in lines if len(line.x)), default=0.0)
    unit, name = (1e6, " M") if last >= 2e6 else (1e3, " k") if last >= 2e5 else (1, "")
    axes.xaxis.set_major_formatter(lambda at, _: f"{at / unit:,.6g}{name if at else ''}")
    axes.set_xlabel(x_label, color=MUTED, fontsize=9)
    axes.set_ylabel(y_label, color=MUTED, fontsize=9)
    return axes
