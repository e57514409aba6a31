from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai.core import State, Workload
from jaxai.runtime import parallel
from jaxai.runtime.evaluation import Evaluation

GROUP, BATCH = 4, 8


def eval_step(state: State, batch: Any) -> dict[str, jax.Array]:
    """Knows batches that divide into groups alone, as the minibatch standard deviation of a GAN."""
    groups = batch["value"].reshape(-1, GROUP)
    differ = jnp.repeat((groups.max(1) > groups.min(1)).astype(jnp.float32), GROUP)
    mask = batch["mask"]
    return {
        "value": jnp.sum(mask * batch["value"]),
        "alike": jnp.sum(mask * (1 - differ)),
        "count": mask.sum(),
    }


@pytest.mark.parametrize("examples", [3, 8, 10, 17])
@pytest.mark.parametrize(("mode", "devices"), [("jit", 1), ("jit", 2), ("shard_map", 2), ("pmap", 2)])
def test_every_example_counts_once_in_whole_batches_of_different_examples(
    examples: int, mode: parallel.Mode, devices: int
) -> None:
    mesh = parallel.make_mesh(devices)
    workload = Workload(
        lambda key: State(jnp.int32(0), {}, {}, key),
        lambda state, batch: (state, {}),
        lambda state, batch: jax.tree.map(
            lambda leaf: leaf if mode == "jit" else jax.lax.psum(leaf, parallel.AXIS), eval_step(state, batch)
        ),
    )
    values = np.arange(1, examples + 1, dtype=np.float32)
    state = parallel.place_state(workload.init(jax.random.key(0)), mesh, mode)
    measured = Evaluation(workload, {"value": values}, mesh, mode, BATCH)(state)
    assert measured["count"] == examples
    np.testing.assert_allclose(measured["value"], values.mean(), rtol=1e-6)
    assert measured["alike"] == 0  # what fills a batch up is no example many times over
