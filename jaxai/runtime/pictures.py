"""Pictures for reports and run folders: curves, a confusion matrix, a grid of images.

They are drawn with matplotlib, which is imported on the first picture and never through pyplot, so that no window
and no global figure comes into being.
"""

import dataclasses
import html
import importlib.util
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Distinct on white. In a page the SVG takes its colours from the style sheet instead: --series-0, --series-1, ...
PALETTE = ("#2563eb", "#e4572e", "#12875f", "#8e44ad", "#c98a00", "#0e8fb0", "#c2306e", "#5b6470")
POINTS = 2_000  # of a chart, over all of its lines
LONG = 100  # points; a longer line is shown with its running mean
INK, MUTED, RULE = "#20262e", "#687280", "#e3e7ec"


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
      label: for the legend; an empty one is left out.
      x: [points].
      y: [points], finite.
      series: index of its colour.
      faint: thin and pale, for what is behind a mean.
      markers: a dot at each point, for what is measured now and then.
      low, high: [points], edges of a band around it.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    series: int = 0
    faint: bool = False
    markers: bool = False
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def available() -> bool:
    """Whether matplotlib is installed; a run without it leaves no pictures and no report, and is complete otherwise."""
    return importlib.util.find_spec("matplotlib") is not None


def curves(
    lines: Sequence[Curve], path: Path, *, title: str = "", x_label: str = "step", y_label: str = "", log: bool = False
) -> Path:
    """Writes a chart of several curves with a legend as PNG."""
    figure = _figure(6.4, 3.6)
    axes = _draw_curves(figure, lines, x_label, y_label, log=log)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    if any(line.label for line in lines):
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return _save(figure, path)


def curves_svg(
    lines: Sequence[Curve], *, title: str, x_label: str = "step", percent: bool = False, log: bool = False
) -> str:
    """A chart as inline SVG without legend, coloured by the style sheet of the page around it.

    Args:
      lines: what to draw.
      title: spoken by a screen reader; not drawn.
      x_label: below the horizontal axis.
      percent: y is a share, labelled in percent.
      log: the vertical axis is logarithmic.

    Returns:
      An `<svg>` element that asks for the CSS variables --ink, --muted, --rule and --series-0 to --series-7.
    """
    figure = _figure(5.6, 3.0)
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
    """How one figure went: one run as its line, several seeds as thin lines, their mean and a band around all.

    Args:
      histories: steps, rising, and finite values of each seed, both [points]. Long ones are shown by their running
        mean; the line of a single run stays behind it, faint.
      series: index of the colour.
      markers: a dot at each point.

    Returns:
      Curves in the order in which they are drawn. The mean is over the steps that all seeds have.
    """
    histories = [(x, y) for x, y in histories if len(x)]
    if not histories:
        return []
    smooth = [(x, _running_mean(y) if len(y) > LONG else y) for x, y in histories]
    if len(histories) == 1:
        behind = [Curve("", *histories[0], series, faint=True)] if len(histories[0][0]) > LONG else []
        return [*behind, Curve("", *smooth[0], series, markers=markers)]
    lines = [Curve("", x, y, series, faint=True) for x, y in smooth]
    common = sorted(set.intersection(*(set(x.tolist()) for x, _ in smooth)))
    if common:
        table = np.stack([y[np.searchsorted(x, common)] for x, y in smooth])
        band = {"low": table.min(axis=0), "high": table.max(axis=0)}
        lines.append(Curve("", np.asarray(common), table.mean(axis=0), series, markers=markers, **band))
    return lines


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str], path: Path) -> Path:
    """Writes a confusion matrix as PNG: right answers in blue, mistakes in orange, each row by its share.

    Args:
      counts: [classes, classes] integers; row the true class, column the predicted one.
      class_names: one a class.
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
    figure = _figure(size, size)
    from matplotlib.colors import PowerNorm

    axes = figure.add_subplot()
    _bare(axes)
    axes.imshow(np.ma.masked_array(share, ~right), cmap="Blues", vmin=0, vmax=1.25)
    # Mistakes are rare where a network is good: the power shows one in a hundred, too.
    norm = PowerNorm(0.7, vmin=0, vmax=max(0.3, float(np.where(right, 0, share).max())))
    axes.imshow(np.ma.masked_array(share, right), cmap="Oranges", norm=norm)
    if classes <= 20:
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = share[row, column] > 0.6 if row == column else norm(share[row, column]) > 0.6
            colour = "white" if dark else INK
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=8, color=colour)
    if classes <= 50:
        upright = max(map(len, class_names)) > 3
        axes.set_xticks(range(classes), class_names, rotation=90 if upright else 0)
        axes.set_yticks(range(classes), class_names)
    axes.set_xlabel("predicted", color=MUTED)
    axes.set_ylabel("true", color=MUTED)
    return _save(figure, path)


def image_grid(images: np.ndarray, captions: Sequence[str], path: Path, columns: int = 8) -> Path:
    """Writes a grid of captioned images as PNG.

    Args:
      images: [images, height, width, channels] uint8; 1 or 3 channels.
      captions: one an image.
      path: of the PNG.
      columns: images a row.

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
    figure = _figure(1.15 * columns, (1.15 * height / width + 0.17 * lines) * rows)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(image[..., 0] if channels == 1 else image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(caption, fontsize=7.5, color=INK, pad=3)
    return _save(figure, path)


def _running_mean(y: np.ndarray) -> np.ndarray:
    window = np.ones(max(3, len(y) // 40) | 1)
    return np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")


def _thin(line: Curve, limit: int) -> Curve:
    """The lowest and the highest point of each stretch, so that no spike is lost."""
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


def _figure(width: float, height: float) -> Any:
    """A figure without pyplot. Width and height in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            "pictures need matplotlib, which is missing: run pip install '.[demo]' in the checkout (jaxai-train[demo])"
        ) from error
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _draw_curves(figure: Any, lines: Sequence[Curve], x_label: str, y_label: str, *, log: bool) -> Any:
    axes = figure.add_subplot()
    _bare(axes)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter("")
    else:
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-4, 6))
    for line in (_thin(line, POINTS // len(lines)) for line in lines):
        colour = PALETTE[line.series % len(PALETTE)]
        style = "--" if line.series >= len(PALETTE) else "-"
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(
            line.x,
            line.y,
            style,
            color=colour,
            label=line.label or None,
            linewidth=0.8 if line.faint else 1.8,
            alpha=0.35 if line.faint else 1,
            marker="o" if (line.markers and len(line.x) <= 60) or len(line.x) == 1 else None,
            markersize=3.5,
        )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.set_xlabel(x_label, color=MUTED, fontsize=9)
    axes.set_ylabel(y_label, color=MUTED, fontsize=9)
    return axes


def _bare(axes: Any) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=MUTED, labelsize=9)
    axes.tick_params(which="minor", length=0, colors=MUTED, labelsize=8)


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path
