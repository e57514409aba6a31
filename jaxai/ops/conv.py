"""Convolution: `lax.conv_general_dilated`, as patches times a matrix on CPU.

Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document Processing" (2006).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

NHWC_HWIO_NHWC = lax.ConvDimensionNumbers(lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2))


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """The convolution that `lax.conv_general_dilated` computes, with the same arguments and errors.

    Lowered for CPU, a floating-point 2-D convolution of `[batch, height, width, channels]` with
    `[height, width, channels, features]`, without dilation and groups, becomes one matmul. Any other convolution, and
    every convolution on an accelerator, is `lax.conv_general_dilated` itself.

    Use it in a linen module as `nn.Conv(32, (3, 3), conv_general_dilated=ops.conv_general_dilated)`. All JAX
    transformations work, including forward mode and second derivatives.

    Args:
      lhs: images, by default [batch, channels, height, width].
      rhs: kernel, by default [features, channels, height, width].
      window_strides: of the window, in pixels, one for each spatial axis.
      padding: "SAME", "VALID" or zeros (before, after) for each spatial axis.
      lhs_dilation, rhs_dilation: of images and kernel, one for each spatial axis; None: 1.
      dimension_numbers: order of the axes, as ("NHWC", "HWIO", "NHWC").
      feature_group_count, batch_group_count: groups of channels and of examples; 1: none.
      precision: of the products.
      preferred_element_type: dtype of the accumulator and the result; None: that of the inputs.

    Returns:
      The convolution, with the axes in the order of `dimension_numbers`.
    """

    def lax_convolution(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            batch_group_count=batch_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )

    output = jax.eval_shape(lax_convolution, lhs, rhs)  # raises what lax raises
    is_plain = (
        lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == NHWC_HWIO_NHWC
        and math.prod(lhs_dilation or (1,)) == math.prod(rhs_dilation or (1,)) == 1
        and feature_group_count == batch_group_count == 1
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and output.size > 0
    )
    if not is_plain:
        return lax_convolution(lhs, rhs)

    pads = padding
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, pads)

    def matmul_convolution(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return patches_matmul(lhs, rhs, window_strides, pads, precision, preferred_element_type)

    # Rematerialised, so that differentiation stores `lhs` and not its patches, which are `height * width` times larger
    # and would be stored, unused, in a program for an accelerator too.
    return lax.platform_dependent(lhs, rhs, cpu=jax.checkpoint(matmul_convolution), default=lax_convolution)


def patches_matmul(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """Convolution as one matmul of `[batch * rows * columns, height * width * channels]` patches with the kernel.

    Args:
      images: [batch, height, width, channels].
      kernel: [kernel height, kernel width, channels, features].
      strides: of the window, in pixels, (vertical, horizontal).
      pads: zeros added (before, after) each of the two axes; negative ones crop.
      precision: of the matmul.
      preferred_element_type: dtype of the accumulator and the result.

    Returns:
      [batch, rows, columns, features].
    """
    kernel_height, kernel_width, channels, features = kernel.shape
    if any(before or after for before, after in pads):
        zero = jnp.zeros((), images.dtype)
        images = lax.pad(images, zero, [(0, 0, 0), *((before, after, 0) for before, after in pads), (0, 0, 0)])
    rows = (images.shape[1] - kernel_height) // strides[0] + 1
    columns = (images.shape[2] - kernel_width) // strides[1] + 1
    patches = [
        lax.slice(
            images,
            (0, y, x, 0),
            (images.shape[0], y + (rows - 1) * strides[0] + 1, x + (columns - 1) * strides[1] + 1, channels),
            (1, *strides, 1),
        )
        for y in range(kernel_height)
        for x in range(kernel_width)
    ]
    matrix = lax.concatenate(patches, 3).reshape(-1, kernel_height * kernel_width * channels)
    product = jnp.dot(
        matrix, kernel.reshape(-1, features), precision=precision, preferred_element_type=preferred_element_type
    )
    return product.reshape(images.shape[0], rows, columns, features)
