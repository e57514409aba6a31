"""Trains the DCGAN in PyTorch on images of 28x28x1 and writes samples of it, to be measured as jaxai's own are.

    python -m benchmarks.peers.torch_gan_learning --images train.npz --steps 5000 --seed 0 --out samples.npz

`train.npz` has uint8 `image` [examples, 28, 28, 1]; so has `samples.npz`, made by the generator with its running batch
statistics. The last line printed is JSON. It needs PyTorch and NumPy.
"""

import argparse
import copy
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLES_AT_A_TIME = 500


@dataclasses.dataclass(frozen=True)
class Settings:
    """The networks and their training."""

    latent_size: int = 100  # numbers in the noise that an image is made from
    width: int = 64  # channels of the generator's last hidden layer
    discriminator_width: int = 0  # channels of the discriminator's first layer; 0: width
    generator_learning_rate: float = 2e-4  # of Adam
    discriminator_learning_rate: float = 2e-4  # of Adam
    b1: float = 0.5  # decay rate of Adam's mean of gradients, in both networks
    b2: float = 0.999  # decay rate of Adam's mean of squared gradients, in both networks
    ema_decay: float = 0.0  # of the moving average of the generator that samples are made with; 0: none


class Game:
    """Radford, Metz and Chintala 2016 (arXiv:1511.06434) for 28x28x1; the non-saturating loss, from logits.

    Attributes:
      generator: latents [batch, latent_size] -> images [batch, 1, 28, 28] in (-1, 1).
      discriminator: images -> logits [batch, 1], above 0 for real.
      average: the generator's moving average, or the generator itself.
      parameters: of both networks, without the average.
    """

    def __init__(self, settings: Settings):
        self.settings, width = settings, settings.width
        self.generator = nn.Sequential(
            nn.Linear(settings.latent_size, 7 * 7 * 4 * width, bias=False), nn.Unflatten(1, (4 * width, 7, 7)),
            nn.BatchNorm2d(4 * width), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(4 * width, 2 * width, 5, padding=2, bias=False),
            nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(2 * width, width, 5, 2, padding=2, output_padding=1, bias=False),
            nn.BatchNorm2d(width), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(width, 1, 5, 2, padding=2, output_padding=1), nn.Tanh(),
        ).to(memory_format=torch.channels_last)  # fmt: skip
        width = settings.discriminator_width or width
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, width, 5, 2, padding=2), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 5, 2, padding=2), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(7 * 7 * 2 * width, 1),
        ).to(memory_format=torch.channels_last)  # fmt: skip
        networks = self.generator, self.discriminator
        for module in (module for network in networks for module in network.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.parameters = sum(parameter.numel() for network in networks for parameter in network.parameters())
        betas = (settings.b1, settings.b2)
        self._g_adam = torch.optim.Adam(self.generator.parameters(), settings.generator_learning_rate, betas)
        self._d_adam = torch.optim.Adam(self.discriminator.parameters(), settings.discriminator_learning_rate, betas)
        self.average = copy.deepcopy(self.generator) if settings.ema_decay else self.generator

    def update(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """One update of the discriminator, then one of the generator with fresh noise.

        Args:
          real: [batch, 1, 28, 28] in [-1, 1].

        Returns:
          Both losses before their updates.
        """
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            fake = self.generator(self._noise(len(real)))
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake])).split(len(real))
        d_loss = cross_entropy(real_logits, 1.0) + cross_entropy(fake_logits, 0.0)
        self._d_adam.zero_grad(set_to_none=True)
        d_loss.backward()
        self._d_adam.step()

        self.discriminator.requires_grad_(False)  # whose gradients would be computed for nothing
        g_loss = cross_entropy(self.discriminator(self.generator(self._noise(len(real)))), 1.0)
        self._g_adam.zero_grad(set_to_none=True)
        g_loss.backward()
        self._g_adam.step()
        if self.settings.ema_decay:
            with torch.no_grad():
                for average, own in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                    average.lerp_(own, 1 - self.settings.ema_decay)
        return d_loss.detach(), g_loss.detach()

    @torch.no_grad()
    def sample(self, count: int) -> np.ndarray:
        """uint8 images [count, 28, 28, 1] of the averaged generator, whose batch statistics are the running ones."""
        if self.settings.ema_decay:
            for average, own in zip(self.average.buffers(), self.generator.buffers(), strict=True):
                average.copy_(own)
        self.average.eval()
        made = [
            self.average(self._noise(min(SAMPLES_AT_A_TIME, count - first)))
            for first in range(0, count, SAMPLES_AT_A_TIME)
        ]
        self.average.train()
        return ((torch.cat(made) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, self.settings.latent_size)


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    """The mean binary cross-entropy of logits that all have this target."""
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def load(file: Path) -> Tensor:
    """The images of an npz, as the networks want them: [examples, 1, 28, 28] float32 in [-1, 1].

    Raises:
      ValueError: there is no such file, no `image` in it, or it is not uint8 of shape [examples, 28, 28, 1].
    """
    if not file.is_file():
        raise ValueError(f"images is {file}, which is no file; give an npz with uint8 `image` [examples, 28, 28, 1]")
    with np.load(file) as arrays:
        images = arrays["image"] if "image" in arrays else np.empty(0)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28, 1) or not len(images):
        raise ValueError(
            f"images is {file}, whose `image` is {images.dtype} {list(images.shape)}, "
            "expected uint8 [examples, 28, 28, 1]"
        )
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def train(game: Game, images: Tensor, steps: int, batch_size: int, log_every: int) -> float:
    """Trains on random batches, an epoch being a permutation without its ragged end; returns the seconds it took."""
    began, position = time.perf_counter(), len(images)
    for step in range(1, steps + 1):
        if position + batch_size > len(images):
            order, position = torch.randperm(len(images)), 0
        losses = game.update(images[order[position : position + batch_size]])
        position += batch_size
        if step % log_every == 0 or step == steps:
            d_loss, g_loss = (loss.item() for loss in losses)
            rate = step * batch_size / (time.perf_counter() - began)
            print(f"step {step} of {steps}: D {d_loss:.3f}, G {g_loss:.3f}, {rate:.0f} images/s", flush=True)
    return time.perf_counter() - began


def main() -> None:
    """Entry point; exits 2 for a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="npz with uint8 `image` [examples, 28, 28, 1]")
    parser.add_argument("--out", type=Path, required=True, help="npz that gets the samples")
    parser.add_argument("--steps", type=int, required=True, help="updates of each network")
    parser.add_argument("--batch-size", type=int, default=64, help="real images a step")
    parser.add_argument("--seed", type=int, default=0, help="of the initial networks, batches and noise")
    parser.add_argument("--samples", type=int, default=10_000, help="images that are written")
    parser.add_argument("--log-every", type=int, default=100, help="steps between two lines")
    for field in dataclasses.fields(Settings):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default)
    options = parser.parse_args()
    try:
        images = load(options.images)
        if not 1 <= options.batch_size <= len(images):
            raise ValueError(f"batch-size is {options.batch_size}, expected 1 to {len(images)}, the number of images")
        for name in ("steps", "samples", "log_every"):
            if getattr(options, name) < 1:
                raise ValueError(f"{name.replace('_', '-')} is {getattr(options, name)}, expected at least 1")
    except ValueError as error:
        print(f"torch_gan_learning: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(options.seed)
    settings = Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})
    game = Game(settings)
    seconds = train(game, images, options.steps, options.batch_size, options.log_every)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out, image=game.sample(options.samples))
    print(
        json.dumps(
            {
                "steps": options.steps,
                "batch_size": options.batch_size,
                "seed": options.seed,
                "train_images": len(images),
                "seconds": round(seconds, 1),
                "images_per_second": round(options.steps * options.batch_size / seconds, 1),
                "parameters": game.parameters,
                "settings": dataclasses.asdict(settings),
                "torch": torch.__version__,
                "samples": str(options.out),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
