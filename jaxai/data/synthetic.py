"""Random images of any shape with a learnable signal, for benchmarks and tests."""

import numpy as np

from jaxai.data.image_source import ImageSource, Split, Splits
from jaxai.data.memory import check_images_fit, new_images

BLOCK = 4096
MOST_CLASSES = 1_000_000
SIGNAL = 63
"""Amplitude of the class pattern; the other 192 of 255 grey levels are uniform noise."""


def source(image_shape: tuple[int, ...], num_classes: int, examples: int, test_examples: int) -> ImageSource:
    """Uniform noise added to a fixed random pattern per class; the same arrays for the same arguments.

    Args:
      image_shape: (height, width, channels).
      num_classes: 1 to 1,000,000.
      examples: number of training images.
      test_examples: number of test images.

    Raises:
      ValueError: a number out of its range, or more images than fit into memory.
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape is {image_shape}; expected height, width and channels, each at least 1")
    for name, value in (("num_classes", num_classes), ("examples", examples), ("test_examples", test_examples)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1 for synthetic data")
    if num_classes > MOST_CLASSES:
        raise ValueError(f"num_classes is {num_classes}; expected at most {MOST_CLASSES:,} for synthetic data")
    for count in (num_classes, examples + test_examples):
        check_images_fit(count, image_shape)

    def read_splits() -> Splits:
        random = np.random.default_rng(0)
        patterns = random.integers(0, 2, (num_classes, *image_shape), np.uint8) * np.uint8(SIGNAL)
        train = _draw(random, patterns, examples)
        test = _draw(random, patterns, test_examples)
        return Splits(train, test, tuple(str(label) for label in range(num_classes)))

    return ImageSource("synthetic", (), {}, read_splits)


def _draw(random: np.random.Generator, patterns: np.ndarray, examples: int) -> Split:
    labels = random.permutation(np.arange(examples, dtype=np.int32) % len(patterns))
    images = new_images(examples, patterns.shape[1:])
    for start in range(0, examples, BLOCK):
        block = images[start : start + BLOCK]
        # Bounded integers are ten times slower than bytes.
        noise = np.frombuffer(random.bytes(block.size), np.uint8).reshape(block.shape)
        block[:] = noise - noise // 4
        block += patterns[labels[start : start + BLOCK]]
    return {"image": images, "label": labels}
