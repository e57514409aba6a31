"""The DCGAN in plain flax: `nn.ConvTranspose` and `nn.Conv`, float32, on the CPU.

python -m benchmarks.peers.flax_gan --batch-size 64             # a Python loop of jitted steps
python -m benchmarks.peers.flax_scan_gan --batch-size 64        # a block's steps in one `lax.scan`, as jaxai has them
"""

import functools
import itertools
from typing import Any

from benchmarks.peers import serving


def build(batch_size: int, steps: int, scan: bool = False) -> serving.Trainer:
    """The networks and the loop as flax's own examples write them, with batches that wait on the device.

    With `scan`, a block is one jitted call.
    """
    import flax
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    class Generator(nn.Module):
        @nn.compact
        def __call__(self, z: jax.Array, train: bool = True) -> jax.Array:
            def normalize(x: jax.Array) -> jax.Array:
                return nn.leaky_relu(nn.BatchNorm(not train, momentum=0.9)(x), 0.2)

            x = normalize(nn.Dense(7 * 7 * 256, use_bias=False)(z).reshape(len(z), 7, 7, 256))
            x = normalize(nn.ConvTranspose(128, (5, 5), (1, 1), use_bias=False)(x))
            x = normalize(nn.ConvTranspose(64, (5, 5), (2, 2), use_bias=False)(x))
            return jnp.tanh(nn.ConvTranspose(1, (5, 5), (2, 2))(x))

    class Discriminator(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.leaky_relu(nn.Conv(64, (5, 5), (2, 2))(x), 0.2)
            x = nn.leaky_relu(nn.Conv(128, (5, 5), (2, 2))(x), 0.2)
            return nn.Dense(1)(x.reshape(len(x), -1))[:, 0]

    generator, discriminator, adam = Generator(), Discriminator(), optax.adam(2e-4, b1=0.5)

    def train_step(state: tuple[Any, ...], real: jax.Array, key: jax.Array) -> tuple[tuple[Any, ...], jax.Array]:
        g_params, statistics, g_opt, d_params, d_opt = state
        first, second = jax.random.normal(key, (2, len(real), 100))

        def generate(params: Any, statistics: Any, z: jax.Array) -> Any:
            return generator.apply({"params": params, **statistics}, z, mutable=["batch_stats"])

        fake, statistics = generate(g_params, statistics, first)

        def d_loss(params: Any) -> jax.Array:
            logits: Any = discriminator.apply(params, jnp.concatenate([real, fake]))
            return nn.softplus(-logits[: len(real)]).mean() + nn.softplus(logits[len(real) :]).mean()

        d_value, grads = jax.value_and_grad(d_loss)(d_params)
        updates, d_opt = adam.update(grads, d_opt)
        d_params = optax.apply_updates(d_params, updates)

        def g_loss(params: Any) -> Any:
            fake, updated = generate(params, statistics, second)
            logits: Any = discriminator.apply(d_params, fake)
            return nn.softplus(-logits).mean(), updated

        (g_value, statistics), grads = jax.value_and_grad(g_loss, has_aux=True)(g_params)
        updates, g_opt = adam.update(grads, g_opt)
        g_params = optax.apply_updates(g_params, updates)
        return (g_params, statistics, g_opt, d_params, d_opt), d_value + g_value

    images = 2 * serving.random_data(batch_size, (28, 28, 1))[0] - 1
    batches = itertools.cycle([jax.device_put(batch) for batch in images.reshape(-1, batch_size, 28, 28, 1)])
    variables = jax.jit(generator.init)(jax.random.key(0), jnp.zeros((1, 100)))
    g_params, d_params = variables["params"], jax.jit(discriminator.init)(jax.random.key(1), images[:1])
    statistics = {"batch_stats": variables["batch_stats"]}
    state: tuple[Any, ...] = (g_params, statistics, adam.init(g_params), d_params, adam.init(d_params))
    keys = (jax.random.fold_in(jax.random.key(2), step) for step in itertools.count())

    one_step = jax.jit(train_step, donate_argnums=0)

    @functools.partial(jax.jit, donate_argnums=0)
    def many_steps(state: tuple[Any, ...], images: jax.Array, keys: jax.Array) -> Any:
        return jax.lax.scan(lambda state, batch: train_step(state, *batch), state, (images, keys))

    def run(steps: int) -> None:
        nonlocal state
        taken = itertools.islice(zip(batches, keys, strict=False), steps)
        if scan:
            state, loss = many_steps(state, *map(jnp.stack, zip(*taken, strict=True)))
        else:
            for image, key in taken:
                state, loss = one_step(state, image, key)
        jax.block_until_ready(loss)

    parameters = sum(leaf.size for leaf in jax.tree.leaves((g_params, d_params)))
    return serving.Trainer(run, parameters, {library.__name__: library.__version__ for library in (jax, flax, optax)})


if __name__ == "__main__":
    serving.main(build)
