"""What jaxai's image scripts share: a workload as `jaxai train` runs it, K steps a call over data on the device."""

from typing import Any

import numpy as np

from benchmarks.peers import serving


def trainer(workload: Any, image_shape: tuple[int, int, int], batch_size: int, steps: int) -> serving.Trainer:
    """The workload under `compile_step` on one device, one call of `steps` steps a block."""
    import flax
    import jax
    import optax

    from jaxai.runtime import parallel

    mesh = parallel.make_mesh(1)
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh)
    images, labels = serving.random_data(batch_size, image_shape)
    dataset = parallel.place_dataset({"image": images, "label": labels}, mesh)
    call = parallel.compile_step(workload.train_step, mesh, steps_per_call=steps)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    indices = np.arange(steps * batch_size, dtype=np.int32).reshape(steps, batch_size) % len(images)
    batches = parallel.place_batches(indices, mesh, steps_per_call=steps)

    def run(steps: int) -> None:
        nonlocal state
        state, metrics = call(state, batches, dataset, steps)
        jax.block_until_ready((state, metrics))

    return serving.Trainer(run, parameters, {library.__name__: library.__version__ for library in (jax, flax, optax)})
