"""A training loop of one's own: the mode, the devices and the steps per call are named once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import cnn
from jaxai.runtime import parallel

CONFIG = cnn.Config(architecture="mlp", image_shape=(4, 4, 1), width=8, depth=1, normalization="batch")
RANDOM = np.random.default_rng(0)
DATA = {
    "image": RANDOM.integers(0, 256, (32, 4, 4, 1), np.uint8),
    "label": RANDOM.integers(0, 10, 32).astype(np.int32),
}
INDICES = np.stack([RANDOM.permutation(32)[:16] for _ in range(4)]).astype(np.int32)


def alone() -> tuple:
    """The last state and the losses, with jax alone."""
    workload = cnn.make(CONFIG)
    state = jax.jit(workload.init)(jax.random.key(0))
    train_step = jax.jit(workload.train_step, donate_argnums=0)
    losses = []
    for index in INDICES:
        state, metrics = train_step(state, {name: array[index] for name, array in DATA.items()})
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_a_loop_over_devices_names_its_mode_once(mode: parallel.Mode) -> None:
    setup = parallel.Setup(mode, devices=4)
    workload = cnn.make(CONFIG, setup.axis_name)
    train_step = setup.compile_step(workload.train_step)
    state = setup.place_state(workload.init(jax.random.key(0)))
    losses = []
    for index in INDICES:
        state, metrics = train_step(state, setup.place_batches({name: array[index] for name, array in DATA.items()}))
        losses.append(float(metrics["loss"]))
    expected, expected_losses = alone()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    chex.assert_trees_all_close(jax.device_get(setup.gather_state(state).params), expected.params, atol=1e-4)


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_several_steps_a_call_with_the_data_on_the_device(mode: parallel.Mode) -> None:
    setup = parallel.Setup(mode, devices=2, steps_per_call=2)
    workload = cnn.make(CONFIG, setup.axis_name)
    call, dataset = setup.compile_step(workload.train_step), setup.place_dataset(DATA)
    state, losses = setup.place_state(workload.init(jax.random.key(0))), []
    with jax.transfer_guard_device_to_host("disallow"):
        for index in INDICES.reshape(2, 2, 16):
            state, metrics = call(state, setup.place_batches(index), dataset)
            losses.append(metrics["loss"])
    expected, expected_losses = alone()
    np.testing.assert_allclose(losses, np.reshape(expected_losses, (2, 2)).mean(1), rtol=1e-4)
    chex.assert_trees_all_close(jax.device_get(setup.gather_state(state).params), expected.params, atol=1e-4)
    index = setup.place_batches(np.arange(32, dtype=np.int32).reshape(2, 16))
    mask = setup.place_batches(np.ones((2, 16), np.float32))
    sums = setup.compile_evaluation(workload.eval_step)(state, {"index": index, "mask": mask}, dataset)
    accuracy = (cnn.make_predict(CONFIG)(expected, jnp.asarray(DATA["image"])).argmax(-1) == DATA["label"]).sum()
    assert float(sums["accuracy"]) == accuracy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gpu",), "^mode is 'gpu'; choose jit, shard_map, pmap$"),
        (("jit", 99), "^devices is 99; this machine has 8"),
        (("jit", 1, 0), "^steps_per_call is 0; it must be at least 1$"),
    ],
)
def test_a_setup_that_cannot_be_is_refused_at_once(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parallel.Setup(*arguments)
