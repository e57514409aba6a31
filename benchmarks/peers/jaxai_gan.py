"""The DCGAN in jaxai as `jaxai train` runs it: K steps a call over data on the device, float32, on the CPU.

python -m benchmarks.peers.jaxai_gan --batch-size 64
"""

from benchmarks.peers import jaxai_blocks, serving


def build(batch_size: int, steps: int) -> serving.Trainer:
    """`gan.make` under `compile_step`, one call of `steps` steps a block."""
    from jaxai import gan
    from jaxai.optimizer import Optimizer

    adam = Optimizer(name="adam", learning_rate=2e-4, b1=0.5)
    config = gan.Config(
        image_shape=(28, 28, 1),
        width=64,
        latent_size=100,
        loss="non_saturating",
        updates="alternating",
        generator_optimizer=adam,
        discriminator_optimizer=adam,
        dtype="float32",
    )
    return jaxai_blocks.trainer(gan.make(config), config.image_shape, batch_size, steps)


if __name__ == "__main__":
    serving.main(build)
