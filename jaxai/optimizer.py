"""The optimizer of a run, for all workloads: an optax optimizer by name, a schedule, weight decay and clipping.

>>> import jax.numpy as jnp
>>> transformation = make(Optimizer(name="sgd", learning_rate=0.1, momentum=0.9, nesterov=True))
>>> state = transformation.init({"kernel": jnp.ones((2, 2))})
"""

import ast
import difflib
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxai import ranges
from jaxai.core import PyTree
from jaxai.ranges import Natural, NonNegative, OpenShare, Rate

__all__ = ["Optimizer", "find", "kernels", "make", "matrices", "same_state", "schedule"]

Schedule = Literal["constant", "cosine", "linear", "step"]


@dataclass(frozen=True)
class Optimizer:
    """An optimizer of optax with its schedule. A field that is None keeps optax's default for that optimizer."""

    name: str = "adam"  # sgd, adam, adamw, lion, muon, rmsprop, or the name of any other optax optimizer
    learning_rate: NonNegative = 1e-3  # learning rate at the end of the warm-up
    schedule: Schedule = "constant"  # of the learning rate after the warm-up
    warmup_steps: Natural = 0  # steps over which the learning rate rises linearly from 0
    decay_steps: Natural = 0  # steps over which the schedule runs, warm-up included; 0: the length of the run
    final_fraction: NonNegative = 0.0  # of the learning rate, at the end of a cosine or linear schedule
    step_boundaries: tuple[OpenShare, ...] = (0.5, 0.75)  # shares of decay_steps at which a step schedule decreases
    step_factor: NonNegative = 0.1  # factor of the learning rate at each boundary of a step schedule
    momentum: Rate | None = None  # decay rate of the momentum (sgd, rmsprop, muon, ...)
    nesterov: bool | None = None  # Nesterov momentum
    b1: Rate | None = None  # decay rate of the mean of gradients (adam and its variants)
    b2: Rate | None = None  # decay rate of the mean of squared gradients (adam and its variants)
    eps: NonNegative | None = None  # added to the denominator (adam and its variants)
    weight_decay: NonNegative = 0.0  # of kernels only; decoupled for adamw, lion, muon etc., else L2 in the gradient
    clip_norm: NonNegative = 0.0  # gradients of a larger global norm are scaled down to it; 0: off
    parameters: tuple[str, ...] = ()  # further arguments of the optax optimizer, each as name=value


FIELDS = ("momentum", "nesterov", "b1", "b2", "eps")
# Fields that have another name in optax.
SYNONYMS = {"muon": {"momentum": "beta", "b1": "adam_b1", "b2": "adam_b2"}, "signum": {"momentum": "beta"}}
OURS = ("learning_rate", "weight_decay", "mask", "weight_decay_mask", "muon_weight_dimension_numbers")
CONTRIBUTED = ("muon", "ademamix", "adopt", "prodigy")
# These need more than gradients (values of the loss, a key), or are deprecated.
EXCLUDED = ("lbfgs", "noisy_sgd", "optimistic_adam")
# optax takes a number for these, not a schedule.
UNSCHEDULED = ("rprop", "sm3")


def make(optimizer: Optimizer) -> optax.GradientTransformation:
    """The optax transformation: clip by global norm, then L2 where the decay is not decoupled, then the optimizer.

    Weight decay applies to kernels only (`kernels`). Where the optax optimizer takes it with a mask (adamw, lion, lamb,
    muon, ...) it is decoupled and scaled by the learning rate (Loshchilov and Hutter 2019, arXiv:1711.05101). For all
    others, as sgd and adam, it is added to the gradient, as in PyTorch. Muon (Jordan et al. 2024) orthogonalises every
    kernel, those of convolutions as [height * width * in, out] matrices; its Adam updates the other parameters.

    Raises:
      ValueError: an unknown optimizer or parameter, or a value out of its range; the message names it.
    """
    ranges.check(optimizer, "optimizer.")
    constructor, accepted = find(optimizer.name)
    rate: Any = schedule(optimizer)
    if optimizer.name in UNSCHEDULED:
        if optimizer.schedule != "constant" or optimizer.warmup_steps > 0:
            raise ValueError(f"optimizer.name is {optimizer.name!r}, which takes no schedule and no warm-up")
        rate = optimizer.learning_rate
    arguments: dict[str, Any] = {"learning_rate": rate, **fields(optimizer, accepted), **parse(optimizer, accepted)}
    if optimizer.name == "muon":
        arguments["muon_weight_dimension_numbers"] = matrices
        if "adam_learning_rate" in arguments:
            share = arguments["adam_learning_rate"] / optimizer.learning_rate
            arguments["adam_learning_rate"] = lambda step: share * rate(step)
    mask = next((name for name in ("mask", "weight_decay_mask") if name in accepted), None)
    decoupled = mask is not None and "weight_decay" in accepted
    if decoupled:
        # Passed even when 0: some have another default in optax.
        arguments |= {"weight_decay": optimizer.weight_decay, str(mask): kernels}
    chain: list[optax.GradientTransformation] = []
    if optimizer.clip_norm > 0:
        chain.append(optax.clip_by_global_norm(optimizer.clip_norm))
    if optimizer.weight_decay > 0 and not decoupled:
        chain.append(optax.add_decayed_weights(optimizer.weight_decay, mask=kernels))
    return optax.chain(*chain, constructor(**arguments))


def own_or_built(
    optimizer: Optimizer, transformation: optax.GradientTransformation | None, name: str = "transformation"
) -> tuple[optax.GradientTransformation, Callable[[jax.Array, PyTree], dict[str, jax.Array]]]:
    """The transformation that a user gives, or else that of the optimizer; and its learning rate as a metric.

    Args:
      optimizer: used where `transformation` is None.
      transformation: the argument of the user, or None.
      name: of the argument, for the message.

    Returns:
      (transformation, rate); rate: (step [] int32, optimizer state after the step) -> `{"learning_rate": []}`, or `{}`
      where it is not known.

    Raises:
      ValueError: a field of the optimizer, as in `make`, or a `transformation` that is no optax transformation.
    """
    if transformation is None:
        rate = schedule(optimizer)
        return make(optimizer), lambda step, opt_state: {"learning_rate": rate(step)}
    if not (callable(getattr(transformation, "init", None)) and callable(getattr(transformation, "update", None))):
        raise ValueError(
            f"{name} is a {type(transformation).__name__}; expected an optax.GradientTransformation, as"
            " optax.adamw(1e-3)"
        )
    return transformation, lambda step, opt_state: injected_learning_rate(opt_state)


def injected_learning_rate(opt_state: PyTree) -> dict[str, jax.Array]:
    """`{"learning_rate": []}` of `optax.inject_hyperparams`; `{}` where there is none, or more than one."""
    found = [value for _, value in optax.tree.get_all_with_path(opt_state, "learning_rate")]
    arrays = [value for value in found if isinstance(value, jax.Array) and value.ndim == 0]
    return {"learning_rate": arrays[0]} if len(arrays) == 1 else {}


def same_state(one: Optimizer, other: Optimizer) -> bool:
    """Whether two optimizers have the same initial state, so that one can continue from the state of the other.

    States differ where a field adds a part to the state, or is stored in it, as the learning rate of rprop.
    """
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    first, second = (make(each).init(params) for each in (one, other))
    if str(jax.tree.structure(first)) != str(jax.tree.structure(second)):
        return False
    return all(bool((a == b).all()) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def schedule(optimizer: Optimizer) -> optax.Schedule:
    """The learning rate at each step, counted from 0: a linear warm-up from 0, then the schedule.

    Raises:
      ValueError: a schedule that is not constant without its length, or a value out of its range.
    """
    ranges.check(optimizer, "optimizer.")
    kind, warmup, steps = optimizer.schedule, optimizer.warmup_steps, optimizer.decay_steps
    if kind != "constant" and steps <= warmup:
        raise ValueError(
            f"optimizer.decay_steps is {steps}, expected more than the {warmup} of optimizer.warmup_steps "
            f"for the schedule {kind!r}; run longer, or warm up over fewer steps"
        )

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        done = jnp.clip((step - warmup) / max(steps - warmup, 1), 0, 1)
        fraction: jax.Array | float = 1.0
        if kind == "cosine":
            fraction = optimizer.final_fraction + (1 - optimizer.final_fraction) * (1 + jnp.cos(jnp.pi * done)) / 2
        elif kind == "linear":
            fraction = 1 + (optimizer.final_fraction - 1) * done
        elif kind == "step":
            fallen = sum(
                (step >= round(boundary * steps)).astype(jnp.float32) for boundary in optimizer.step_boundaries
            )
            fraction = optimizer.step_factor**fallen
        rising = jnp.minimum(step / warmup, 1) if warmup else jnp.ones([])
        return optimizer.learning_rate * rising * fraction

    return rate


def kernels(params: PyTree) -> PyTree:
    """Which leaves are kernels: those with two or more axes that are not named bias or scale.

    Returns:
      A tree of bools with the structure of `params`.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim >= 2 and str(getattr(path[-1], "key", "")) not in ("bias", "scale"), params
    )


def matrices(params: PyTree) -> PyTree:
    """How Muon reads each kernel as a matrix, with outputs on the last axis; None for parameters that Adam updates."""
    return jax.tree.map(
        lambda leaf, kernel: (
            optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1) if kernel else None
        ),
        params,
        kernels(params),
    )


def find(name: str) -> tuple[Callable[..., optax.GradientTransformation], dict[str, Any]]:
    """An optax optimizer by name, and its arguments with their defaults.

    Raises:
      ValueError: unknown name; one line with similar ones.
    """
    found = {**vars(optax), **{key: getattr(optax.contrib, key) for key in CONTRIBUTED}}
    signatures = {
        key: {name: parameter.default for name, parameter in inspect.signature(value).parameters.items()}
        for key, value in found.items()
        if isinstance(value, types.FunctionType | functools.partial) and not key.startswith(("_", "scale_by_"))
    }
    optimizers = sorted(key for key in signatures if "learning_rate" in signatures[key] and key not in EXCLUDED)
    if name not in optimizers:
        near = difflib.get_close_matches(name, optimizers, n=3, cutoff=0.5) or optimizers
        raise ValueError(
            f"optimizer.name is {name!r}, which is not an optimizer of optax: did you mean {' or '.join(near)}?"
        )
    return found[name], signatures[name]


def fields(optimizer: Optimizer, accepted: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the optax optimizer from the fields that are not None.

    Args:
      optimizer: the configuration.
      accepted: arguments of the optax optimizer, from `find`.

    Raises:
      ValueError: a field that this optimizer does not take.
    """
    names = SYNONYMS.get(optimizer.name, {})
    arguments = {}
    for field in FIELDS:
        value = getattr(optimizer, field)
        name = names.get(field, field)
        if value is None:
            continue
        if name not in accepted:
            possible = [field for field in FIELDS if names.get(field, field) in accepted]
            raise ValueError(
                f"optimizer.{field} is {value}, but {optimizer.name} takes none: leave it out"
                + (f"; it takes {', '.join(possible)}" if possible else "")
            )
        arguments[name] = value
    return arguments


def parse(optimizer: Optimizer, accepted: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the optax optimizer from the field `parameters`, as Python literals or else as text.

    Args:
      optimizer: the configuration.
      accepted: arguments of the optax optimizer, from `find`.

    Raises:
      ValueError: an entry without `=`, an argument that this optimizer does not take, or a value out of its range.
    """
    arguments: dict[str, Any] = {}
    for parameter in optimizer.parameters:
        name, equals, text = parameter.partition("=")
        if not equals:
            raise ValueError(f"optimizer.parameters has {parameter!r}, expected name=value")
        if name not in accepted or name in OURS:
            known = ", ".join(sorted(accepted.keys() - set(OURS))) or "none"
            raise ValueError(
                f"optimizer.parameters has {name!r}, which {optimizer.name} does not take; it takes {known}"
            )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = float(text) if text.lower() in ("nan", "inf") else text
        check_parameter(optimizer.name, name, value, accepted[name])
        arguments[name] = value
    return arguments


def check_parameter(optimizer: str, name: str, value: Any, default: Any) -> None:
    """Checks one value of `parameters` against the field of that name, or else against the type of the default.

    Args:
      optimizer: its name.
      name: of the argument in optax.
      value: the value to check.
      default: optax's default.

    Raises:
      ValueError: another type, or out of range.
    """
    described = f"optimizer.parameters {name}"
    synonyms = {theirs: ours for ours, theirs in SYNONYMS.get(optimizer, {}).items()}
    if (field := synonyms.get(name, name)) in FIELDS:
        ranges.check_argument(described, ranges.hints(Optimizer)[field], value)
    elif isinstance(default, bool):
        ranges.check_argument(described, bool, value)
    elif isinstance(value, float) or isinstance(default, int | float):
        ranges.check_argument(described, ranges.Finite, value)
