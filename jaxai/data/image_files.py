"""The image files in a folder and below it, and a count of the other files."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
"""Files with these endings, in upper or lower case, must be images that can be decoded."""
BEGINNINGS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
"""First bytes by which a file with another ending, or none, is recognised as an image."""
NEVER = ("thumbs.db", "desktop.ini", "__macosx")
"""Files of operating systems, ignored like hidden files."""


class Found(NamedTuple):
    """The images in a folder.

    Attributes:
      images: sorted by path.
      skipped: number of other files, by ending.
      deeper: number of images in folders below it.
    """

    images: list[Path]
    skipped: Counter[str]
    deeper: int


def find(folder: Path, recursive: bool = True) -> Found:
    """All images in a folder, and in the folders below it if `recursive`.

    Symbolic links are followed, except to a folder that contains the link.
    """
    images: list[Path] = []
    skipped: Counter[str] = Counter()
    _walk(folder, recursive, tuple(map(str, folder.resolve().parents)), images, skipped)
    return Found(sorted(images), skipped, sum(path.parent != folder for path in images))


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path.name))


def summary(skipped: Mapping[str, int]) -> str:
    """A summary as "3 .txt, 1 without ending", the most frequent first."""
    return ", ".join(f"{count} {ending}" for ending, count in Counter(skipped).most_common())


def _walk(folder: Path, recursive: bool, above: tuple[str, ...], images: list[Path], skipped: Counter[str]) -> None:
    here = os.path.realpath(folder)
    if here in above:  # a link to a folder that contains it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if _hidden(entry.name):
                continue
            if entry.is_dir():
                if recursive:
                    _walk(path, recursive, (*above, here), images, skipped)
            elif not entry.is_file():
                skipped["broken link" if entry.is_symlink() else "special file"] += 1
            elif path.suffix.lower() in ENDINGS or _begins_as_image(path):
                images.append(path)
            else:
                skipped[ascii(path.suffix.lower())[1:-1] or "without ending"] += 1


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in NEVER


def _begins_as_image(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(16)
    bitmap = start[:2] == b"BM" and start[6:10] == bytes(4)
    inside = (start[:4] == b"RIFF" and start[8:12] == b"WEBP") or start[4:12] == b"ftypavif"
    return bitmap or inside or start.startswith(BEGINNINGS)
