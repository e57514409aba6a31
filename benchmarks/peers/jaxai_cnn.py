"""The textbook CNN in jaxai as `jaxai train` runs it: K steps a call over data on the device, float32, on the CPU.

python -m benchmarks.peers.jaxai_cnn --batch-size 128
"""

from benchmarks.peers import jaxai_blocks, serving


def build(batch_size: int, steps: int) -> serving.Trainer:
    """`cnn.make` with its defaults under `compile_step`, one call of `steps` steps a block."""
    from jaxai import cnn
    from jaxai.optimizer import Optimizer

    config = cnn.Config(optimizer=Optimizer(name="adam", learning_rate=1e-3), dtype="float32")
    return jaxai_blocks.trainer(cnn.make(config), config.image_shape, batch_size, steps)


if __name__ == "__main__":
    serving.main(build)
