"""The textbook CNN in jaxai as `jaxai train` runs it: K steps a call over data on the device, float32, on the CPU.

python -m benchmarks.peers.jaxai_cnn --batch-size 128
"""

import numpy as np

from benchmarks.peers import serving


def build(batch_size: int, steps: int) -> serving.Trainer:
    """`cnn.make` with its defaults under `compile_step`, one call of `steps` steps a block."""
    import flax
    import jax
    import optax

    from jaxai import cnn
    from jaxai.optimizer import Optimizer
    from jaxai.runtime import parallel

    config = cnn.Config(optimizer=Optimizer(name="adam", learning_rate=1e-3), compute_dtype="float32")
    workload = cnn.make(config)
    mesh = parallel.make_mesh(1)
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh)
    images, labels = serving.random_data(batch_size)
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


if __name__ == "__main__":
    serving.main(build)
