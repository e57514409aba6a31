"""Writes `gan_losses.npz`: random logits and images, and PyTorch's adversarial losses and gradients of them.

    python tests/golden/make_gan_losses.py

It needs PyTorch, which the tests that read the file do not. Written with PyTorch 2.13.0 in float64.
"""

import pathlib
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

BATCH, SIDE, CHANNELS, HIDDEN = 4, 4, 2, 6
# jax.random.uniform(jax.random.key(4), (4, 1, 1, 1)) of jax 0.10.2.
EPS = 0.8805466890335083, 0.7698888778686523, 0.1400362253189087, 0.6309863328933716
SMOOTHING = (0.0, 0.0), (0.1, 0.0), (0.25, 0.1)
TARGETS = 1.0, 0.0


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Logits from saturated to near 0, images in [-1, 1] and a critic of two layers, all float32."""
    pixels = SIDE * SIDE * CHANNELS
    given = {
        "real_logits": rng.normal(size=64, scale=4) + 1,
        "fake_logits": rng.normal(size=64, scale=4) - 1,
        "real_images": rng.uniform(-1, 1, (BATCH, SIDE, SIDE, CHANNELS)),
        "fake_images": rng.uniform(-1, 1, (BATCH, SIDE, SIDE, CHANNELS)),
        "eps": np.array(EPS).reshape(BATCH, 1, 1, 1),
        "hidden_kernel": rng.normal(size=(pixels, HIDDEN), scale=pixels**-0.5),
        "hidden_bias": rng.normal(size=HIDDEN),
        "output_kernel": rng.normal(size=HIDDEN),
    }
    return {name: value.astype(np.float32) for name, value in given.items()}


def cross_entropy(logits: torch.Tensor, target: float) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def square(logits: torch.Tensor, target: float) -> torch.Tensor:
    return functional.mse_loss(logits, torch.full_like(logits, target))


def hinge(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


Losses = dict[str, tuple[Callable[..., torch.Tensor], tuple[str, ...]]]


def logit_losses() -> Losses:
    """Name -> (loss, names of its arguments)."""
    both, fake = ("real_logits", "fake_logits"), ("fake_logits",)
    losses: Losses = {
        "minimax/generator": (lambda f: -cross_entropy(f, 0.0), fake),
        "non_saturating/generator": (lambda f: cross_entropy(f, 1.0), fake),
        "least_squares/generator": (lambda f: square(f, 1.0) / 2, fake),
        "wasserstein/generator": (lambda f: -f.mean(), fake),
        "hinge/generator": (lambda f: -f.mean(), fake),
        "wasserstein/discriminator/0.0/0.0": (lambda r, f: f.mean() - r.mean(), both),
        "hinge/discriminator/0.0/0.0": (hinge, both),
    }
    for real, false in SMOOTHING:
        entropy = (lambda r, f, b=1 - real, a=false: cross_entropy(r, b) + cross_entropy(f, a), both)
        squares = (lambda r, f, b=1 - real, a=false: (square(r, b) + square(f, a)) / 2, both)
        for name, loss in (("minimax", entropy), ("non_saturating", entropy), ("least_squares", squares)):
            losses[f"{name}/discriminator/{real}/{false}"] = loss
    return losses


def penalties(given: dict[str, torch.Tensor]) -> Losses:
    """Functions of the critic's parameters, through the gradient by its input."""

    def norm(images: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        kernel, bias, output = parameters
        images = images.clone().requires_grad_()
        logits = torch.tanh(images.flatten(1) @ kernel + bias) @ output
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.flatten(1).norm(2, dim=1)

    between = torch.lerp(given["fake_images"], given["real_images"], given["eps"])
    names = "hidden_kernel", "hidden_bias", "output_kernel"
    losses: Losses = {"r1_penalty": (lambda *p: norm(given["real_images"], *p).square().mean(), names)}
    for target in TARGETS:
        name = f"wasserstein_gradient_penalty/{target}"
        losses[name] = (
            lambda *p, to=target: functional.mse_loss(n := norm(between, *p), torch.full_like(n, to)),
            names,
        )
    return losses


def golden(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Value, [], and the gradient by each argument of every loss."""
    tensors = {name: torch.from_numpy(value.astype(np.float64)) for name, value in given.items()}
    results = {}
    for name, (loss, arguments) in (logit_losses() | penalties(tensors)).items():
        leaves = [tensors[argument].clone().requires_grad_() for argument in arguments]
        value = loss(*leaves)
        results[f"{name}/value"] = value.detach().numpy()
        for argument, gradient in zip(arguments, torch.autograd.grad(value, leaves), strict=True):
            results[f"{name}/gradient/{argument}"] = gradient.numpy().astype(np.float32)
    return results


if __name__ == "__main__":
    arrays = inputs(np.random.default_rng(0))
    path = pathlib.Path(__file__).with_name("gan_losses.npz")
    np.savez_compressed(path, **arrays, **golden(arrays))
    print(f"{path}: {path.stat().st_size:,} bytes")
