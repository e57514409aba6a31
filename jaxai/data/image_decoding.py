"""Decoding of PNG, JPEG and other files to uint8 pixels, with Pillow."""

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxai import extras
from jaxai.data.memory import new_images

if TYPE_CHECKING:
    from PIL.Image import Image

GREY_MODES = ("1", "L", "LA", "La")
TRANSPARENT_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
ORIENTATION = 0x0112
"""The EXIF tag with the orientation of the camera; 1 is upright."""


def decode_image(
    data: bytes | Path,
    channels: int | None,
    resize: int | None,
    source: str,
    seen: Counter[str] | None = None,
    upright: bool = False,
) -> np.ndarray:
    """Pixels of one encoded image, on a white background.

    Args:
      data: the encoded bytes, or the file that holds them.
      channels: 1 converts to grey, 3 to RGB; None keeps grey images grey and converts all others to RGB.
      resize: None keeps the size; a number scales the shorter side to it, in pixels, and crops the centre to a square.
      source: name of the image, for the message.
      seen: counts "grey" and "transparent" images, those with several "frames", and those "turned" upright.
      upright: rotate the image by its EXIF orientation.

    Returns:
      [height, width, channels] uint8, of the first frame.

    Raises:
      ValueError: not an image, truncated, or more than 8 bits per channel.
    """
    counted: Counter[str] = Counter() if seen is None else seen
    with _opened(data, source) as image:
        if channels is None:
            channels = 1 if image.mode in GREY_MODES else 3
        counted["grey"] += image.mode in GREY_MODES
        # A photo with a preview (MPO) is not an animation.
        counted["frames"] += getattr(image, "is_animated", False) and image.format != "MPO"
        image.load()
        if upright:
            image = _upright(image, counted)
        return _converted(image, channels, resize, counted)


def pixels_of(image: "Image", channels: int | None, source: str) -> np.ndarray:
    """Pixels of a PIL image, as `decode_image` returns those of a file.

    Args:
      image: of any mode with 8 bits per channel.
      channels: 1 converts to grey, 3 to RGB; None keeps grey images grey and converts all others to RGB.
      source: name of the image, for the message.

    Returns:
      [height, width, channels] uint8.

    Raises:
      ValueError: more than 8 bits per channel, or PIL cannot read the pixels.
    """
    if channels is None:
        channels = 1 if image.mode in GREY_MODES else 3
    try:
        _check_depth(image)
        return _converted(image, channels, None, Counter())
    except Exception as error:
        raise ValueError(f"{source}: the image cannot be read: {' '.join(str(error).split())}") from error


def _converted(image: "Image", channels: int, resize: int | None, seen: Counter[str]) -> np.ndarray:
    if image.mode in TRANSPARENT_MODES or "transparency" in image.info:
        image = _on_white(image, seen)
    return _fit(image.convert("L" if channels == 1 else "RGB"), resize)


def _check_depth(image: "Image") -> None:
    if image.mode[0] in "IF":
        raise ValueError(f"pixels have mode {image.mode}; expected 8 bits a channel: convert with mogrify -depth 8")


def is_grey(data: Path, source: str) -> bool:
    """Whether an image is grey, by its header; raises ValueError as `decode_image`."""
    with _opened(data, source) as image:
        return image.mode in GREY_MODES


@contextlib.contextmanager
def _opened(data: bytes | Path, source: str) -> Iterator["Image"]:
    image_module = _pillow()
    try:
        # Pillow warns about damaged EXIF data and large images; the pixels are valid in both cases.
        with (
            warnings.catch_warnings(action="ignore"),
            image_module.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image,
        ):
            _check_depth(image)
            yield image
    # Pillow raises SyntaxError for a damaged PNG chunk, and other exceptions for other damage.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{source} cannot be decoded: {reason}") from error


def _upright(image: "Image", seen: Counter[str]) -> "Image":
    from PIL import ImageOps

    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data raises nearly anything
        return image
    if orientation not in range(2, 9):
        return image
    seen["turned"] += 1
    return ImageOps.exif_transpose(image)


def _on_white(image: "Image", seen: Counter[str]) -> "Image":
    image_module = _pillow()
    whole = image.convert("RGBA")
    if whole.getchannel("A").getextrema()[0] == 255:
        return image.convert("L" if image.mode in GREY_MODES else "RGB")
    seen["transparent"] += 1
    white = image_module.new("RGBA", whole.size, "white")
    return image_module.alpha_composite(white, whole)


def resize_all(images: np.ndarray, size: int) -> np.ndarray:
    """Scales the shorter side of each image to `size` and crops the centre.

    Args:
      images: [examples, height, width, channels] uint8, channels 1 or 3.
      size: height and width of the result, in pixels.
    """
    image_module = _pillow()
    pictures = images[..., 0] if images.shape[-1] == 1 else images
    resized = new_images(len(images), (size, size, images.shape[-1]))
    for index, picture in enumerate(pictures):
        resized[index] = _fit(image_module.fromarray(picture), size)
    return resized


def _fit(image: "Image", size: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _pillow():  # type: ignore[no-untyped-def]  # a module has no better type
    return extras.load("PIL.Image", "decoding images", "data")
