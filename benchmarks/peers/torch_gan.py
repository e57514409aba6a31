"""The DCGAN in PyTorch: eager, channels-last, float32, on the CPU.

python -m benchmarks.peers.torch_gan --batch-size 64
"""

import itertools
import os

from benchmarks.peers import serving


def build(batch_size: int, steps: int) -> serving.Trainer:
    """The networks and the update of `torch_gan_learning`, with batches that wait in memory."""
    import torch

    from benchmarks.peers import torch_gan_learning as dcgan

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    game = dcgan.Game(dcgan.Settings())
    images = torch.from_numpy(2 * serving.random_data(batch_size, (28, 28, 1))[0] - 1)
    batches = itertools.cycle(images.permute(0, 3, 1, 2).split(batch_size))

    def run(steps: int) -> None:
        for real in itertools.islice(batches, steps):
            losses = game.update(real)
        losses[0].item()

    return serving.Trainer(run, game.parameters, {"torch": torch.__version__})


if __name__ == "__main__":
    serving.main(build)
