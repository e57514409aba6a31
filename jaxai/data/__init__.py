"""Sources of data -> dict of NumPy arrays, validated and cached; epochs as a function of the step; host streams.

Importing it loads neither tensorflow-datasets nor Pillow: the sources that need them do.
"""

from jaxai.data.epochs import Epochs, batch_indices, permutation
from jaxai.data.images import Data, Images, checked, load
from jaxai.data.stream import Stream
from jaxai.data.validate import check

__all__ = ["Data", "Epochs", "Images", "Stream", "batch_indices", "check", "checked", "load", "permutation"]
