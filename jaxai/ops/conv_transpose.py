"""Transposed convolution: `lax.conv_transpose`, as one convolution to `stride * stride` times the channels.

Shi et al., "Is the deconvolution layer the same as a convolutional layer?" (2016).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jaxai.ops.conv import NHWC_HWIO_NHWC, patches_matmul


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]] = "SAME",
    *,
    polyphase: bool = False,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """The transposed convolution that `lax.conv_transpose(x, kernel, strides, padding)` computes, with its errors.

    Lowered for CPU, a floating-point one over images becomes one matmul. On an accelerator it is `lax.conv_transpose`
    itself, or its polyphase form on request. Every transformation applies, second derivatives included.

    Args:
      x: [batch, height, width, channels].
      kernel: [kernel height, kernel width, channels, features]; not flipped, as in linen and unlike in Keras.
      strides: of the output pixels between two neighbours of the input, (vertical, horizontal).
      padding: "SAME" (output `stride` times as large), "VALID", or the (before, after) zeros around the dilated image
        for each of the two axes.
      polyphase: on an accelerator too, one plain convolution with `stride * stride` times the features and
        depth-to-space.
      precision: of the products.
      preferred_element_type: dtype of the accumulator and the result.

    Returns:
      [batch, rows, columns, features].
    """

    def lax_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_transpose(
            x, kernel, strides, padding, precision=precision, preferred_element_type=preferred_element_type
        )

    output = jax.eval_shape(lax_transposed, x, kernel)  # raises what lax raises
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating) or output.size == 0 or kernel.size == 0:
        return lax_transposed(x, kernel)
    axes = phases_of_axes(x.shape, kernel.shape, strides, padding)

    def matmul_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
        pads = [axis.pads for axis in axes]
        phases = patches_matmul(x, phase_kernel(kernel, axes), (1, 1), pads, precision, preferred_element_type)
        return depth_to_space(phases, axes)

    def convolution_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return polyphase_convolution(x, kernel, strides, padding, precision, preferred_element_type)

    return lax.platform_dependent(
        x,
        kernel,
        cpu=jax.checkpoint(matmul_transposed),
        default=convolution_transposed if polyphase else lax_transposed,
    )


class Phases(NamedTuple):
    """How one axis of a transposed convolution falls apart into `stride` plain convolutions, in pixels."""

    stride: int
    taps: int  # of the longest phase, the width of the window on the input
    pads: tuple[int, int]  # zeros around the input; negative ones crop
    kernel_pads: tuple[int, int]  # zeros around the kernel that make it `taps * stride` long; negative ones crop
    size: int  # of the output


def phases_of_axes(
    image_shape: Sequence[int],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
) -> list[Phases]:
    """The phases of the two spatial axes.

    Output pixel `stride * q + r` is the sum over `d` of `image[q + d] * kernel[before - r + stride * d]`, where
    `before` counts the zeros ahead of the dilated image.
    """
    axes = []
    for axis, stride in enumerate(strides):
        size, width = image_shape[1 + axis], kernel_shape[axis]
        before, after = (
            transposed_pads(width, stride, padding) if isinstance(padding, str) else (int(p) for p in padding[axis])
        )
        output_size = (size - 1) * stride + 1 + before + after - width + 1
        first = -(before // stride)
        last = (width + stride - 2 - before) // stride
        quotients = -(-output_size // stride)
        taps = max(last - first + 1, 1)
        start = before - stride + 1 + stride * first
        axes.append(
            Phases(
                stride=stride,
                taps=taps,
                pads=(-first, quotients - 1 + first + taps - size),
                kernel_pads=(-start, start + taps * stride - width),
                size=output_size,
            )
        )
    return axes


def transposed_pads(width: int, stride: int, padding: str) -> tuple[int, int]:
    """Zeros (before, after) the dilated image that "SAME" and "VALID" mean to `lax.conv_transpose`."""
    if padding == "VALID":
        return width - 1, stride - 1 + max(width - stride, 0)
    total = width + stride - 2
    before = width - 1 if stride > width - 1 else -(-total // 2)
    return before, total - before


def phase_kernel(kernel: jax.Array, axes: Sequence[Phases]) -> jax.Array:
    """[taps, taps, channels, stride * stride * features]: the kernel of each phase, zero where it has no tap."""
    channels, features = kernel.shape[2:]
    zero = jnp.zeros((), kernel.dtype)
    kernel = lax.pad(kernel, zero, [*((*axis.kernel_pads, 0) for axis in axes), (0, 0, 0), (0, 0, 0)])
    vertical, horizontal = axes
    kernel = kernel.reshape(vertical.taps, vertical.stride, horizontal.taps, horizontal.stride, channels, features)
    kernel = lax.rev(kernel, (1, 3))  # a later output pixel meets an earlier tap
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5)
    return kernel.reshape(vertical.taps, horizontal.taps, channels, -1)


def depth_to_space(phases: jax.Array, axes: Sequence[Phases]) -> jax.Array:
    """[batch, rows, columns, stride * stride * features] to [batch, size, size, features]."""
    vertical, horizontal = axes
    batch, rows, columns, depth = phases.shape
    features = depth // (vertical.stride * horizontal.stride)
    images = phases.reshape(batch, rows, columns, vertical.stride, horizontal.stride, features)
    images = images.transpose(0, 1, 3, 2, 4, 5)
    images = images.reshape(batch, rows * vertical.stride, columns * horizontal.stride, features)
    return images[:, : vertical.size, : horizontal.size]


def polyphase_convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]] = "SAME",
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """`conv_transpose` as one plain `lax.conv_general_dilated` and depth-to-space; shapes as there."""
    axes = phases_of_axes(x.shape, kernel.shape, strides, padding)
    # Cropped first: XLA's CPU convolution reads outside of the image when a padding is negative.
    crops = [(min(axis.pads[0], 0), min(axis.pads[1], 0), 0) for axis in axes]
    phases = lax.conv_general_dilated(
        lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crops, (0, 0, 0)]),
        phase_kernel(kernel, axes),
        (1, 1),
        [(max(axis.pads[0], 0), max(axis.pads[1], 0)) for axis in axes],
        dimension_numbers=NHWC_HWIO_NHWC,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    return depth_to_space(phases, axes)
