"""A trained classifier: class probabilities and features of new images."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxai import cnn, inputs
from jaxai.core import PyTree, State
from jaxai.data.image_checks import check
from jaxai.trained import Trained, by_rows, portable

__all__ = ["TrainedClassifier"]


class TrainedClassifier(Trained):
    """A run of image classification; see `jaxai.load`."""

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the columns of `predict`; numbers if the run has no names."""
        names = self._json("data.json").get("classes") or range(self.config.workload.num_classes)
        return tuple(map(str, names))

    def predict(self, images: Any) -> np.ndarray:
        """Probabilities of the classes.

        Args:
          images: [n, height, width, channels] uint8 in [0, 255] or float32 in [0, 1], or one image without the first
            axis. Any number of them.

        Returns:
          [n, classes] float32, each row of sum 1; [classes] for one image.

        Raises:
          ValueError: the images are not valid training data, or have another shape than the run's.
        """
        return self._of_images(self._probabilities, images)

    def logits(self, images: Any) -> np.ndarray:
        """The logits, whose softmax `predict` returns: [n, classes] float32."""
        return self._of_images(self._predict, images)

    def features(self, images: Any) -> np.ndarray:
        """The input of the last layer: an embedding of each image, [n, features] float32; see `predict`."""
        return self._of_images(self._features, images)

    def feature_maps(self, images: Any, layers: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """The outputs of layers, as {"Conv_1": [n, height, width, channels]}.

        `cnn.make_feature_maps` returns the differentiable form, for Grad-CAM.

        Args:
          images: see `predict`.
          layers: names of modules, such as `ResidualBlock_2/Conv_1`; (): all layers.

        Raises:
          ValueError: a name that the network does not have.
        """
        maps = cnn.make_feature_maps(self.config.workload, layers=layers)
        found: dict[str, np.ndarray] = self._of_images(jax.jit(lambda state, images: maps(state, images)[1]), images)
        return found

    def _of_images(self, function: Callable[[State, Any], PyTree], images: Any) -> Any:
        given = np.asanyarray(images)
        shape = tuple(self.config.workload.image_shape)
        one = given.shape == shape
        given = given[None] if one else given
        if given.dtype == np.bool_:
            given = given * np.uint8(255)
        inputs.check_images(given, shape)
        check(given, np.zeros(len(given), np.int32), 1, "images")  # as training data, but without labels
        found = by_rows(functools.partial(function, self.state), given)
        return jax.tree.map(lambda leaf: leaf[0], found) if one else found

    @functools.cached_property
    def _probabilities(self) -> Callable[[State, Any], jax.Array]:
        predict = self._pure_predict
        return jax.jit(lambda state, images: jax.nn.softmax(predict(state, images)))

    @functools.cached_property
    def _features(self) -> Callable[[State, Any], jax.Array]:
        features = cnn.make_features(self.config.workload)
        return jax.jit(lambda state, images: features(state, images)[0])

    def _exported(self) -> tuple[Callable[..., PyTree], tuple[PyTree, ...]]:
        """Images [batch, height, width, channels] uint8 -> probabilities [batch, classes] float32."""
        config = portable(self.config.workload)
        predict = cnn.make_predict(config)
        images = jax.ShapeDtypeStruct((1, *config.image_shape), np.uint8)
        return lambda images: jax.nn.softmax(predict(self.state, images)), (images,)

    @property
    def _description(self) -> str:
        config = self.config.workload
        return f"{config.architecture}, {len(self.classes)} classes of images {list(config.image_shape)}"

    @property
    def _sizes(self) -> Mapping[str, int]:
        return {"classes": self.config.workload.num_classes}

    @property
    def _metadata(self) -> dict[str, Any]:
        return super()._metadata | {"classes": list(self.classes)}
