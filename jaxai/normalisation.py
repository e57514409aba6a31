"""Normalisation of text, the same for training, translation and scoring.

>>> normalise(" Cafe\\u0301\\u00a0au\\u200b lait ")
'Café au lait'
"""

import re
import unicodedata

WORD_START = "\u2581"
"""The character that sentencepiece uses for a space."""

_CONTROL = re.compile(r"[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
# Soft hyphen, zero-width space, word joiner, byte-order mark, direction marks, and unpaired surrogates. The joiners
# U+200C and U+200D are kept: they distinguish words of Persian and Hindi, and emoji.
_INVISIBLE = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ud800-\udfff]")


def normalise(text: str, lowercase: bool = False) -> str:
    """`text` in Unicode NFC, without invisible characters, with single spaces for all white space.

    White space is defined by `str.isspace` (non-breaking spaces, tabs and U+2028 too), and includes sentencepiece's
    U+2581. Other control characters are removed, and so are the soft hyphen, the zero-width space, the byte-order mark
    and direction marks. `normalise(normalise(text)) == normalise(text)`.

    Args:
      text: of any language.
      lowercase: lower-case it too.
    """
    # Lower-casing can break NFC (capital I with a dot), so it is done first.
    text = text.lower() if lowercase else text
    text = _CONTROL.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text).replace(WORD_START, " "))
    return " ".join(text.split())


def described(lowercase: bool = False) -> str:
    """A description of `normalise`, for the files with scores."""
    return "NFC, single spaces, no invisible characters" + (", lower case" if lowercase else "")


def control_characters(text: str) -> int:
    """Number of control characters in `text`, such as NUL, which `normalise` removes."""
    return len(_CONTROL.findall(text))
