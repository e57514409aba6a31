"""The textbook CNN in PyTorch: eager, channels-last, float32, on the CPU.

python -m benchmarks.peers.torch_cnn --batch-size 128
"""

import itertools

from benchmarks.peers import serving


def build(batch_size: int, steps: int) -> serving.Trainer:
    """The network as PyTorch's tutorials write it, with batches that wait in memory."""
    import torch
    from torch import nn

    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    cross_entropy = nn.CrossEntropyLoss()
    images, labels = (torch.from_numpy(array) for array in serving.random_data(batch_size))
    images = images.permute(0, 3, 1, 2)  # a view: channels last in memory, as the network wants them
    batches = itertools.cycle(zip(images.split(batch_size), labels.long().split(batch_size), strict=True))

    def run(steps: int) -> None:
        for image, label in itertools.islice(batches, steps):
            optimizer.zero_grad(set_to_none=True)
            loss = cross_entropy(network(image), label)
            loss.backward()
            optimizer.step()
        loss.item()

    parameters = sum(parameter.numel() for parameter in network.parameters())
    return serving.Trainer(run, parameters, {"torch": torch.__version__})


if __name__ == "__main__":
    serving.main(build)
