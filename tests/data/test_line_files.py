"""Lines of text as the tools of other systems leave them."""

import io
import os
import threading

import pytest

from jaxai.data import line_files


def test_lines_end_where_a_line_feed_is_and_nowhere_else():
    content = "\ufeffa\u2028b\x0bc\x0cd\x85e\u2029f\x1cg\rh\r\n\ufeffi\r\n\n j".encode()
    lines = list(line_files.utf8_lines(io.BytesIO(content), "text"))
    assert lines == ["a\u2028b\x0bc\x0cd\x85e\u2029f\x1cg\rh", "\ufeffi", "", " j"]
    assert list(line_files.utf8_lines(io.BytesIO(content + b"\n"), "text")) == lines


def test_lines_come_before_the_stream_ends():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as writer:
        lines = line_files.utf8_lines(stream, "pipe")
        writer.write(b"first\nsec")
        assert next(lines) == "first"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\xe9\n", r"text, line 2: not UTF-8 \(.*0xe9\); convert it with iconv -f ENCODING -t utf-8"),
        (b"\xff\xfea\0\n\0", "text, line 1: not UTF-8"),  # UTF-16
        (b"a\rb\rc\r", "text: lines end in a carriage return alone; convert it with tr"),
        (b"a\rb", "text: lines end in a carriage return alone"),
    ],
)
def test_text_that_would_be_read_wrong_is_refused(content, message):
    with pytest.raises(ValueError, match=message) as error:
        list(line_files.utf8_lines(io.BytesIO(content), "text"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "target", "pairs"),
    [
        ("a\nb\n", "x\ny\n\n\n", [("a", "x"), ("b", "y")]),
        ("a\nb\n \n", "x\ny", [("a", "x"), ("b", "y")]),
        ("a\nb\n\n\u00a0\n", "x\ny\n\n", [("a", "x"), ("b", "y")]),
        ("a\r\nb\r\n", "x\ny\n", [("a", "x"), ("b", "y")]),
    ],
)
def test_empty_lines_at_the_end_are_not_read(tmp_path, source, target, pairs):
    for name, content in (("a", source), ("b", target)):
        (tmp_path / name).write_bytes(content.encode())
    split = line_files.aligned(tmp_path / "a", tmp_path / "b", "error").split
    assert list(zip(split.sources, split.targets, strict=True)) == pairs


def test_empty_line_in_the_middle_or_beside_text_is_an_error(tmp_path):
    (tmp_path / "a").write_text("a\n\nc\n")
    (tmp_path / "b").write_text("x\ny\nz\n")
    with pytest.raises(ValueError, match="a, line 2: empty"):
        line_files.aligned(tmp_path / "a", tmp_path / "b", "error")
    (tmp_path / "a").write_text("a\nb\n\n")
    with pytest.raises(ValueError, match="a, line 3: empty"):
        line_files.aligned(tmp_path / "a", tmp_path / "b", "error")
    (tmp_path / "a").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"a has 2 lines, but .*b has 3"):
        line_files.aligned(tmp_path / "a", tmp_path / "b", "error")


def test_pipes_are_files_and_folders_are_not(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("a\n",))
    writer.start()
    (tmp_path / "b").write_text("x\n")
    assert line_files.aligned(tmp_path / "pipe", tmp_path / "b", "error").split.sources == ("a",)
    writer.join()
    with pytest.raises(ValueError, match=r"cannot be read \(Is a directory\)"):
        line_files.aligned(tmp_path, tmp_path / "b", "error")
