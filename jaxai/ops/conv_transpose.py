"""Transposed convolution: `lax.conv_transpose`; on CPU one matmul, whose products are added at their output positions.

Each pixel times the whole kernel is one matmul to `kernel height * kernel width * features` numbers, which overlap in
the output: they are added across, then down. Value and both gradients of a batch of 64 in float32 on two x86 cores
(jax 0.10.2; processor time over two, medians, other work running), compared with a matmul of patches of the input with
the kernel's phases: 165 ms against 190 to 270 for 7x7x256 to 7x7x128 (5x5, stride 1), 44 to 49 against 48 to 52 for
7x7x128 to 14x14x64 and 3 against 31 to 34 for 14x14x64 to 28x28x1 (5x5, stride 2).

Source of the polyphase form: Shi et al., "Is the deconvolution layer the same as a convolutional layer?" (2016).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jaxai.ops.conv import NHWC_HWIO_NHWC


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
    itself, or its polyphase form on request. All JAX transformations work, including second derivatives.

    Args:
      x: [batch, height, width, channels].
      kernel: [kernel height, kernel width, channels, features]; not flipped, as in linen and unlike in Keras.
      strides: output pixels from one input pixel to the next, (vertical, horizontal).
      padding: "SAME" (an output `stride` times as large), "VALID", or the zeros (before, after) the dilated image on
        each of the two axes.
      polyphase: on an accelerator, one plain convolution to `stride * stride` times the features, whose pixels are
        then spread out; for backends that run dilated convolutions slowly.
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
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating) or 0 in (output.size, x.size, kernel.size):
        return lax_transposed(x, kernel)

    def matmul_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return products_overlapped(x, kernel, strides, padding, precision, output.dtype)

    def convolution_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return polyphase_convolution(x, kernel, strides, padding, precision, preferred_element_type)

    # Rematerialised, so that a program for an accelerator stores no matrix of the kernel for the backward pass. Nothing
    # is computed twice: the gradient of a matmul needs only its inputs.
    return lax.platform_dependent(
        x,
        kernel,
        cpu=jax.checkpoint(matmul_transposed),
        default=convolution_transposed if polyphase else lax_transposed,
    )


class Axis(NamedTuple):
    """One axis of a transposed convolution, computed as `stride` plain ones that are interleaved: its phases.

    Output pixel `stride * position + phase` is the sum over `shift` of
    `image[position + shift] * kernel[before - phase + stride * shift]`.
    """

    stride: int
    before: int  # zeros ahead of the dilated image; negative ones crop
    image: int  # pixels of the input
    kernel: int  # taps
    output: int  # pixels

    @property
    def positions(self) -> int:
        """Pixels of the longest phase."""
        return -(-self.output // self.stride)

    @property
    def shifts(self) -> range:
        """The shifts at which some phase has a tap; at least one."""
        first = -(self.before // self.stride)
        last = (self.kernel + self.stride - 2 - self.before) // self.stride
        return range(first, max(last, first) + 1)


def axes_of(
    image_shape: Sequence[int],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
) -> tuple[Axis, Axis]:
    """The geometry of the vertical and the horizontal axis.

    Args:
      image_shape: [batch, height, width, ...].
      kernel_shape: [height, width, ...].
      strides, padding: as in `conv_transpose`.
    """

    def axis(i: int) -> Axis:
        image, kernel, stride = image_shape[1 + i], kernel_shape[i], strides[i]
        before, after = pads_of(kernel, stride, padding) if isinstance(padding, str) else padding[i]
        return Axis(stride, before, image, kernel, (image - 1) * stride + 1 + before + after - kernel + 1)

    return axis(0), axis(1)


def pads_of(kernel: int, stride: int, padding: str) -> tuple[int, int]:
    """Zeros (before, after) that `lax.conv_transpose` adds to one axis of the dilated image.

    Args:
      kernel: taps on this axis.
      stride: in output pixels.
      padding: "SAME" or "VALID".
    """
    if padding == "VALID":
        return kernel - 1, stride - 1 + max(kernel - stride, 0)
    total = kernel + stride - 2
    before = kernel - 1 if stride > kernel - 1 else (total + 1) // 2
    return before, total - before


def products_overlapped(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
) -> jax.Array:
    """`conv_transpose` as one matmul and `overlap_add` on both axes.

    Args:
      x, kernel, strides, padding, precision: as in `conv_transpose`.
      dtype: of the result; the products are added in float32 at least.
    """
    vertical, horizontal = axes_of(x.shape, kernel.shape, strides, padding)
    height, width, channels, features = kernel.shape
    accumulator = jnp.promote_types(dtype, jnp.float32)  # bfloat16 would round every tap
    products = jnp.dot(
        x.reshape(-1, channels),
        kernel.transpose(2, 0, 1, 3).reshape(channels, -1),
        precision=precision,
        preferred_element_type=accumulator,
    ).reshape(*x.shape[:3], height, width, features)
    return overlap_add(overlap_add(products, 2, horizontal), 1, vertical).astype(dtype)


def overlap_add(products: jax.Array, dimension: int, axis: Axis) -> jax.Array:
    """Adds the product of each pixel and each tap of one axis to its output pixel.

    Args:
      products: the pixels of the axis are on axis `dimension`, the taps on axis `dimension + 2`.
      dimension: of the pixels.
      axis: its geometry.

    Returns:
      `products` with the output pixels along `dimension` and without the taps.
    """
    # Split and not sliced: the gradient is then one concatenation, not a sum of padded arrays.
    taps = [lax.squeeze(tap, (dimension + 2,)) for tap in lax.split(products, (1,) * axis.kernel, axis=dimension + 2)]
    zero = jnp.zeros((), products.dtype)
    phases = []
    for phase in range(axis.stride):
        total = None
        for i, tap in enumerate(taps):
            shift, remainder = divmod(i - axis.before + phase, axis.stride)
            if remainder or not -axis.positions < shift < axis.image:
                continue
            pads = [(0, 0, 0)] * tap.ndim
            pads[dimension] = (-shift, axis.positions + shift - axis.image, 0)
            moved = lax.pad(tap, zero, pads)
            total = moved if total is None else total + moved
        if total is None:  # fewer taps than the stride
            shape = (*taps[0].shape[:dimension], axis.positions, *taps[0].shape[dimension + 1 :])
            total = jnp.zeros(shape, products.dtype)
        phases.append(total)
    joined = jnp.stack(phases, dimension + 1)
    joined = joined.reshape(*joined.shape[:dimension], axis.positions * axis.stride, *joined.shape[dimension + 2 :])
    return lax.slice_in_dim(joined, 0, axis.output, axis=dimension)


def polyphase_convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]] = "SAME",
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """`conv_transpose` as one `lax.conv_general_dilated` without dilation, followed by depth-to-space.

    Args:
      x, kernel, strides, padding, precision, preferred_element_type: as in `conv_transpose`.
    """
    axes = axes_of(x.shape, kernel.shape, strides, padding)
    pads = [(-axis.shifts[0], axis.positions + axis.shifts[-1] - axis.image) for axis in axes]
    # Cropped first: XLA's convolution for CPU reads outside of the image where a padding is negative.
    crops = [(min(before, 0), min(after, 0), 0) for before, after in pads]
    phases = lax.conv_general_dilated(
        lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crops, (0, 0, 0)]),
        phase_kernel(kernel, axes),
        (1, 1),
        [(max(before, 0), max(after, 0)) for before, after in pads],
        dimension_numbers=NHWC_HWIO_NHWC,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    vertical, horizontal = axes
    grid = phases.reshape(*phases.shape[:3], vertical.stride, horizontal.stride, kernel.shape[3])
    images = grid.transpose(0, 1, 3, 2, 4, 5).reshape(
        x.shape[0], vertical.positions * vertical.stride, horizontal.positions * horizontal.stride, kernel.shape[3]
    )
    return images[:, : vertical.output, : horizontal.output]


def phase_kernel(kernel: jax.Array, axes: tuple[Axis, Axis]) -> jax.Array:
    """[shifts, shifts, channels, stride * stride * features]: the kernel of each phase, zero where it has no tap."""
    vertical, horizontal = axes
    channels, features = kernel.shape[2:]
    pads = []
    for axis in axes:
        start = axis.before - axis.stride + 1 + axis.stride * axis.shifts[0]
        pads.append((-start, start + len(axis.shifts) * axis.stride - axis.kernel, 0))
    kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), [*pads, (0, 0, 0), (0, 0, 0)])
    kernel = kernel.reshape(
        len(vertical.shifts), vertical.stride, len(horizontal.shifts), horizontal.stride, channels, features
    )
    kernel = lax.rev(kernel, (1, 3))  # a later output pixel uses an earlier tap
    return kernel.transpose(0, 2, 4, 1, 3, 5).reshape(len(vertical.shifts), len(horizontal.shifts), channels, -1)
