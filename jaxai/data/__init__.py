"""Training data: named sources, your own files and arrays, checked, as dicts of NumPy arrays; epochs and streams.

Importing it loads neither tensorflow-datasets nor Pillow: only the sources that need them do.
"""

from jaxai.data.epochs import Epochs, batch_indices, permutation
from jaxai.data.from_dataset import from_dataset
from jaxai.data.image_checks import check
from jaxai.data.images import Data, Images, check_images
from jaxai.data.in_memory import arrays, pairs
from jaxai.data.load_images import load
from jaxai.data.stream import Stream
from jaxai.data.text_pairs import Pairs, PairSplit, check_pairs

__all__ = [
    "Data",
    "Epochs",
    "Images",
    "PairSplit",
    "Pairs",
    "Stream",
    "arrays",
    "batch_indices",
    "check",
    "check_images",
    "check_pairs",
    "from_dataset",
    "load",
    "pairs",
    "permutation",
]
