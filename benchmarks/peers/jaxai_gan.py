"""The DCGAN in jaxai as `jaxai train` runs it: K steps a call over data on the device, float32, on the CPU.

python -m benchmarks.peers.jaxai_gan --batch-size 64
"""

import numpy as np

from benchmarks.peers import serving


def build(batch_size: int, steps: int) -> serving.Trainer:
    """`gan.make` under `compile_step`, one call of `steps` steps a block."""
    import flax
    import jax
    import optax

    from jaxai import gan
    from jaxai.optimizer import Optimizer
    from jaxai.runtime import parallel

    adam = Optimizer(name="adam", learning_rate=2e-4, b1=0.5)
    config = gan.Config(
        image_shape=(28, 28, 1),
        width=64,
        latent_size=100,
        loss="non_saturating",
        updates="alternating",
        generator_optimizer=adam,
        discriminator_optimizer=adam,
        compute_dtype="float32",
    )
    workload = gan.make(config)
    mesh = parallel.make_mesh(1)
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh)
    images, labels = serving.random_data(batch_size, (28, 28, 1))
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
