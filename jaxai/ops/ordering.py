"""Makes XLA schedule a write after reads, where no data dependency does."""

import jax
import jax.numpy as jnp


def computed_after(value: jax.Array, known: jax.Array | bool) -> jax.Array:
    """`value` itself, but no earlier than `known` is computed.

    XLA may run independent operations in any order. Where a step reads a large buffer (the replay) and then writes to
    it, and the written values do not depend on what was read, XLA may schedule the write first; then it keeps a copy
    of the whole buffer for the reads, on every step. If the written values pass through this function, with a `known`
    that depends on the reads, the write comes last and happens in place. `lax.optimization_barrier` is not enough:
    compilers remove it before they assign buffers.

    `known` adds 0 or 1, and the minimum undoes it. XLA cannot prove this and keeps the dependency.

    Args:
      value: any shape, float. NaN and infinities are kept.
      known: bool, broadcasts with `value`; a comparison on a result of the reads, whatever its outcome.

    Returns:
      `value`; a denormal number may become 0, as in any arithmetic of XLA on a CPU.
    """
    return jnp.minimum(value, value + known)
