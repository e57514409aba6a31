"""Any name can stand in a picture: no formula, no warning (warnings are errors here), no broken line."""

import io
import os

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxai.report import mosaic, pictures
from jaxai.report.lettering import BOX, Letters, readable

NAMES = [
    "$x_{1}$",
    "^\\frac{",
    "$",
    os.fsdecode(b"caf\xe9"),
    "\ud800",
    "\u65e5\u672c\u8a9e",
    "\U0001f600\u200d\ufe0f",
    "\u0645\u0631",
    "two\nlines\tand more",
    "\x1b[31mred\x00",
    "x" * 5000,
    "",
    "[red]",
    "<script>",
]


@pytest.mark.parametrize(
    ("text", "longest", "expected"),
    [
        ("plain name", None, "plain name"),
        (os.fsdecode(b"caf\xe9"), None, "caf\\xe9"),
        ("a\nb\tc", None, "a\u21b5b\u21e5c"),
        ("\x1b[31m", None, "\\x1b[31m"),
        ("\ud800", None, "\\ud800"),
        ("x" * 30, 10, "x" * 9 + "\u2026"),
        ("x" * 10, 10, "x" * 10),
        ("\x00" * 30, 10, "\\x00\\x00\\\u2026"),
    ],
    ids=str,
)
def test_a_name_is_one_line_that_any_terminal_and_font_can_show(text, longest, expected):
    assert readable(text, longest) == expected
    expected.encode()


def test_what_no_font_has_is_a_box_and_the_class_has_its_number():
    letters = Letters.of(["a\U0010fffd"])
    assert letters.drawn("a\U0010fffd") == f"a{BOX}"
    names, style = pictures._drawn_names(["cat", "\U0010fffd\U0010fffd", "$x$"])
    assert names == ["cat", f"1: {BOX}{BOX}", "$x$"]
    assert style["parse_math"] is False


def test_pictures_of_any_names_are_drawn(tmp_path):
    counts = np.eye(len(NAMES), dtype=int)
    assert pictures.confusion_matrix(counts, NAMES, tmp_path / "a.png").stat().st_size > 1000
    images = np.zeros((len(NAMES), 4, 4, 1), np.uint8)
    captions = [f"{readable(name, 14)} not\n{readable(name, 14)}" for name in NAMES]
    assert pictures.image_grid(images, captions, tmp_path / "b.png").stat().st_size > 1000


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 3), (7, 3)])
def test_images_of_any_number_of_channels_have_a_picture(tmp_path, channels, shown):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, channels), np.uint8)
    seen = mosaic.visible(images)
    assert seen.shape == (5, 4, 4, shown)
    assert seen.dtype == np.uint8
    expected = images.mean(-1, keepdims=True).astype(np.uint8) if channels == 2 else images[..., :shown]
    np.testing.assert_array_equal(seen, expected)
    for grid in (True, False):
        mosaic.write_samples({"image": images, "label": None}, tmp_path, grid)
    with np.load(tmp_path / "samples.npz") as kept:
        np.testing.assert_array_equal(kept["image"], images)
    with Image.open(tmp_path / "0000.png") as picture:
        assert len(picture.getbands()) == shown


@pytest.mark.parametrize("shape", [(1, 1), (2, 400), (3000, 1)], ids=str)
def test_images_of_any_sides_have_a_picture_of_a_common_size(tmp_path, shape):
    images = np.zeros((9, *shape, 1), np.uint8)
    with Image.open(pictures.image_grid(images, ["automobile not airplane"] * 9, tmp_path / "a.png")) as picture:
        assert max(picture.size) < 1100


def test_a_picture_that_cannot_be_drawn_is_one_line():
    console = Console(file=io.StringIO(), width=200)
    with pictures.optional(console):
        raise RuntimeError("no\nspace [red] \ud800")
    said = console.file.getvalue()
    assert (
        said == "warning: a picture could not be drawn (RuntimeError: no space [red] \\ud800); all else is complete\n"
    )
