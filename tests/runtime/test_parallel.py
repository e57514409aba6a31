import dataclasses
import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import cnn
from jaxai.core import State, Workload
from jaxai.runtime import parallel

STEPS, BATCH, EXAMPLES = 6, 16, 64
MODES: tuple[parallel.Mode, ...] = ("jit", "shard_map", "pmap")
UNLIKE: tuple[parallel.Mode, ...] = ("jit", "shard_map")
"""For what pmap, which equals shard_map bitwise, need not show again."""
# Dense layers compile in a tenth of the time of convolutions, and split over devices in the same way.
PLAIN = cnn.Config(architecture="mlp", image_shape=(6, 6, 1), width=8, depth=1)
NORMALIZED = cnn.Config(architecture="mlp", image_shape=(6, 6, 1), width=8, depth=1, normalization="batch", dropout=0.2)
CONVOLUTIONAL = cnn.Config(image_shape=(6, 6, 1), width=4, depth=1, normalization="batch", dropout=0.2)


def data(examples: int = EXAMPLES) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (examples, 6, 6, 1), np.uint8)
    return {"image": image, "label": generator.integers(0, 10, examples).astype(np.int32)}


def rows() -> np.ndarray:
    return np.random.default_rng(1).integers(0, EXAMPLES, (STEPS, BATCH)).astype(np.int32)


@functools.cache
def train(
    config: cnn.Config, mode: parallel.Mode, devices: int, steps_per_call: int, resident: bool = True
) -> tuple[State, dict[str, Any]]:
    """All STEPS steps; the metrics of the last call."""
    workload = cnn.make(config, parallel.axis_name(mode))
    mesh = parallel.make_mesh(devices)
    call = parallel.compile_step(workload.train_step, mesh, mode, steps_per_call)
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh, mode)
    dataset = parallel.place_dataset(data(), mesh) if resident else None
    for start in range(0, STEPS, steps_per_call):
        index = rows()[start : start + steps_per_call]
        batches = index if resident else {k: v[index] for k, v in data().items()} | {"index": index}
        batches = jax.tree.map(lambda leaf: leaf[0], batches) if steps_per_call == 1 else batches
        state, metrics = call(state, parallel.place_batches(batches, mesh, mode, steps_per_call), dataset)
    return jax.device_get(parallel.gather_state(state, mode)), metrics


@pytest.mark.parametrize(
    ("config", "devices", "steps_per_call", "resident"),
    [(CONVOLUTIONAL, 8, 3, True), (NORMALIZED, 8, 1, True), (PLAIN, 4, 3, False)],
)
def test_pmap_equals_shard_map_bitwise(config: cnn.Config, devices: int, steps_per_call: int, resident: bool) -> None:
    states = [train(config, mode, devices, steps_per_call, resident)[0] for mode in ("shard_map", "pmap")]
    chex.assert_trees_all_equal(*states)


def test_jit_over_the_mesh_equals_one_device() -> None:
    # Eight shards are summed in another order, and Adam divides by what may be tiny.
    one, eight = (train(CONVOLUTIONAL, "jit", devices, 3)[0].replace(key=None) for devices in (1, 8))
    chex.assert_trees_all_close(one, eight, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("mode", UNLIKE)
def test_calls_of_one_step_equal_calls_of_many(mode: parallel.Mode) -> None:
    one, many = (train(PLAIN, mode, 4, steps)[0].replace(key=None) for steps in (1, 3))
    chex.assert_trees_all_close(one, many, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_any_split_of_a_run_into_calls_gives_the_same_bits(mode: parallel.Mode) -> None:
    workload = cnn.make(NORMALIZED, parallel.axis_name(mode))
    mesh = parallel.make_mesh(4)
    call = parallel.compile_step(workload.train_step, mesh, mode, STEPS)
    dataset = parallel.place_dataset(data(), mesh)
    ends = []
    for split in ([6], [1, 1, 1, 1, 1, 1], [2, 4]):
        state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh, mode)
        for steps in split:
            index = np.roll(rows(), -int(state.step), axis=0)
            state, _ = call(state, parallel.place_batches(index, mesh, mode, STEPS), dataset, steps)
        ends.append(jax.device_get(state))
    assert int(ends[0].step) == STEPS
    chex.assert_trees_all_equal(ends[0], ends[1])
    chex.assert_trees_all_equal(ends[0], ends[2])


@pytest.mark.parametrize("mode", UNLIKE)
def test_resident_and_streamed_batches_give_the_same_bits(mode: parallel.Mode) -> None:
    chex.assert_trees_all_equal(train(PLAIN, mode, 4, 3)[0], train(PLAIN, mode, 4, 3, False)[0])


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
@pytest.mark.parametrize("devices", [2, 8])
def test_gradients_do_not_depend_on_the_number_of_devices(mode: parallel.Mode, devices: int) -> None:
    """Plain gradient descent moves parameters by the gradient: one that is N times too large shows."""
    descent = dataclasses.replace(PLAIN, optimizer=cnn.Optimizer(name="sgd", learning_rate=1.0))
    alone = cnn.make(descent)
    state = jax.jit(alone.init)(jax.random.key(0))
    batch = {k: v[rows()[0]] for k, v in data().items()}
    expected = jax.jit(alone.gradients)(state, batch)

    before = jax.device_get(state.params)
    workload = cnn.make(descent, parallel.AXIS)
    mesh = parallel.make_mesh(devices)
    call = parallel.compile_step(workload.train_step, mesh, mode)
    after, _ = call(parallel.place_state(state, mesh, mode), parallel.place_batches(batch, mesh, mode))
    moved = jax.tree.map(lambda a, b: a - np.asarray(b), before, jax.device_get(after.params))
    chex.assert_trees_all_close(moved, jax.device_get(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_the_state_is_donated(mode: parallel.Mode) -> None:
    workload = cnn.make(PLAIN, parallel.axis_name(mode))
    mesh = parallel.make_mesh(2)
    call = parallel.compile_step(workload.train_step, mesh, mode, 2)
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh, mode)
    batches = parallel.place_batches(rows()[:2], mesh, mode, 2)
    dataset = parallel.place_dataset(data(), mesh)
    memory = call.lower(state, batches, dataset).compile().memory_analysis()
    tree = (state.step, state.params, state.opt_state, state.extra)
    assert memory.alias_size_in_bytes >= sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    call(state, batches, dataset)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_one_compilation_per_shape() -> None:
    workload = cnn.make(PLAIN)
    mesh = parallel.make_mesh(1)
    chex.clear_trace_counter()
    # A shape is traced twice: for the shapes of the metrics, and for the loop.
    call = parallel.compile_step(chex.assert_max_traces(workload.train_step, n=4), mesh, "jit", 3)
    dataset = parallel.place_dataset(data(), mesh)
    for batch in (16, 16, 8, 8, 16):
        state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh)
        for steps in (3, 1, 2):
            state, _ = call(state, parallel.place_batches(rows()[:3, :batch], mesh, "jit", 3), dataset, steps)
    assert call.function._cache_size() == 2


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
def test_one_all_reduce_region_per_step(mode: parallel.Mode) -> None:
    """Gradients and metrics meet once: nothing is computed between the first all-reduce and the last."""
    workload = cnn.make(PLAIN, parallel.AXIS)
    mesh = parallel.make_mesh(8)
    call = parallel.compile_step(workload.train_step, mesh, mode)
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh, mode)
    batch = parallel.place_batches({k: v[rows()[0]] for k, v in data().items()}, mesh, mode)
    text = call.lower(state, batch).compile().as_text()
    reductions = re.findall(r"= .* all-reduce(?:-start)?\(", text)
    assert len(reductions) == 1, reductions


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 10 does not divide over 8 devices"):
        parallel.place_batches({"image": np.zeros((10, 2, 2, 1))}, parallel.make_mesh(8))


def test_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="devices is 9; this machine has 8"):
        parallel.make_mesh(9)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("Unable to initialize backend 'npu': it is not\nknown"),
            "Unable to initialize backend 'npu': it",
        ),
        (AssertionError(), "there is none"),
    ],
)
def test_a_backend_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def devices() -> None:
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "npu")
    with pytest.raises(ValueError, match=f"^JAX finds no device, with JAX_PLATFORMS 'npu': {reason}") as caught:
        parallel.check_backend()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
def test_per_device_state_is_split_and_comes_back_whole(mode: parallel.Mode) -> None:
    def init(key: jax.Array) -> State:
        return State(jnp.int32(0), {"w": jnp.zeros(3)}, (), key, local={"counter": jnp.arange(16.0)})

    def step(state: State, batch: Any) -> tuple[State, dict[str, jax.Array]]:
        counter = state.local["counter"] + 1
        return state.replace(step=state.step + 1, local={"counter": counter}), {"loss": jnp.zeros(())}

    workload = Workload(init, step)
    mesh = parallel.make_mesh(8)
    call = parallel.compile_step(workload.train_step, mesh, mode, 5)
    state = parallel.place_state(init(jax.random.key(0)), mesh, mode)
    state, _ = call(state, None)
    np.testing.assert_array_equal(parallel.gather_state(state, mode).local["counter"], np.arange(16.0) + 5)


@pytest.mark.parametrize("mode", MODES)
def test_the_first_non_finite_step_is_named(mode: parallel.Mode) -> None:
    """A NaN in one image; the step that gathers it is known from the indices."""
    workload = cnn.make(PLAIN, parallel.axis_name(mode))
    mesh = parallel.make_mesh(2)
    images = data()["image"].astype(np.float32) / 255
    bad = int(rows()[3, 5])
    images[bad] = np.nan
    expected = next(i for i, row in enumerate(rows()) if bad in row)
    call = parallel.compile_step(workload.train_step, mesh, mode, STEPS)
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh, mode)
    dataset = parallel.place_dataset({"image": images, "label": data()["label"]}, mesh)
    _, metrics = call(state, parallel.place_batches(rows(), mesh, mode, STEPS), dataset)
    assert int(metrics[parallel.NONFINITE]) == expected


def members(bad: int = -1) -> Workload:
    """Eight members in `local`, each of which counts; the metric `own` of member 5 is not finite at step `bad`."""

    def init(key: jax.Array) -> State:
        return State(jnp.int32(0), {"w": jnp.zeros(3)}, (), key, local=jnp.arange(8.0))

    def step(state: State, batch: Any) -> tuple[State, dict[str, jax.Array]]:
        original = state.local - state.step
        own = jnp.where((original == 5) & (state.step == bad), jnp.nan, state.local)
        return state.replace(step=state.step + 1, local=state.local + 1), {"own": own, "all": state.step * 1.0}

    return Workload(init, step, lambda state, batch: {"score": 3 * state.local, "count": jnp.full_like(state.local, 3)})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_metrics_that_are_arrays_come_back_from_all_devices_in_order(mode: parallel.Mode, steps_per_call: int) -> None:
    workload, mesh = members(), parallel.make_mesh(4)
    call = parallel.compile_step(workload.train_step, mesh, mode, steps_per_call)
    state = parallel.place_state(workload.init(jax.random.key(0)), mesh, mode)
    state, metrics = call(state, None)
    np.testing.assert_array_equal(metrics["own"], np.arange(8) + (steps_per_call - 1) / 2)
    assert float(metrics["all"]) == (steps_per_call - 1) / 2
    assert int(metrics[parallel.NONFINITE]) == -1
    assert workload.eval_step is not None
    sums = parallel.compile_evaluation(workload.eval_step, mesh, mode)(state, None, None)
    np.testing.assert_array_equal(sums["score"] / sums["count"], np.arange(8) + steps_per_call)


@pytest.mark.parametrize("mode", MODES)
def test_a_step_that_is_non_finite_on_one_device_alone_is_named(mode: parallel.Mode) -> None:
    workload, mesh = members(bad=2), parallel.make_mesh(4)
    call = parallel.compile_step(workload.train_step, mesh, mode, 5)
    _, metrics = call(parallel.place_state(workload.init(jax.random.key(0)), mesh, mode), None)
    assert int(metrics[parallel.NONFINITE]) == 2
    assert np.isnan(metrics["own"]).tolist() == [member == 5 for member in range(8)]


def test_what_devices_share_is_named_where_it_does_not_divide() -> None:
    parallel.check_divides("num_envs", 8, parallel.make_mesh(4))
    with pytest.raises(ValueError, match="num_envs 9 does not divide over 4 devices; choose a multiple of 4, or fewer"):
        parallel.check_divides("num_envs", 9, parallel.make_mesh(4))
