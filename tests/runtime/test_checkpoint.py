import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxai.core import State
from jaxai.runtime.checkpoint import CHECKSUMS, Checkpoints


def make_state(step, rows=64):
    random = np.random.default_rng(step)
    params = {
        "kernel": jnp.asarray(random.normal(size=(rows, 8)), jnp.float32),
        "half": jnp.asarray(random.normal(size=5), jnp.bfloat16),
    }
    opt_state = optax.adam(optax.linear_schedule(1.0, 0.0, 9)).init(params)
    key = jax.random.fold_in(jax.random.key(3), step)
    local = jnp.arange(16 * 3).reshape(16, 3) + step
    return State(jnp.int32(step), params, opt_state, key, extra={"mean": jnp.float32(step)}, local=local)


def host(tree):
    def copy(leaf):
        return np.array(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return jax.tree.map(copy, tree)


def assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        assert a.tobytes() == b.tobytes(), path


def shapes(state, devices=1):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))

    def place(leaf, spec):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    like = jax.tree.map(lambda leaf: place(leaf, PartitionSpec()), state.replace(local=None))
    return like.replace(local=place(state.local, PartitionSpec("data")))


def save(folder, *steps, which="latest"):
    with Checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), which)


def largest_file(folder):
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != CHECKSUMS]
    return max(files, key=lambda file: file.stat().st_size)


def flip(file):
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(byte ^ 0xFF for byte in data[middle : middle + 8])
    file.write_bytes(data)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_every_leaf_comes_back_bitwise(tmp_path):
    save(tmp_path, 7)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(shapes(make_state(0)))
    assert jax.dtypes.issubdtype(restored.key.dtype, jax.dtypes.prng_key)
    assert_same_bits(host(restored), host(make_state(7)))


def test_donated_steps_right_after_saving_do_not_reach_what_was_saved(tmp_path):
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 2 + 1, state), donate_argnums=0)
    state = {"w": jnp.arange(2**22, dtype=jnp.float32).reshape(2048, 2048), "b": jnp.ones(7)}
    state = State(jnp.int32(0), state, (), jnp.zeros(2), local=jnp.zeros(8))
    state = step(state)
    with Checkpoints(tmp_path) as checkpoints:
        for _ in range(4):
            # Of a copy: an array that was looked at keeps its host view, and may be spared by the donation.
            saved, number = host(jax.tree.map(jnp.copy, state)), int(jnp.copy(state.step))
            checkpoints.save(state)
            for _ in range(5):
                state = step(state)
            checkpoints.wait()
            assert_same_bits(host(checkpoints.restore(shapes(state))), saved)
            assert checkpoints.steps()[-1] == number


def test_two_latest_are_kept_and_an_old_best_is_not_deleted(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(1), "best")
        for step in range(1, 6):
            checkpoints.save(make_state(step))
        checkpoints.wait()
        assert checkpoints.steps("latest") == [4, 5]
        assert checkpoints.steps("best") == [1]
        checkpoints.save(make_state(5), "best")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps("latest") == [4, 5]
        assert checkpoints.steps("best") == [5]
        assert int(checkpoints.restore(shapes(make_state(0)), "best").step) == 5


@pytest.mark.parametrize("damage", [flip, truncate, lambda file: file.unlink()], ids=["flip", "truncate", "delete"])
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, damage):
    save(tmp_path, 1, 2)
    damage(largest_file(tmp_path / "latest" / "2"))
    with caplog.at_level(logging.WARNING, "jaxai"), Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(shapes(make_state(0)))
        assert_same_bits(host(restored), host(make_state(1)))
        (record,) = [record for record in caplog.records if record.name.startswith("jaxai")]
        assert "step 2 is damaged" in record.getMessage()
        assert str(tmp_path / "latest" / "damaged-2") in record.getMessage()
        assert checkpoints.steps() == [1]
        checkpoints.save(make_state(2))
    with Checkpoints(tmp_path) as checkpoints:
        assert_same_bits(host(checkpoints.restore(shapes(make_state(0)))), host(make_state(2)))


def test_every_file_of_a_checkpoint_is_watched(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "latest" / "1"
    written = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file.name != CHECKSUMS}
    assert json.loads((folder / CHECKSUMS).read_text()).keys() == written


def test_truncated_checkpoint_that_was_killed_before_its_checksums_falls_back(tmp_path, caplog):
    save(tmp_path, 1, 2)
    (tmp_path / "latest" / "2" / CHECKSUMS).unlink()
    for file in (tmp_path / "latest" / "2" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            truncate(file)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(shapes(make_state(0)))
    assert_same_bits(host(restored), host(make_state(1)))
    assert "step 2 is damaged" in caplog.text


def test_the_same_step_may_be_damaged_twice(tmp_path):
    for _ in range(2):
        save(tmp_path, 1, 2)
        flip(largest_file(tmp_path / "latest" / "2"))
        with Checkpoints(tmp_path) as checkpoints:
            assert int(checkpoints.restore(shapes(make_state(0))).step) == 1


def test_nothing_is_restored_where_every_checkpoint_is_damaged(tmp_path, caplog):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        flip(largest_file(tmp_path / "latest" / str(step)))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(shapes(make_state(0))) is None
    assert "step 2" in caplog.text
    assert "step 1" in caplog.text


def test_nothing_is_restored_where_nothing_was_saved(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(shapes(make_state(0))) is None


def _with_kernel(kernel):
    state = make_state(0)
    return state.replace(params=state.params | {"kernel": kernel})


@pytest.mark.parametrize(
    ("like", "leaf", "saved", "expected"),
    [
        (_with_kernel(jnp.zeros((64, 8), jnp.float16)), ".params['kernel']", "float32[64, 8]", "float16[64, 8]"),
        (_with_kernel(jnp.zeros((64, 9))), ".params['kernel']", "float32[64, 8]", "float32[64, 9]"),
        (make_state(0).replace(extra={}), ".extra['mean']", "float32[]", "nothing"),
        (make_state(0).replace(extra={"mean": jnp.float32(0), "ema": jnp.ones(2)}), ".extra['ema']", "nothing", "[2]"),
    ],
    ids=["dtype", "shape", "extra", "missing"],
)
def test_checkpoint_of_another_network_is_refused_in_one_line_that_names_the_leaf(
    tmp_path, like, leaf, saved, expected
):
    save(tmp_path, 3)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="checkpoint") as error:
            checkpoints.restore(shapes(like))
        assert checkpoints.steps() == [3]
    message = str(error.value)
    assert "\n" not in message
    assert leaf in message
    assert saved in message
    assert expected in message
    assert str(tmp_path / "latest" / "3") in message


@pytest.mark.parametrize("devices", [8, 4, 2, 1])
def test_restores_on_any_number_of_devices(tmp_path, devices):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    state = make_state(2)
    placed = jax.device_put(state.replace(local=None), NamedSharding(mesh, PartitionSpec()))
    placed = placed.replace(local=jax.device_put(state.local, NamedSharding(mesh, PartitionSpec("data"))))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(placed)
        checkpoints.wait()
        restored = checkpoints.restore(shapes(state, devices))
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(restored)} == {devices}
    assert restored.local.addressable_shards[0].data.shape == (16 // devices, 3)
    assert_same_bits(host(restored), host(state))


def test_rewinding_forgets_what_came_after_so_that_it_can_be_saved_anew(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(5))
        checkpoints.save(make_state(10), "best")
        checkpoints.wait()
        checkpoints.rewind(5)
        assert checkpoints.steps("best") == []
        assert checkpoints.steps("latest") == [5]
        checkpoints.save(make_state(7), "best")
        checkpoints.wait()
        assert checkpoints.steps("best") == [7]
