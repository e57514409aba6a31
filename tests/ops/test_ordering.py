import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxai.ops.ordering import computed_after


@pytest.mark.parametrize("known", [False, True])
def test_the_value_stays_what_it_is(known: bool) -> None:
    values = np.array([0, -1.5, 3e38, 1e-30, np.inf, -np.inf, np.nan, 16777216.0], np.float32)
    np.testing.assert_array_equal(jax.jit(computed_after)(values, known), values)


def read_then_write(ordered: bool, buffer: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reads rows at random, and writes one that does not depend on them."""
    loss = jnp.tanh(buffer[jax.random.randint(key, (8,), 0, len(buffer))]).sum()
    row = jax.random.normal(jax.random.fold_in(key, 1), buffer.shape[1:])
    row = computed_after(row, loss >= 0) if ordered else row
    return lax.dynamic_update_index_in_dim(buffer, row, 3, 0), loss


@pytest.mark.parametrize("steps", [1, 5])
def test_a_buffer_that_is_read_before_it_is_written_is_not_copied(steps: int) -> None:
    buffer = jax.ShapeDtypeStruct((10_000, 64), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), steps))
    temporary = {}
    for ordered in (True, False):
        loop = functools.partial(lax.scan, functools.partial(read_then_write, ordered))
        compiled = jax.jit(loop, donate_argnums=0).lower(buffer, keys).compile()
        temporary[ordered] = compiled.memory_analysis().temp_size_in_bytes
    size = buffer.size * 4
    assert temporary[True] < size / 10
    assert temporary[False] >= size  # if this fails, XLA has learned to do it alone: remove `computed_after`
