"""Mosaics of images, pixel for pixel, and animations; they need only Pillow."""

import io
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxai import extras
from jaxai.files.unwritten import writing

__all__ = ["available", "read_png", "tile", "visible", "write_gif", "write_png", "write_samples"]

LONG_SIDE = 900  # pixels; a smaller picture is enlarged by the largest whole factor that fits
GIF_SIDE = 500  # pixels; smaller, because there are many frames
GREYS, COLOURS = 16, 128  # in an animation; 32 greys would need a third more bytes
BAND = 22  # pixels, of a caption
BACKGROUND = 255
INK, WHITE = (32, 38, 46), (255, 255, 255)


def available() -> bool:
    """Whether Pillow is installed, which writes the pictures."""
    return find_spec("PIL") is not None


def visible(images: np.ndarray) -> np.ndarray:
    """Images of any number of channels as [..., 1 or 3], of the same dtype.

    One or three channels stay as they are; two are replaced by their mean; of more than three, the first three are
    kept.
    """
    channels = images.shape[-1]
    if channels == 2:
        return images.mean(-1, keepdims=True).astype(images.dtype)
    return images[..., :3] if channels > 3 else images


def tile(images: np.ndarray, columns: int = 0, border: int = 2, scale: int = 1) -> np.ndarray:
    """A mosaic of images in rows, on white.

    Args:
      images: [n, height, width, 1 or 3] uint8, at least one.
      columns: number of images in a row; 0: the picture is approximately square.
      border: white pixels around each image; neighbours share theirs.
      scale: factor by which images are enlarged.

    Returns:
      [rows * (height * scale + border) + border, columns * (width * scale + border) + border, 1 or 3] uint8.

    Raises:
      ValueError: wrong shape or dtype, no image, or a negative number.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"a mosaic needs images [n, height, width, 1 or 3], at least one, got shape {images.shape}")
    if images.dtype != np.uint8:
        raise ValueError(f"a mosaic needs uint8 images, 0 to 255, got {images.dtype}")
    if columns < 0 or border < 0 or scale < 1:
        raise ValueError(
            f"columns and border are at least 0 and scale at least 1, got columns {columns}, border {border}, "
            f"scale {scale}"
        )
    images = _enlarged(images, scale, axis=1)
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    blank = np.full((rows * columns - count, height, width, channels), BACKGROUND, np.uint8)
    cells = np.concatenate([images, blank]).reshape(rows, columns, height, width, channels)
    # A cell has a border above and to its left; the picture adds those below and to the right.
    edges = ((0, 0), (0, 0), (border, 0), (border, 0), (0, 0))
    cells = np.pad(cells, edges, constant_values=BACKGROUND)
    picture = cells.swapaxes(1, 2).reshape(rows * (height + border), columns * (width + border), channels)
    return np.pad(picture, ((0, border), (0, border), (0, 0)), constant_values=BACKGROUND)


def write_png(image: np.ndarray, path: Path | str, scale: int = 0) -> Path:
    """Writes a picture as PNG, with the same bytes for the same picture; creates the folder if it is missing.

    Args:
      image: [height, width], [height, width, 1] or [height, width, 3] uint8.
      path: of the PNG.
      scale: factor by which it is enlarged; 0: the largest with a longer side of at most 900 pixels.

    Raises:
      ValueError: wrong shape or dtype, or Pillow is missing.
    """
    pillow = _pillow()
    image = _checked(image)
    with writing(path):
        path = _writable(path)
        pillow.fromarray(_plain(_enlarged(image, _scale(image, scale, LONG_SIDE)))).save(path, optimize=True)
    return path


def write_samples(arrays: Mapping[str, np.ndarray | None], folder: Path, grid: bool) -> str:
    """Writes `samples.npz`, and `grid.png` or `0000.png`, `0001.png`, ...; returns the names of the files, as text.

    Args:
      arrays: `image` [n, height, width, channels] uint8, and further arrays to store; None is left out. Images of
        other numbers of channels than 1 and 3 are drawn as `visible` returns them.
      folder: created if it is missing.
      grid: whether all images are in one picture.
    """
    images = arrays["image"]
    assert images is not None
    kept = {name: array for name, array in arrays.items() if array is not None}
    with writing(folder / "samples.npz"):
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / "samples.npz", **kept)  # type: ignore[arg-type]  # allow_pickle is no array
    if grid:
        return f"{folder / 'samples.npz'} and {write_png(tile(visible(images)), folder / 'grid.png')}"
    digits = max(4, len(str(len(images) - 1)))
    images = visible(images)
    for index, image in enumerate(images):
        write_png(image, folder / f"{index:0{digits}}.png", scale=1)
    return f"{folder / 'samples.npz'} and {len(images)} PNGs"


def read_png(path: Path | str) -> np.ndarray:
    """The picture in a PNG: [height, width, 1 or 3] uint8.

    Raises:
      ValueError: Pillow is missing.
    """
    with _pillow().open(path) as image:
        pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    return _checked(pixels)


def write_gif(
    frames: Sequence[np.ndarray],
    path: Path | str,
    milliseconds: int = 120,
    captions: Sequence[str] | None = None,
    last_milliseconds: int = 2000,
    scale: int = 0,
    most_bytes: int = 700_000,
) -> Path:
    """Writes an animated GIF that repeats and pauses at its last frame; creates the folder if it is missing.

    A frame that equals the previous one, caption included, extends the time of the previous one. An animation that is
    too large for a page is enlarged less; if it is still too large, it has fewer frames, each for a longer time.

    Args:
      frames: pictures of one shape, [height, width], [height, width, 1] or [height, width, 3] uint8; at least one.
      path: of the GIF.
      milliseconds: time of each frame; a GIF stores multiples of 10.
      captions: one for each frame, drawn below it.
      last_milliseconds: time of the last frame.
      scale: factor by which they are enlarged; 0: the largest with a longer side of at most 500 pixels.
      most_bytes: largest size of the file; 0: no limit.

    Raises:
      ValueError: no frame, wrong shape or dtype, different numbers of captions and frames, or Pillow is missing.
    """
    pillow = _pillow()
    if not len(frames):
        raise ValueError("an animation needs at least one frame, got none")
    pictures = [_checked(frame) for frame in frames]
    shapes = sorted({picture.shape for picture in pictures})
    if len(shapes) > 1:
        raise ValueError(f"the frames of an animation have one shape, got {shapes[0]} and {shapes[1]}")
    if captions is not None and len(captions) != len(frames):
        raise ValueError(f"an animation needs a caption for each frame, got {len(captions)} for {len(frames)}")
    if scale < 0:
        raise ValueError(f"scale is at least 1, or 0 for what fits, got {scale}")
    if milliseconds < 10 or last_milliseconds < 10:
        raise ValueError(
            f"the times of frames are at least 10 milliseconds, got {milliseconds} and {last_milliseconds}"
        )
    sizes = [scale] if scale else range(_scale(pictures[0], 0, GIF_SIDE), 0, -1)
    tries = [(size, len(pictures)) for size in sizes]
    tries += [(sizes[-1], len(pictures) // part) for part in (2, 3, 4, 6, 8, 12, 16) if len(pictures) // part > 1]
    for size, count in tries:
        kept = np.unique(np.linspace(0, len(pictures) - 1, count).round().astype(int)).tolist()
        drawn = [pillow.fromarray(_plain(_enlarged(pictures[index], size))) for index in kept]
        if captions is not None:
            drawn = [_captioned(image, captions[index]) for image, index in zip(drawn, kept, strict=True)]
        data = _encoded(drawn, round(milliseconds * len(pictures) / count), last_milliseconds)
        if not most_bytes or len(data) <= most_bytes:
            break
    with writing(path):
        path = _writable(path)
        path.write_bytes(data)
    return path


def _encoded(images: Sequence[Any], milliseconds: int, last_milliseconds: int) -> bytes:
    """An animation as GIF."""
    palette = _palette(images)
    frames = [image.convert("RGB").quantize(palette=palette, dither=_pillow().Dither.NONE) for image in images]
    durations = [milliseconds] * (len(frames) - 1) + [last_milliseconds]
    data = io.BytesIO()
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return data.getvalue()


def _palette(images: Sequence[Any]) -> Any:
    """The colours of an animation: greys, or a median cut of a few frames; and the colours of captions."""
    pillow = _pillow()
    if images[0].mode == "L":
        colours = [(level, level, level) for level in np.linspace(0, 255, GREYS).round().astype(int).tolist()]
    else:
        few = np.unique(np.linspace(0, len(images) - 1, 6).round().astype(int))
        found = pillow.fromarray(np.concatenate([np.asarray(images[index]) for index in few])).quantize(COLOURS - 2)
        flat = found.getpalette()[: 3 * (COLOURS - 2)]
        colours = [INK, WHITE, *zip(flat[::3], flat[1::3], flat[2::3], strict=True)]
    palette = pillow.new("P", (1, 1))
    palette.putpalette([value for colour in colours for value in colour])
    return palette


def _captioned(image: Any, text: str) -> Any:
    """The image with a line of text below it, which is cut off if it is too long."""
    from PIL import ImageDraw, ImageFont

    gray = image.mode == "L"
    taller = _pillow().new(image.mode, (image.width, image.height + BAND), BACKGROUND if gray else WHITE)
    taller.paste(image, (0, 0))
    pen = ImageDraw.Draw(taller)
    pen.fontmode = "1"  # smooth edges would need more colours
    pen.text((4, image.height + 3), text, INK[0] if gray else INK, ImageFont.load_default(13))
    return taller


def _checked(image: np.ndarray) -> np.ndarray:
    """A picture as [height, width, channels]."""
    shaped = image[..., None] if image.ndim == 2 else image
    if shaped.ndim != 3 or shaped.shape[-1] not in (1, 3) or 0 in shaped.shape:
        raise ValueError(f"a picture is [height, width], or [height, width, 1 or 3], got shape {image.shape}")
    if shaped.dtype != np.uint8:
        raise ValueError(f"a picture is uint8, 0 to 255, got {image.dtype}")
    return shaped


def _scale(image: np.ndarray, scale: int, longest: int) -> int:
    if scale < 0:
        raise ValueError(f"scale is at least 1, or 0 for what fits, got {scale}")
    return scale or max(1, longest // max(image.shape[:2]))


def _enlarged(image: np.ndarray, scale: int, axis: int = 0) -> np.ndarray:
    """Each pixel repeated `scale` times along `axis` and the next axis."""
    return image.repeat(scale, axis).repeat(scale, axis + 1)


def _plain(image: np.ndarray) -> np.ndarray:
    """Without the axis of a single channel, as Pillow needs it."""
    return np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)


def _writable(path: Path | str) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _pillow() -> Any:
    return extras.load("PIL.Image", "a picture", "demo")
