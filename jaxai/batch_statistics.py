"""Statistics of batch normalisation, for all networks: options of the layer, and recomputation."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxai.core import PyTree

RECOMPUTE = "recompute"
"""An empty collection: where it is mutable, a network stores the statistics of the last batch only."""


def options(module: nn.Module, x: jax.Array, axis_name: str | None, momentum: float, *, train: bool) -> dict[str, Any]:
    """Arguments of `nn.BatchNorm` inside `module`, for training, evaluation and recomputed statistics.

    Args:
      module: the calling linen module.
      x: [batch, ..., channels], the input of the layer.
      axis_name: of the devices that statistics are averaged over; None: one device.
      momentum: of the moving averages, 0 to below 1.
      train: normalise with the statistics of the batch.

    Returns:
      Keyword arguments: `use_running_average`, `momentum`, `axis_name`.

    Raises:
      ValueError: in training the batch, over all devices, has one value per channel, so that every output would be 0.
    """
    recompute = module.is_mutable_collection(RECOMPUTE) and not module.is_initializing()
    batch = train or recompute
    known = not batch or module.is_initializing()
    if not known and math.prod(x.shape[:-1]) * (1 if axis_name is None else lax.axis_size(axis_name)) == 1:
        raise ValueError(
            "batch normalization in training needs more than 1 value per channel, and gets 1 example of"
            f" {'x'.join(map(str, x.shape[1:-1])) or 'no'} pixels: take a larger batch_size,"
            " fewer devices or gradient_blocks, or another normalization"
        )
    return {"use_running_average": not batch, "momentum": 0.0 if recompute else momentum, "axis_name": axis_name}


def recompute(network: nn.Module, variables: PyTree, batches: tuple[Any, ...]) -> PyTree:
    """The collection "batch_stats" of many batches: mean and variance over all their examples.

    Each layer's input is normalised by its own batch (Wu and Johnson 2021, arXiv:2105.07576, section 3).

    Args:
      network: a linen module whose batch normalisation takes `options`.
      variables: its collections, with "batch_stats".
      batches: the arguments of its call, each leaf [batches, batch, ...].
    """

    def of_batch(batch: PyTree) -> PyTree:
        mutable = ["batch_stats", RECOMPUTE]
        return network.apply(variables, *batch, train=False, mutable=mutable)[1]["batch_stats"]

    return jax.tree.map(_pooled, lax.map(of_batch, batches), is_leaf=_is_statistics)


def _is_statistics(node: PyTree) -> bool:
    return isinstance(node, dict) and node.keys() == {"mean", "var"}


def _pooled(node: PyTree) -> PyTree:
    if not _is_statistics(node):
        return node[0]  # of spectral normalisation, which does not depend on the batches
    return {"mean": node["mean"].mean(0), "var": node["var"].mean(0) + jnp.var(node["mean"], axis=0)}
