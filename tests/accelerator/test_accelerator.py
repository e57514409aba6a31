import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxai import cnn, gan, ops
from jaxai.cnn.model import build
from jaxai.core import State
from jaxai.data import Data, Images, load
from jaxai.runtime import parallel
from jaxai.runtime.batches import make_batches
from jaxai.runtime.config import Run
from jaxai.runtime.plan import Plan
from jaxai.runtime.training import Examples

pytestmark = pytest.mark.accelerator

BATCH = 128
CONVOLUTION = re.compile(
    r"\bconvolution\(|__cudnn\$conv|\$fusion"
)  # as XLA writes it on TPU and GPU, cuDNN's and fused


@pytest.fixture(autouse=True)
def _accelerator() -> None:
    if jax.default_backend() == "cpu":
        pytest.skip("needs a GPU or a TPU; JAX found none")


@pytest.fixture(scope="module")
def images() -> Images:
    return load(Data("synthetic", image_shape=(32, 32, 3), examples=2_048, test_examples=10))


def train(
    config: cnn.Config, images: Images, steps: int, steps_per_call: int, placement: str = "device"
) -> tuple[State, list[float]]:
    run = Run(steps_per_call=steps_per_call, placement=placement, devices=1)
    mesh, plan = parallel.make_mesh(1), Plan(steps, steps_per_call, 2**30, 2**30)
    workload = cnn.make(config)
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh)
    call = parallel.compile_step(workload.train_step, mesh, steps_per_call=steps_per_call)
    losses = []
    with make_batches(Examples(images.train, BATCH), run, mesh, plan, 0) as batches:
        for start, count in plan.calls(0):
            state, metrics = call(state, batches.next(start, count, state)[0], batches.dataset, count)
            losses.append(float(metrics["loss"]))
    return state, losses


def exact_config() -> cnn.Config:
    return cnn.Config(dtype="float32", optimizer=cnn.Optimizer(name="sgd", learning_rate=0.05))


def assert_close(one: State, other: State) -> None:
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def compiled_step(config: cnn.Config) -> jax.stages.Compiled:
    workload, mesh = cnn.make(config), parallel.make_mesh(1)
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh)
    batch = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in cnn.example_batch(config, BATCH).items()}
    return (
        parallel.compile_step(workload.train_step, mesh)
        .compile(state, parallel.place_batches(batch, mesh))
        .function
    )  # fmt: skip


def test_step_runs_on_the_accelerator(images):
    state, _ = train(cnn.Config(), images, steps=2, steps_per_call=1)
    platforms = {device.platform for leaf in jax.tree.leaves(state.params) for device in leaf.devices()}
    assert platforms == {jax.devices()[0].platform}
    assert "cpu" not in platforms


def test_bfloat16_is_the_default_and_learns(images):
    assert build(cnn.Config(), 10).dtype == jnp.bfloat16
    config = cnn.Config(optimizer=cnn.Optimizer(name="adam", learning_rate=1e-3))
    state, losses = train(config, images, steps=200, steps_per_call=20)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_convolution_and_its_gradients_equal_those_on_cpu(strides, padding):
    random = np.random.default_rng(0)
    lhs, rhs = (random.normal(size=shape).astype(np.float32) for shape in ((4, 15, 15, 8), (3, 3, 8, 16)))

    def loss(lhs, rhs):
        out = ops.conv_general_dilated(
            lhs, rhs, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
        )
        return (out * jnp.cos(out)).sum(), out

    assert_equal_on_cpu(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), lhs, rhs)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_max_pool_and_its_gradient_equal_those_on_cpu(padding):
    x = np.random.default_rng(0).normal(size=(4, 15, 15, 8)).astype(np.float32)

    def loss(x):
        out = ops.max_pool(x, (2, 2), (2, 2), padding)
        return (out * jnp.cos(out)).sum(), out

    assert_equal_on_cpu(jax.value_and_grad(loss, has_aux=True), x)


@pytest.mark.parametrize("polyphase", [False, True])
def test_transposed_convolution_and_its_gradients_equal_those_on_cpu(polyphase):
    random = np.random.default_rng(0)
    x, kernel = (random.normal(size=shape).astype(np.float32) for shape in ((4, 7, 7, 8), (5, 5, 8, 4)))

    def loss(x, kernel):
        out = ops.conv_transpose(x, kernel, (2, 2), polyphase=polyphase, precision=lax.Precision.HIGHEST)
        return (out * jnp.cos(out)).sum(), out

    assert_equal_on_cpu(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), x, kernel)


def test_fidelity_equals_that_on_cpu():
    real, generated = np.random.default_rng(0).normal(size=(2, 2_000, 64)).astype(np.float32)
    generated = 1.1 * generated + 0.1
    assert_equal_on_cpu(gan.fidelity.frechet_distance, real, generated)
    assert_equal_on_cpu(gan.fidelity.density_coverage, real, generated)


def assert_equal_on_cpu(function, *arrays):
    results = [jax.jit(function)(*jax.device_put(arrays, jax.devices(kind)[0])) for kind in (None, "cpu")]
    leaves, expected = (jax.tree.leaves(result) for result in results)
    assert {device.platform for leaf in expected for device in leaf.devices()} == {"cpu"}
    for leaf, other in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(np.asarray(leaf), np.asarray(other), rtol=1e-4, atol=1e-4 * np.abs(other).max())


def test_convolutions_stay_convolutions():
    config = cnn.Config()
    workload = cnn.make(config)
    state = jax.eval_shape(workload.init, jax.random.key(0))
    batch = cnn.example_batch(config, BATCH)
    lowered = jax.jit(workload.train_step).lower(state, batch).as_text()
    # Three forward, three for the kernels, and two for the images: the first layer's need none.
    assert lowered.count("stablehlo.convolution") == 8
    # Two dense layers, each with both gradients; patches times a kernel would be more.
    assert lowered.count("stablehlo.dot_general") == 6
    assert len(CONVOLUTION.findall(compiled_step(config).as_text())) >= 3


def test_state_is_donated(images):
    config = cnn.Config()
    compiled = compiled_step(config)
    state = cnn.make(config).init(jax.random.key(0))
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    assert compiled.memory_analysis().alias_size_in_bytes >= parameters
    mesh = parallel.make_mesh(1)
    state = parallel.place_state(state, mesh)
    batch = {name: jnp.asarray(array[:BATCH]) for name, array in images.train.items()}
    batch = parallel.place_batches(batch | {"index": jnp.arange(BATCH, dtype=jnp.int32)}, mesh)
    compiled(state, batch, None, np.int32(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_data_on_the_device_and_streamed_data_give_the_same_training(images):
    with jax.default_matmul_precision("highest"):
        resident, losses = train(exact_config(), images, steps=10, steps_per_call=5)
        streamed, streamed_losses = train(exact_config(), images, steps=10, steps_per_call=5, placement="host")
    np.testing.assert_allclose(losses, streamed_losses, rtol=1e-4)
    assert_close(resident, streamed)


def test_one_call_of_many_steps_equals_many_calls_of_one(images):
    with jax.default_matmul_precision("highest"):
        single, losses = train(exact_config(), images, steps=10, steps_per_call=1)
        together, mean = train(exact_config(), images, steps=10, steps_per_call=10)
    np.testing.assert_allclose(np.mean(losses), mean[0], rtol=1e-4)
    assert_close(single, together)
    assert int(together.step) == 10


def test_generator_and_discriminator_take_the_steps_that_they_take_on_cpu():
    config = gan.Config(
        image_shape=(8, 8, 1), width=4, r1=1.0, r1_interval=2, ema_decay=0.9, dtype="float32",
        generator_optimizer=gan.Optimizer("sgd", 0.01), discriminator_optimizer=gan.Optimizer("sgd", 0.01),
    )  # fmt: skip
    workload = gan.make(config)
    random = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)

    def train(images):
        state = workload.init(jax.random.key(0))
        for _ in range(3):
            state, metrics = workload.train_step(state, {"image": images})
        return state.params, state.extra, metrics

    with jax.default_matmul_precision("highest"):
        assert_equal_on_cpu(train, random)
