"""Sources of data -> dict of NumPy arrays, checked and cached; epochs as a function of the step; host streams.

Importing it loads neither tensorflow-datasets nor Pillow: the sources that need them do.
"""

from jaxai.data.epochs import Epochs, batch_indices, permutation
from jaxai.data.image_checks import check
from jaxai.data.images import Data, Images, check_images, load
from jaxai.data.stream import Stream

__all__ = ["Data", "Epochs", "Images", "Stream", "batch_indices", "check", "check_images", "load", "permutation"]
