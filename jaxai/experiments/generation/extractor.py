"""The networks whose features are compared: jaxai's own classifiers, trained with its own presets.

A Fréchet distance is meaningful only together with the name of its extractor; distances of different extractors cannot
be compared. The name therefore ends in a digest of the weights.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxai import cnn, inputs
from jaxai.core import State
from jaxai.files.array_files import read_arrays
from jaxai.files.paths import given_path
from jaxai.runtime import config as configs
from jaxai.runtime.run_folder import RunFolder

BUNDLED = Path(__file__).parent / "extractors"
FOR_SHAPE: Mapping[tuple[int, ...], str] = {(28, 28, 1): "mnist", (32, 32, 3): "cifar10"}
"""The bundled extractor for images of a height, width and number of channels."""
RECIPES = {"mnist": "configs/mnist_full.py", "cifar10": "configs/cifar10_augmented.py"}
"""The training of each bundled extractor."""
BATCH = 500
"""Number of images in a batch of an extractor; the result does not depend on it."""


class Extractor(NamedTuple):
    """A classifier as a measure.

    Attributes:
      name: with a digest of the weights, such as "mnist-1a2b3c4d".
      image_shape: height, width and channels of its images.
      features: number of features.
      classes: number of labels; 0 if it is not a classifier.
      apply: images [batch, height, width, channels], uint8 or float in [0, 1] -> (features [batch, features], logits
        [batch, classes]), float32; a pure function, to be jitted by the caller.
      names: of its labels in their order; empty if they are not known.
    """

    name: str
    image_shape: tuple[int, ...]
    features: int
    classes: int
    apply: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    names: tuple[str, ...] = ()

    def labels_of(self, classes: Sequence[str]) -> np.ndarray | None:
        """Its label for each class, by name if it has names; None if it does not know these classes."""
        if len(classes) != self.classes or (self.names and {*classes} != {*self.names}):
            return None
        return np.array([self.names.index(name) for name in classes] if self.names else range(self.classes), np.int32)


def load_extractor(name: str, image_shape: tuple[int, ...]) -> Extractor:
    """The extractor of a name.

    Args:
      name: "auto" for the bundled one that fits the images, or else "pixels"; the name of a bundled one;
        the folder of a classifier's run, or an exported `.npz`.
      image_shape: height, width and channels of the images to measure.

    Raises:
      ValueError: there is no extractor of this name, it takes images of another shape, or the run is not a
        classifier's.
    """
    if name == "auto":
        name = FOR_SHAPE.get(tuple(image_shape), "pixels")
    if name == "pixels":
        return _pixels(tuple(image_shape))
    path = given_path(name, "extractor")
    if name in RECIPES:
        extractor = _read(BUNDLED / f"{name}.npz", name)
    elif path.suffix == ".npz" and path.is_file():
        extractor = _read(path, path.stem)
    elif (path / "config.json").is_file():
        names = tuple((RunFolder(path).data() or {}).get("classes", ()))
        extractor = _from(*_trained(path), path.resolve().name)._replace(names=names)
    else:
        raise ValueError(
            f"no extractor {name!r}; choose auto, {', '.join(RECIPES)}, pixels, the folder of a classifier's run,"
            " or none to measure nothing"
        )
    if extractor.image_shape != tuple(image_shape):
        raise ValueError(
            f"extractor {extractor.name} takes images of shape {list(extractor.image_shape)}, the data has"
            f" {list(image_shape)}; train a classifier on this data and give its run folder as --extractor"
        )
    return extractor


def extract(extractor: Extractor, images: np.ndarray | jax.Array) -> tuple[jax.Array, jax.Array]:
    """(features [n, features], logits [n, classes]) of any number of images, in batches of one shape.

    Raises:
      ValueError: images of another shape than the extractor's, or neither uint8 nor float.
    """
    inputs.check_images(np.asarray(images), extractor.image_shape)
    apply = jax.jit(extractor.apply)
    padding = -len(images) % BATCH
    padded = np.pad(np.asarray(images), [(0, padding), *[(0, 0)] * 3])
    parts = [apply(padded[first : first + BATCH]) for first in range(0, len(padded), BATCH)]
    features, logits = (jnp.concatenate(each)[: len(images)] for each in zip(*parts, strict=True))
    return features, logits


def export(run: Path, path: Path) -> Extractor:
    """Writes the weights of a classifier's run, in float16, into one file.

    Raises:
      ValueError: the folder holds no classifier's run, or one without checkpoint.
    """
    config, state = _trained(run)
    leaves = traverse_util.flatten_dict({"params": state.params, "extra": state.extra}, sep="/")
    arrays = {key: np.asarray(leaf, np.float16) for key, leaf in leaves.items()}
    np.savez_compressed(path, config=json.dumps(configs.to_dict(config)), **arrays)  # type: ignore[arg-type]  # as in nonfinite
    return _read(path, path.stem)


def _read(path: Path, name: str) -> Extractor:
    stored = read_arrays(path, "give a file that jaxai.experiments.generation.extractor.export has written", "config")
    config = configs.from_dict_as(cnn.Config, json.loads(str(stored.pop("config"))))
    tree: Any = traverse_util.unflatten_dict({key: leaf.astype(np.float32) for key, leaf in stored.items()}, sep="/")
    return _from(
        config, State(jnp.int32(0), tree["params"], None, jax.random.key(0), extra=tree.get("extra", {})), name
    )


def _trained(run: Path) -> tuple[cnn.Config, State]:
    """The network of a classifier's run, and the parts of its last state that evaluation uses."""
    from jaxai.runtime import parallel
    from jaxai.runtime.restore import trained_state
    from jaxai.runtime.run_folder import RunFolder

    experiment = RunFolder(run).load_config()
    if not isinstance(experiment.workload, cnn.Config):
        raise ValueError(f"{run} is no run of a classifier, which an extractor has to be")
    where = dataclasses.replace(experiment.run, workdir=str(run), mode="jit")
    state = trained_state(cnn.make(experiment.workload), where, parallel.make_mesh(1))
    extra = cnn.variables(state)
    kept = state.replace(params=extra.pop("params"), opt_state=None, extra=extra)
    network = cnn.Config(
        **{field.name: getattr(experiment.workload, field.name) for field in dataclasses.fields(cnn.Config)}
    )
    return network, kept


def _pixels(image_shape: tuple[int, ...]) -> Extractor:
    """Images of 8x8 pixels: crude, but available for every shape. It has no labels."""
    channels = image_shape[-1]

    def apply(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        small = jax.image.resize(inputs.scaled(images), (len(images), 8, 8, channels), "linear")
        return small.reshape(len(images), -1), jnp.zeros((len(images), 0))

    return Extractor("pixels-8x8", image_shape, 64 * channels, 0, apply)


def _from(config: cnn.Config, state: State, name: str) -> Extractor:
    # The same precision on every chip.
    config = dataclasses.replace(config, dtype="float32", ema_decay=0.0)
    apply = cnn.make_features(config)
    images = jax.ShapeDtypeStruct((1, *config.image_shape), jnp.uint8)
    features, logits = jax.eval_shape(apply, state, images)
    digest = hashlib.blake2b(digest_size=4)
    for leaf in jax.tree.leaves((state.params, state.extra)):
        digest.update(np.asarray(leaf, np.float32).tobytes())
    return Extractor(
        f"{name}-{digest.hexdigest()}",
        tuple(config.image_shape),
        features.shape[-1],
        logits.shape[-1],
        lambda images: apply(state, images),
    )
