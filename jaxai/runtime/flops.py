"""FLOPs of a function, counted from its jaxpr: nothing is compiled, no array is needed, loops count in full.

The convention is the one of model FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B): only matrix products
and convolutions count, a multiply-add is 2, elementwise work is not counted. XLA's own `cost_analysis` counts the
body of a loop once, so it is useless for a recurrent network or a scanned step.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

__all__ = ["count"]

Atom = Var | Literal


def count(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs of `function(*args)`, over all devices that it runs on.

    - A product counts 2 x (output elements) x (contracted elements).
    - A convolution counts every tap of the kernel, including taps on padding, but no tap on a zero that `lhs_dilation`
      inserted between the inputs, and no pair of input and tap twice. So a SAME convolution counts all of its taps.
      A transposed convolution counts like the convolution that it reverses, and a gradient like the forward pass.
    - `scan`, and `fori_loop` with static bounds, count their body times their length. `cond`, `switch` and
      `platform_dependent` count the most expensive branch. `shard_map` and `pmap` count their body on every device.
    - Work that `jax.checkpoint` repeats counts again. Results that are not used do not count.
    - Pallas kernels and foreign calls count as 0.

    Args:
      function: anything that `jax.make_jaxpr` traces.
      *args: pytrees of arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      The number of floating point operations.

    Raises:
      ValueError: a `while_loop` contains a product: its number of iterations is not known in advance.

    Example:
      >>> matrix = jax.ShapeDtypeStruct((4, 4), "float32")
      >>> count(lambda x: x @ x, matrix)
      128
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return _count(jaxpr, [True] * len(jaxpr.outvars))


def _count(jaxpr: Jaxpr, wanted: list[bool]) -> int:
    """FLOPs of the equations that the wanted outputs depend on. `wanted`: one flag for each output."""
    live = {variable for variable, want in zip(jaxpr.outvars, wanted, strict=True) if want and _is_variable(variable)}
    total = 0
    for equation in reversed(jaxpr.eqns):
        read = [variable in live for variable in equation.outvars]
        if any(read) or equation.effects:
            live.update(variable for variable in equation.invars if _is_variable(variable))
            total += _count_equation(equation, read)
    return total


def _count_equation(equation: JaxprEqn, read: list[bool]) -> int:
    match equation.primitive.name:
        case "dot_general":
            return _dot_general(equation)
        case "conv_general_dilated":
            return _convolution(equation)
        case "scan":
            return equation.params["length"] * _count_all(equation.params["jaxpr"])
        case "while":
            if sum(_count_all(equation.params[name]) for name in ("cond_jaxpr", "body_jaxpr")):
                raise ValueError(
                    "cannot count the FLOPs of a while_loop that holds a matrix product, its number of iterations is "
                    "unknown: "
                    "use lax.scan, or lax.fori_loop with bounds that are Python integers"
                )
            return 0
        case "cond":
            return max(_count(branch.jaxpr, read) for branch in equation.params["branches"])
        case "shard_map":
            sizes = equation.params["mesh"].shape
            devices = math.prod(sizes[axis] for axis in equation.params["newly_manual_axes"])
            return devices * _count(equation.params["jaxpr"], read)
        case "pallas_call":
            return 0
        case _:  # jit, remat, custom_jvp_call, custom_vjp_call, and whatever else calls a function
            return sum(
                _count(inner, read) if len(inner.outvars) == len(read) else _count_all(inner)
                for inner in _inner_jaxprs(equation)
            )


def _count_all(jaxpr: Any) -> int:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return _count(jaxpr, [True] * len(jaxpr.outvars))


def _inner_jaxprs(equation: JaxprEqn) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        inner = getattr(value, "jaxpr", value)  # a ClosedJaxpr, or a Jaxpr itself
        if isinstance(inner, Jaxpr):
            yield inner


def _is_variable(atom: Atom) -> bool:
    return not isinstance(atom, Literal)


def _shape(atom: Atom) -> tuple[int, ...]:
    return tuple(getattr(atom.aval, "shape", ()))


def _dot_general(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: JaxprEqn) -> int:
    params = equation.params
    numbers = params["dimension_numbers"]
    left, kernel, out = (_shape(variable) for variable in (*equation.invars, *equation.outvars))
    out_features, in_features_of_group = (kernel[axis] for axis in numbers.rhs_spec[:2])
    pairs = 1  # of an input position with a kernel tap, over the spatial axes
    for axis, (stride, (pad, _), input_dilation, kernel_dilation) in enumerate(
        zip(params["window_strides"], params["padding"], params["lhs_dilation"], params["rhs_dilation"], strict=True)
    ):
        inputs, taps, outputs = (
            shape[spec[axis + 2]]
            for shape, spec in ((left, numbers.lhs_spec), (kernel, numbers.rhs_spec), (out, numbers.out_spec))
        )
        # Windows begin with the same phase between inserted zeros every `input_dilation` outputs or sooner.
        phase = (np.arange(outputs) * stride - pad) % input_dilation
        real_taps = (phase[:, None] + np.arange(taps) * kernel_dilation) % input_dilation == 0
        pairs *= min(int(real_taps.sum()), inputs * taps)
    return 2 * out[numbers.out_spec[0]] * out_features * in_features_of_group * pairs
