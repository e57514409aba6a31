"""The parts of a page as HTML."""

from collections.abc import Iterable, Sequence
from html import escape

from jaxai.report.pictures import PALETTE

__all__ = ["grid", "section", "swatch", "table"]


def section(title: str, content: str) -> str:
    """A part of the page under a heading; empty without content."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def grid(cards: Iterable[str], kind: str = "charts") -> str:
    """Cards next to each other; empty without cards."""
    together = "".join(cards)
    return f'<div class="{kind}">{together}</div>' if together else ""


def swatch(series: int, label: str) -> str:
    """A name with its colour."""
    colour = f"var(--series-{series % len(PALETTE)})"
    return f'<span class="swatch"><i style="background:{colour}"></i>{escape(label)}</span>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table.

    Args:
      head: names of the columns, as text; empty: no head.
      rows: cells as HTML.
      kind: CSS class of its frame.
    """
    top = f"<thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="{f"scroll {kind}".strip()}"><table>{top}<tbody>{body}</tbody></table></div>'
