"""The textbook CNN in plain flax: `nn.Conv` and `nn.max_pool` in a Python loop of jitted steps, float32, on the CPU.

python -m benchmarks.peers.flax_cnn --batch-size 128
"""

import functools
import itertools
from typing import Any

from benchmarks.peers import serving


def build(batch_size: int, steps: int) -> serving.Trainer:
    """The network and the loop as flax's own examples write them, with batches that wait on the device."""
    import flax
    import jax
    import optax
    from flax import linen as nn

    class CNN(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.max_pool(nn.relu(nn.Conv(32, (3, 3), padding="VALID")(x)), (2, 2), (2, 2))
            x = nn.max_pool(nn.relu(nn.Conv(64, (3, 3), padding="VALID")(x)), (2, 2), (2, 2))
            x = nn.relu(nn.Conv(64, (3, 3), padding="VALID")(x))
            x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
            return nn.Dense(10)(x)

    network, adam = CNN(), optax.adam(1e-3)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params: Any, opt_state: Any, image: jax.Array, label: jax.Array) -> tuple[Any, Any, jax.Array]:
        def loss_fn(params: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(network.apply(params, image), label).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = adam.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    images, labels = serving.random_data(batch_size)
    pairs = [
        jax.device_put((images[first : first + batch_size], labels[first : first + batch_size]))
        for first in range(0, len(images), batch_size)
    ]
    batches = itertools.cycle(pairs)
    params = jax.jit(network.init)(jax.random.key(0), images[:1])
    opt_state = adam.init(params)

    def run(steps: int) -> None:
        nonlocal params, opt_state
        for image, label in itertools.islice(batches, steps):
            params, opt_state, loss = train_step(params, opt_state, image, label)
        jax.block_until_ready(loss)

    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return serving.Trainer(run, parameters, {library.__name__: library.__version__ for library in (jax, flax, optax)})


if __name__ == "__main__":
    serving.main(build)
