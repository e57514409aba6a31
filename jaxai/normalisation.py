"""The one form that all text is brought to before it is learnt from, translated or scored.

>>> normalise(" Cafe\\u0301\\u00a0au\\u200b lait ")
'Café au lait'
"""

import re
import unicodedata

WORD_START = "\u2581"
"""What sentencepiece writes for a space."""

_CONTROL = re.compile(r"[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
# Soft hyphen, zero-width space, word joiner, byte-order mark, marks of direction, and halves of surrogate pairs. The
# joiners U+200C and U+200D stay: words of Persian and Hindi, and emoji, differ in them.
_INVISIBLE = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ud800-\udfff]")


def normalise(text: str, lowercase: bool = False) -> str:
    """`text` in Unicode NFC, without characters that show nothing, with single spaces for all white space.

    White space is what `str.isspace` says, so non-breaking spaces, tabs and U+2028 too, and sentencepiece's U+2581.
    Control characters that are no white space are left out, as are the soft hyphen, the zero-width space, the
    byte-order mark and marks of direction. `normalise(normalise(text)) == normalise(text)`.

    Args:
      text: of any language.
      lowercase: lower-case it too.
    """
    # Lower-casing can break NFC (capital I with a dot), so it comes first.
    text = text.lower() if lowercase else text
    text = _CONTROL.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text).replace(WORD_START, " "))
    return " ".join(text.split())


def described(lowercase: bool = False) -> str:
    """What `normalise` does, in words, as a result says it beside its scores."""
    return "NFC, single spaces, no invisible characters" + (", lower case" if lowercase else "")


def control_characters(text: str) -> int:
    """How many characters of `text`, such as NUL, `normalise` leaves out that do not belong into text."""
    return len(_CONTROL.findall(text))
