"""Writes `gan_update.npz`: a tiny DCGAN, and PyTorch's parameters after one and two steps against each other.

    python tests/golden/make_gan_update.py

It needs PyTorch, which the tests that read the file do not; JAX draws the noise. Written with PyTorch 2.13.0 in float64
and jax 0.10.2.
"""

import pathlib
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

BATCH, SIDE, WIDTH, LATENT, STEPS = 4, 8, 2, 4, 2
LEARNING_RATE, B1, EMA_DECAY = 1e-2, 0.5, 0.15
EPS = 1e-4  # Adam would make a whole step of what is 0 but for rounding
CASES: dict[str, dict[str, Any]] = {
    "alternating": {},
    "simultaneous": {"simultaneous": True},
    "least_squares": {"loss": "least_squares", "smooth_real": 0.1, "smooth_fake": 0.05, "batch_norm": True},
    "hinge": {"loss": "hinge", "r1": 2.0},
    "wasserstein": {"loss": "wasserstein", "gradient_penalty": 10.0},
    # The discriminator's rate falls linearly to 0 over 8 of its own updates.
    "two_updates": {"discriminator_steps": 2, "decay_steps": 8},
}
GENERATOR = {
    "Dense_0/kernel": (LATENT, (SIDE // 4) ** 2 * 4 * WIDTH),
    "ConvTranspose_0/kernel": (5, 5, 4 * WIDTH, 2 * WIDTH),
    "ConvTranspose_1/kernel": (5, 5, 2 * WIDTH, WIDTH),
    "ConvTranspose_2/kernel": (5, 5, WIDTH, 1),
    "ConvTranspose_2/bias": (1,),
} | {f"BatchNorm_{i}/BatchNorm_0/{kind}": (WIDTH * 4 // 2**i,) for i in range(3) for kind in ("scale", "bias")}
DISCRIMINATOR = {
    "Conv_0/kernel": (5, 5, 1, WIDTH),
    "Conv_0/bias": (WIDTH,),
    "Conv_1/kernel": (5, 5, WIDTH, 2 * WIDTH),
    "Conv_1/bias": (2 * WIDTH,),
    "logit/kernel": ((SIDE // 4) ** 2 * 2 * WIDTH, 1),
    "logit/bias": (1,),
}
Arrays = dict[str, np.ndarray]
Tensors = dict[str, torch.Tensor]


def drawn(shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> Arrays:
    """Kernels that keep the size of what they are applied to, scales around 1 and biases around 0."""

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.normal(size=shape)
        if name.endswith("kernel"):
            return values / np.sqrt(np.prod(shape[:-1]))
        return 0.2 * values + name.endswith("scale")

    return {name: draw(name, shape).astype(np.float32) for name, shape in shapes.items()}


def batch_norm(x: torch.Tensor, params: Tensors, statistics: Tensors, name: str, train: bool) -> torch.Tensor:
    """Of [batch, channels, height, width]; in training the running statistics follow, the variance not Bessel's."""
    name = f"{name}/BatchNorm_0"
    mean, variance = statistics[f"{name}/mean"], statistics[f"{name}/var"]
    if train:
        now = x.detach().mean((0, 2, 3)), x.detach().var((0, 2, 3), correction=0)
        statistics[f"{name}/mean"], statistics[f"{name}/var"] = 0.9 * mean + 0.1 * now[0], 0.9 * variance + 0.1 * now[1]
        return functional.batch_norm(x, None, None, params[f"{name}/scale"], params[f"{name}/bias"], True, eps=1e-5)
    return functional.batch_norm(x, mean, variance, params[f"{name}/scale"], params[f"{name}/bias"], eps=1e-5)


def generator(params: Tensors, statistics: Tensors, latents: torch.Tensor, train: bool = True) -> torch.Tensor:
    """Latents -> images [batch, channels, height, width]."""
    x = (latents @ params["Dense_0/kernel"]).view(len(latents), SIDE // 4, SIDE // 4, -1).permute(0, 3, 1, 2)
    for i, stride in enumerate((1, 2, 2)):
        x = functional.leaky_relu(batch_norm(x, params, statistics, f"BatchNorm_{i}", train), 0.2)
        # PyTorch flips the kernel, and crops nothing unless asked to.
        kernel = params[f"ConvTranspose_{i}/kernel"].flip(0, 1).permute(2, 3, 0, 1)
        start, size = (5 - stride) // 2, stride * x.shape[-1]
        x = functional.conv_transpose2d(x, kernel, stride=stride)[:, :, start : start + size, start : start + size]
    return torch.tanh(x + params["ConvTranspose_2/bias"].view(-1, 1, 1))


def discriminator(params: Tensors, statistics: Tensors, images: torch.Tensor) -> torch.Tensor:
    """Images [batch, channels, height, width] -> logits [batch]."""
    x = images
    for i in range(2):
        kernel, bias = params[f"Conv_{i}/kernel"].permute(3, 2, 0, 1), params.get(f"Conv_{i}/bias")
        x = functional.conv2d(functional.pad(x, (1, 2, 1, 2)), kernel, bias, stride=2)
        if i == 1 and statistics:
            x = batch_norm(x, params, statistics, "BatchNorm_0", train=True)
        x = functional.leaky_relu(x, 0.2)
    return (x.permute(0, 2, 3, 1).flatten(1) @ params["logit/kernel"] + params["logit/bias"])[:, 0]


def losses(case: dict[str, Any], real: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The discriminator's of real and fake logits, and the generator's of the fake ones."""
    kind, high, low = case.get("loss"), 1 - case.get("smooth_real", 0.0), case.get("smooth_fake", 0.0)
    if kind == "least_squares":
        return ((real - high) ** 2).mean() / 2 + ((fake - low) ** 2).mean() / 2, ((fake - 1) ** 2).mean() / 2
    if kind == "hinge":
        return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean(), -fake.mean()
    if kind == "wasserstein":
        return fake.mean() - real.mean(), -fake.mean()
    entropy = functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    return entropy(real, ones) + entropy(fake, zeros), entropy(fake, torch.ones_like(fake))


def noise(step: int, updates: int) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """(latents, the penalty's eps) of each of the discriminator's updates, and the generator's latents."""

    def latents(key: jax.Array) -> torch.Tensor:
        return torch.tensor(np.array(jax.random.normal(jax.random.split(key)[0], (BATCH, LATENT)))).double()

    key = jax.random.fold_in(jax.random.key(0), step)
    key, of_generator = jax.random.fold_in(key, 1), jax.random.split(jax.random.fold_in(key, 0), 3)[0]
    each = []
    for update_key in jax.random.split(key, updates) if updates > 1 else [key]:
        noise_key, loss_key = jax.random.split(update_key)
        eps = jax.random.uniform(jax.random.split(loss_key, 4)[3], (BATCH, 1, 1, 1))
        each.append((latents(noise_key), torch.tensor(np.array(eps)).double()))
    return each, latents(of_generator)


def squared_slope(params: Tensors, images: torch.Tensor) -> torch.Tensor:
    images = images.detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(params, {}, images).sum(), images, create_graph=True)
    return slope.flatten(1).square().sum(1)


def trained(case: dict[str, Any], start: dict[str, Arrays], batches: np.ndarray) -> dict[str, Any]:
    """All that a step leaves behind, [steps] first or by the step's number."""
    made, judged = ({k: torch.tensor(v).double() for k, v in start[who].items()} for who in ("made", "judged"))
    statistics = {f"BatchNorm_{i}/BatchNorm_0/mean": torch.zeros(WIDTH * 4 // 2**i).double() for i in range(3)}
    statistics |= {f"BatchNorm_{i}/BatchNorm_0/var": torch.ones(WIDTH * 4 // 2**i).double() for i in range(3)}
    judged_statistics: Tensors = {}
    if case.get("batch_norm"):
        del judged["Conv_1/bias"]
        judged |= {"BatchNorm_0/BatchNorm_0/scale": torch.ones(2 * WIDTH).double()}
        judged |= {"BatchNorm_0/BatchNorm_0/bias": torch.zeros(2 * WIDTH).double()}
        judged_statistics = {"BatchNorm_0/BatchNorm_0/mean": torch.zeros(2 * WIDTH).double()}
        judged_statistics |= {"BatchNorm_0/BatchNorm_0/var": torch.ones(2 * WIDTH).double()}
    for params in (made, judged):
        for tensor in params.values():
            tensor.requires_grad_()
    optimizers = [torch.optim.Adam(params.values(), LEARNING_RATE, (B1, 0.999), EPS) for params in (made, judged)]
    average = {name: value.detach().clone() for name, value in (made | statistics).items()}
    updates, results, metrics = case.get("discriminator_steps", 1), {}, []
    for step, batch in enumerate(batches):
        images = torch.tensor(batch[: updates * BATCH]).double().permute(0, 3, 1, 2) / 127.5 - 1
        of_updates, latents = noise(step, updates)
        met = {name: value.detach().clone() for name, value in judged.items()}
        means: dict[str, list[float]] = {}
        for i, (own_latents, eps) in enumerate(of_updates):
            real, fake = images[i::updates], generator(made, dict(statistics), own_latents).detach()
            real_logits = discriminator(judged, judged_statistics, real)
            fake_logits = discriminator(judged, judged_statistics, fake)
            loss = losses(case, real_logits, fake_logits)[0]
            found = {"discriminator_loss": loss, "d_real": real_logits.sigmoid().mean()}
            if case.get("r1"):
                found["r1"] = case["r1"] / 2 * squared_slope(judged, real).mean()
            if case.get("gradient_penalty"):
                norm = squared_slope(judged, eps * real + (1 - eps) * fake).sqrt()
                found["gradient_penalty"] = case["gradient_penalty"] * ((norm - 1) ** 2).mean()
            optimizers[1].zero_grad()
            (loss + found.get("r1", 0) + found.get("gradient_penalty", 0)).backward()
            for group in optimizers[1].param_groups:
                if "decay_steps" in case:
                    group["lr"] = LEARNING_RATE * (1 - (updates * step + i) / case["decay_steps"])
            optimizers[1].step()
            for name, value in found.items():
                means.setdefault(name, []).append(value.item())
        if not case.get("simultaneous"):
            met = {name: value.detach().clone() for name, value in judged.items()}
        logits = discriminator(met, dict(judged_statistics), generator(made, statistics, latents))
        loss = losses(case, logits, logits)[1]
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        average = {k: decay * average[k] + (1 - decay) * v.detach() for k, v in (made | statistics).items()}
        metrics.append({name: np.mean(values) for name, values in means.items()} | {"generator_loss": loss.item()})
        kept = {"generator": made, "discriminator": judged}
        kept |= {"generator_statistics": statistics, "discriminator_statistics": judged_statistics}
        for part, tensors in kept.items():
            for name, tensor in tensors.items():
                results[f"after_{step + 1}/{part}/{name}"] = tensor.detach().numpy().copy()
    results |= {f"metrics/{name}": [row[name] for row in metrics] for name in metrics[0]}
    if not case:
        results["images"] = generator(average, average, latents, train=False).permute(0, 2, 3, 1).detach().numpy()
    return results


def main() -> None:
    rng = np.random.default_rng(0)
    start = {"made": drawn(GENERATOR, rng), "judged": drawn(DISCRIMINATOR, rng)}
    batches = rng.integers(0, 256, (STEPS, 2 * BATCH, SIDE, SIDE, 1), np.uint8)
    results: dict[str, Any] = {"images": batches}
    results |= {f"start/generator/{name}": value for name, value in start["made"].items()}
    results |= {f"start/discriminator/{name}": value for name, value in start["judged"].items()}
    of_update, of_generator = zip(
        *((updates[0], own) for updates, own in (noise(step, 1) for step in range(STEPS))), strict=True
    )
    results["latents/discriminator"] = np.stack([latents for latents, _ in of_update]).astype(np.float32)
    results["latents/generator"] = np.stack(of_generator).astype(np.float32)
    for name, case in CASES.items():
        for key, value in trained(case, start, batches).items():
            if name == "alternating" or not key.startswith("after_1"):
                results[f"{name}/{key}"] = np.asarray(value, np.float32)
    path = pathlib.Path(__file__).with_name("gan_update.npz")
    np.savez_compressed(path, **results)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
