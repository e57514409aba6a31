"""PNG, JPEG and other files to uint8 pixels, through Pillow."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxai import extras

if TYPE_CHECKING:
    from PIL.Image import Image

GREY_MODES = ("1", "L", "LA", "La")


def decode(data: bytes | Path, channels: int | None, resize: int | None, source: str) -> np.ndarray:
    """Pixels of one encoded image.

    Args:
      data: the encoded bytes, or the file that holds them.
      channels: 1 converts to grey, 3 to RGB, None keeps grey images grey and makes all others RGB.
      resize: None keeps the size; a number scales the shorter side to it and crops the centre to a square.
      source: names the image in the message.

    Returns:
      [height, width, channels] uint8.

    Raises:
      ValueError: not an image, truncated, or more than 8 bits a channel.
    """
    image_module = _pillow()
    try:
        with image_module.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"pixels have mode {image.mode}; expected 8 bits a channel")
            if channels is None:
                channels = 1 if image.mode in GREY_MODES else 3
            pixels = _fit(image.convert("L" if channels == 1 else "RGB"), resize)
    # Pillow raises SyntaxError for a broken PNG chunk.
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise ValueError(f"{source} cannot be decoded: {' '.join(str(error).split())}") from error
    return pixels


def resize_all(images: np.ndarray, size: int) -> np.ndarray:
    """Scale the shorter side of each image to `size` and crop the centre.

    Args:
      images: [examples, height, width, channels] uint8, channels 1 or 3.
      size: height and width afterwards.
    """
    image_module = _pillow()
    pictures = images[..., 0] if images.shape[-1] == 1 else images
    return np.stack([_fit(image_module.fromarray(picture), size) for picture in pictures])


def _fit(image: "Image", size: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _pillow():  # type: ignore[no-untyped-def]  # a module has no better type
    return extras.load("PIL.Image", "decoding images", "data")
