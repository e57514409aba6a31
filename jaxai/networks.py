"""Networks, including a user's own: checks of linen modules, their variables, the dtype of activations.

Convert a module of `flax.nnx` to linen with `flax.nnx.bridge.to_linen(TheClass, ...)`.
"""

import inspect
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxai.core import Key, PyTree, pmean

__all__ = ["Dtype", "activation_dtype", "check_output", "initialize", "pmean_floats", "require", "rngs"]

Dtype = Literal["auto", "float32", "bfloat16"]
"""Of activations; parameters are always float32."""
PERSISTENT = frozenset({"batch_stats", "constants"})
"""Collections whose shapes are known not to change."""


def activation_dtype(name: Dtype) -> jnp.dtype:
    """The dtype that a configuration names; `auto` is float32 on CPU and bfloat16 on accelerators."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def require(network: Any, name: str, call: str) -> nn.Module:
    """A network that a user gives, checked: a linen module, which takes `train` where `call` has it.

    Args:
      network: the argument of the user.
      name: of the argument, for the message.
      call: its signature, for the message, as "images, *, train".

    Raises:
      ValueError: it is something else; one line that states the fix.
    """
    kind = network if isinstance(network, type) else type(network)
    if not issubclass(kind, nn.Module) and any(each.__module__.startswith("flax.nnx") for each in kind.__mro__):
        raise ValueError(
            f"{name} is the nnx module {kind.__name__}; make it one of linen:"
            f" flax.nnx.bridge.to_linen({kind.__name__}, ...)"
        )
    if isinstance(network, type) and issubclass(network, nn.Module):
        raise ValueError(f"{name} is the class {kind.__name__}; give a module: {kind.__name__}(...)")
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} is a {kind.__name__}; expected a linen module that is called as ({call})")
    if "train" not in call:
        return network
    called = getattr(network, "nnx_class", kind).__call__
    arguments = inspect.signature(called).parameters.values()
    if not any(each.name == "train" or each.kind is each.VAR_KEYWORD for each in arguments):
        given = ", ".join(each.name for each in arguments if each.name != "self")
        raise ValueError(f"{name} is called as ({given}); define its __call__(self, {call})")
    return network


def rngs(key: Key) -> dict[str, Key]:
    """The random streams of one call: `dropout`, and `params` and `default` in place of any other.

    For a stream that is missing, linen uses `params` and nnx uses `default`.
    """
    return {"dropout": key, "params": jax.random.fold_in(key, 1), "default": jax.random.fold_in(key, 2)}


def initialize(network: nn.Module, key: Key, *inputs: Any) -> tuple[PyTree, dict[str, PyTree], Any]:
    """Parameters, further collections, and the output of a network that is called with `train=False`.

    Sown values are left out: they belong to one call, and the structure of a state must not change between steps.

    Args:
      network: a linen module.
      key: for the parameters.
      inputs: of the network, a batch of 1.

    Returns:
      (params, collections, output); collections as `{"batch_stats": ...}`.
    """
    streams = rngs(key) | {"params": key}
    output, variables = network.init_with_output(streams, *inputs, train=False)
    collections = dict(variables)
    params = collections.pop("params", {})
    if collections.keys() - PERSISTENT:
        batch = [None if each is None else jnp.concatenate([each, each]) for each in inputs]
        after = jax.eval_shape(
            lambda: network.apply(variables, *batch, train=False, rngs=streams, mutable=list(collections))[1]
        )
        collections = {name: each for name, each in collections.items() if _shapes(each) == _shapes(after.get(name))}
    return params, collections, output


def check_output(output: Any, expected: tuple[int, ...], name: str, described: str) -> None:
    """Checks the output of a network.

    Args:
      output: for a batch of 1; an array, or its shape and dtype.
      expected: shape, for the batch of 1.
      name: of the network, for the message.
      described: the expected output, for the message, as "logits [batch, 10]".

    Raises:
      ValueError: it is not a floating-point array of this shape.
    """
    if not hasattr(output, "shape"):
        raise ValueError(f"{name} returns a {type(output).__name__}; expected {described}")
    if output.shape != expected:
        named = output.shape[:1] == expected[:1]  # else the first number is not that of the batch
        shape = ", ".join([*["batch"] * named, *map(str, output.shape[named:])])
        raise ValueError(f"{name} returns shape [{shape}]{'' if named else ' for a batch of 1'}; expected {described}")
    if not jnp.issubdtype(output.dtype, jnp.floating):
        raise ValueError(f"{name} returns {output.dtype}; expected floats, {described}")


def pmean_floats(collections: PyTree, axis_name: str | None) -> PyTree:
    """Averages the floats in collections over devices, as each device computes them from its own part of the batch.

    Other leaves, as counters, are the same on all devices and are not changed.
    """
    if axis_name is None:
        return collections
    return jax.tree.map(
        lambda leaf: pmean(leaf, axis_name) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf, collections
    )


def _shapes(tree: PyTree) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
