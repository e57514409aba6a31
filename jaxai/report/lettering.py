"""Text in pictures: names of classes and tokens of any script, length or encoding.

Characters that the standard font lacks are taken from other fonts of the machine; a character that no font has is
drawn as a box. Dollar signs start no formula, and white space does not break the line.
"""

import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxai import extras

__all__ = ["BOX", "Letters", "readable"]

BOX = "\u25a1"
WHITE_SPACE = str.maketrans({"\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d"})
"""White space that would break a line -> a visible sign."""


def readable(text: str, longest: int | None = None) -> str:
    r"""A text on one line: white space as signs; control characters and bytes that are not UTF-8 as `\x1b`; cut.

    Args:
      text: of any characters, also those that `os.fsdecode` returns for a file name that is not UTF-8.
      longest: number of characters that are kept; the last one is an ellipsis if there were more. None: all.
    """
    # An escape is longer than the character that it replaces, so that this part of the text is enough.
    head = text.translate(WHITE_SPACE) if longest is None else text[: longest + 1].translate(WHITE_SPACE)
    shown = "".join(_escaped(character) for character in head)
    return shown if longest is None or len(shown) <= longest else shown[: longest - 1] + "\u2026"


class Letters(NamedTuple):
    """Font families that together have the characters of some texts, and the code points that none of them has."""

    families: list[str]
    missing: set[int]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Letters":
        """The letters for all texts of a picture."""
        font_manager = extras.load("matplotlib.font_manager", "a picture", "demo")
        FT2Font = extras.load("matplotlib.ft2font", "a picture", "demo").FT2Font  # noqa: N806  # its name in matplotlib

        wanted = {ord(character) for text in texts for character in text}
        families = ["DejaVu Sans"]  # comes with matplotlib
        wanted -= FT2Font(font_manager.findfont(families[0])).get_charmap().keys() | {ord("\n")}
        if not wanted:
            return cls(families, wanted)
        for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: (entry.name, entry.fname)):
            plain = entry.style == "normal" and entry.weight in (400, "normal", "regular")
            # "Last Resort" comes with matplotlib and has boxes instead of letters.
            if not plain or entry.name in families or entry.name.startswith("Last Resort"):
                continue
            path = font_manager.findfont(
                font_manager.FontProperties(family=[entry.name])
            )  # the file that matplotlib will use for this name
            if found := wanted & FT2Font(path).get_charmap().keys():
                families.append(entry.name)
                wanted -= found
            if not wanted:
                break
        return cls(families, wanted)

    @property
    def style(self) -> dict[str, Any]:
        """Arguments of matplotlib's texts; a dollar sign starts no formula."""
        return {"family": self.families, "parse_math": False}

    def drawn(self, text: str) -> str:
        """The text with a box for each character that no font has."""
        return text.translate(dict.fromkeys(self.missing, BOX))


def _escaped(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte, as `os.fsdecode` keeps it
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) not in ("Cc", "Cs"):
        return character
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"
