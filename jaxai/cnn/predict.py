"""What a trained classifier computes: logits, features, feature maps; pure functions of a state."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxai import averages, batch_statistics, inputs, networks
from jaxai.averages import EMA
from jaxai.cnn.augment import test_time
from jaxai.cnn.config import Config, normalize
from jaxai.cnn.model import build
from jaxai.core import State

__all__ = ["make_feature_maps", "make_features", "make_predict", "make_recompute"]


def own_or_built(config: Config, network: nn.Module | None, axis_name: str | None = None) -> nn.Module:
    """The network that the caller gives, checked, or else that of the config.

    Args:
      config: as in `make`.
      network: a linen module, called as `network(images, train=...)`; None: that of the config.
      axis_name: as in `make`.

    Raises:
      ValueError: the network is not such a module, or a field of the config is out of its range.
    """
    if network is None:
        return build(config, config.num_classes, axis_name)
    return networks.require(network, "network", "images, *, train")


def make_predict(config: Config, *, network: nn.Module | None = None) -> Callable[[State, jax.Array], jax.Array]:
    """Logits as evaluation computes them.

    Args:
      config: as in `make`.
      network: as in `make`; None: that of the config.

    Returns:
      (state, images [batch, height, width, channels] uint8 in [0, 255] or float in [0, 1]) -> float32 logits [batch,
      num_classes]. It uses the averaged weights and batch statistics where `ema_decay` is set, and the views of
      `test_time`. `jax.nn.softmax` makes them probabilities.
    """
    network = own_or_built(config, network)

    def predict(state: State, images: jax.Array) -> jax.Array:
        inputs.check_images(images, config.image_shape)
        variables = averages.variables(state)

        def logits(images: jax.Array) -> jax.Array:
            return cast(jax.Array, network.apply(variables, images, train=False)).astype(jnp.float32)

        return test_time(logits, normalize(config, images), config.test_time)

    return predict


def make_features(
    config: Config, *, network: nn.Module | None = None
) -> Callable[[State, jax.Array], tuple[jax.Array, jax.Array]]:
    """Embeddings of images: the input of the last layer, and the logits.

    Args:
      config: as in `make`.
      network: as in `make`, with `self.sow("intermediates", "features", x)` before its last layer; None: that of the
        config.

    Returns:
      (state, images [batch, height, width, channels]) -> (features [batch, features] float32, logits [batch,
      num_classes] float32), of the weights and batch statistics that evaluation uses and of one view of each image.

    Raises:
      ValueError: the network sows no features; raised when the function is called.
    """
    network = own_or_built(config, network)

    def features(state: State, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs.check_images(images, config.image_shape)
        logits, sown = network.apply(
            averages.variables(state), normalize(config, images), train=False, mutable=["intermediates"]
        )
        if "features" not in sown.get("intermediates", {}):
            raise ValueError(
                f"network {type(network).__name__} sows no features; add self.sow('intermediates', 'features', x)"
                " before its last layer"
            )
        (found,) = sown["intermediates"]["features"]
        return found.astype(jnp.float32), cast(jax.Array, logits).astype(jnp.float32)

    return features


def make_feature_maps(
    config: Config, *, layers: Sequence[str] = (), network: nn.Module | None = None
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """The output of each layer, and the logits as a function of them, as Grad-CAM needs.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2) of the class with the number 3:

    >>> import jax
    >>> from jaxai import cnn
    >>> config = cnn.Config(width=2, depth=2, image_shape=(12, 12, 1))
    >>> state, images = cnn.make(config).init(jax.random.key(0)), jax.numpy.ones((1, 12, 12, 1))
    >>> feature_maps = make_feature_maps(config, layers=["Conv_1"])
    >>> logits, maps = feature_maps(state, images)
    >>> gradient = jax.grad(lambda x: feature_maps(state, images, {"Conv_1": x})[0][:, 3].sum())(maps["Conv_1"])
    >>> cam = jax.nn.relu((gradient.mean((1, 2), keepdims=True) * maps["Conv_1"]).sum(-1))
    >>> cam.shape
    (1, 3, 3)

    Args:
      config: as in `make`.
      layers: names of the layers to return; (): all. A name is the path of a linen module, as `ResidualBlock_2/Conv_1`
        (a convolution without the ReLU that follows it), or of a value that the network sows in `intermediates`, as
        `features`. A module that is called more than once has `#1`, `#2` ... after its name from the second call on.
      network: as in `make`; None: that of the config.

    Returns:
      (state, images, replaced={}) -> (logits [batch, num_classes] float32, {name: output}), of the weights and batch
      statistics that evaluation uses and of one view of each image. `replaced`, {name: array}, takes the place of
      these modules' outputs; the gradient of the logits by a feature map is the one by its replacement.

    Raises:
      ValueError: a name that the network does not have; raised when the function is called.
    """
    network = own_or_built(config, network)

    def feature_maps(
        state: State, images: jax.Array, replaced: Mapping[str, jax.Array] | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        inputs.check_images(images, config.image_shape)
        found: dict[str, jax.Array] = {}
        replacements = dict(replaced or {})

        def capture(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            output = call(*args, **kwargs)
            path = context.module.path
            if not path or context.method_name != "__call__" or not isinstance(output, jax.Array):
                return output
            name = _unused("/".join(path), found)
            found[name] = replacements.get(name, output).astype(output.dtype)
            return found[name]

        with nn.intercept_methods(capture):
            logits, sown = network.apply(
                averages.variables(state), normalize(config, images), train=False, mutable=["intermediates"]
            )
        _require_known(replacements, found)
        for path, value in jax.tree_util.tree_leaves_with_path(sown.get("intermediates", {})):
            found[_unused("/".join(str(each.key) for each in path if hasattr(each, "key")), found)] = value
        _require_known(layers, found)
        maps = {name: found[name] for name in layers or found}
        return cast(jax.Array, logits).astype(jnp.float32), maps

    return feature_maps


def make_recompute(config: Config) -> Callable[[State, jax.Array], State]:
    """Batch statistics recomputed from given images, in place of the averages from training.

    They are computed with the weights that evaluation uses, without augmentation and dropout. A few thousand training
    images are enough, in batches of the size used in training. The averages from training are nearly as good; the
    recomputed ones are better early in training and where the learning rate stays high.

    Args:
      config: as in `make`, whose network the state is of.

    Returns:
      (state, images [batches, batch, height, width, channels]) -> the state with these statistics; the same state for
      a network without batch statistics.
    """
    network = build(config, config.num_classes)

    def recompute(state: State, images: jax.Array) -> State:
        inputs.check_images(images[0], config.image_shape)
        variables = averages.variables(state)
        if "batch_stats" not in variables:
            return state
        found = {"batch_stats": batch_statistics.recompute(network, variables, (normalize(config, images),))}
        averaged = {EMA: state.extra[EMA] | found} if EMA in state.extra else found
        return state.replace(extra=state.extra | averaged)

    return recompute


def _unused(name: str, names: Mapping[str, Any]) -> str:
    """The name, followed by the number of its call where it was called before."""
    number = 1
    numbered = name
    while numbered in names:
        numbered, number = f"{name}#{number}", number + 1
    return numbered


def _require_known(names: Any, found: Mapping[str, Any]) -> None:
    for name in names:
        if name not in found:
            near = difflib.get_close_matches(name, found, 3, 0.3) or list(found)[:5]
            raise ValueError(f"the network has no layer {name!r}; did you mean {', '.join(near)}?")
