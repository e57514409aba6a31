import json
import logging
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxai.core import State
from jaxai.runtime.checkpoint import CHECKSUMS, Checkpoints, restore_once, save_once


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
        assert checkpoints.steps() == [1, 2]
        checkpoints.set_aside()
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
    # What lies beside these two is a note of orbax's own, and not read.
    written = {str(file.relative_to(folder)) for item in ("state", "leaves") for file in (folder / item).rglob("*")}
    written = {name for name in written if (folder / name).is_file()}
    assert len(written) > 5
    assert json.loads((folder / CHECKSUMS).read_text()).keys() == written


@pytest.mark.parametrize("which", ["latest", "best"])
def test_checkpoint_has_its_checksums_before_it_has_its_name(tmp_path, which):
    """A kill right after the rename finds them; and what was damaged before the next save is not sealed by it."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(1), which)
        while not checkpoints.steps(which):
            time.sleep(0.01)
        assert (tmp_path / which / "1" / CHECKSUMS).exists()
        flip(largest_file(tmp_path / which / "1"))
        checkpoints.save(make_state(2), "best" if which == "latest" else "latest")
        checkpoints.wait()
        assert checkpoints.restore(shapes(make_state(0)), which) is None
        assert [*checkpoints.damaged] == [tmp_path / which / "1"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"3",
        b"null",
        b"{}",
        b'{"a": "b"}',
        b'{"state/manifest.ocdbt": 3}',
        b"\xff\xfe",
        b"\x00" * 40,
        b"[" * 100_000,
        None,
    ],
    ids=["empty", "list", "number", "null", "none", "other", "type", "utf-8", "nul", "deep", "folder"],
)
def test_damaged_checksums_are_damage(tmp_path, content):
    save(tmp_path, 1, 2)
    file = tmp_path / "latest" / "2" / CHECKSUMS
    file.unlink()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(shapes(make_state(0))).step) == 1
        (damage,) = checkpoints.damaged.values()
        assert damage.startswith((CHECKSUMS, "state/manifest.ocdbt"))


def test_checksums_of_an_earlier_version_list_notes_that_are_not_checked(tmp_path):
    save(tmp_path, 1)
    file = tmp_path / "latest" / "1" / CHECKSUMS
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_CHECKPOINT_METADATA": "0" * 32}))
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(shapes(make_state(0))).step) == 1
        assert not checkpoints.damaged


def test_truncated_checkpoint_that_was_killed_before_its_checksums_falls_back(tmp_path, caplog):
    save(tmp_path, 1, 2)
    (tmp_path / "latest" / "2" / CHECKSUMS).unlink()
    for file in (tmp_path / "latest" / "2" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            truncate(file)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(shapes(make_state(0)))
    assert_same_bits(host(restored), host(make_state(1)))
    assert [*checkpoints.damaged] == [tmp_path / "latest" / "2"]
    assert "checksums.json: it cannot be checked" in caplog.text


def test_the_same_step_may_be_damaged_twice(tmp_path):
    for _ in range(2):
        save(tmp_path, 1, 2)
        flip(largest_file(tmp_path / "latest" / "2"))
        with Checkpoints(tmp_path) as checkpoints:
            assert int(checkpoints.restore(shapes(make_state(0))).step) == 1
            checkpoints.set_aside()
    assert {path.name for path in (tmp_path / "latest").iterdir()} == {"1", "damaged-2", "damaged-2-2"}


def test_where_every_checkpoint_is_damaged_all_are_named(tmp_path):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        flip(largest_file(tmp_path / "latest" / str(step)))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(shapes(make_state(0))) is None
    assert re.fullmatch(r"latest/2 \(damaged: state/\S+ .*\), latest/1 \(damaged: .*\)", checkpoints.inventory())


def test_newest_of_both_folders_is_restored_where_training_goes_on(tmp_path):
    save(tmp_path, 1, 2)
    save(tmp_path, 3, which="best")
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(shapes(make_state(0)), None).step) == 3
        flip(largest_file(tmp_path / "best" / "3"))
        assert int(checkpoints.restore(shapes(make_state(0)), None).step) == 2


def contents(folder):
    """Every path below a folder, with its bytes and its time of change."""
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


def test_reading_changes_nothing_and_makes_nothing(tmp_path):
    save(tmp_path, 1, 2)
    flip(largest_file(tmp_path / "latest" / "2"))
    # As a training that is in the middle of writing leaves it.
    unfinished = tmp_path / "latest" / "3.orbax-checkpoint-tmp" / "state.orbax-checkpoint-tmp"
    unfinished.mkdir(parents=True)
    (unfinished / "data").write_bytes(b"half")
    before = contents(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(shapes(make_state(0))).step) == 1
        assert checkpoints.restore(shapes(make_state(0)), "best") is None
    with Checkpoints(tmp_path / "nowhere") as checkpoints:
        assert checkpoints.restore(shapes(make_state(0))) is None
    assert contents(tmp_path) == before


WRITER = """
import sys, pathlib, jax, jax.numpy as jnp
from jaxai.core import State
from jaxai.runtime.checkpoint import Checkpoints

with Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
    for step in range(1, 11):
        state = State(jnp.int32(step), {"w": jnp.full(50_000, step, jnp.float32)}, (), jnp.zeros(2))
        for which in ("latest", "best"):
            checkpoints.save(state, which)
"""


# What orbax leaves behind where a file is deleted while it is read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_reader_beside_a_training_sees_whole_states_and_does_not_stop_it(tmp_path):
    writer = subprocess.Popen([sys.executable, "-W", "error", "-c", WRITER, str(tmp_path)], stderr=subprocess.PIPE)
    like, seen = State(jnp.int32(0), {"w": jnp.zeros(50_000)}, (), jnp.zeros(2)), set()
    while writer.poll() is None:
        with Checkpoints(tmp_path) as checkpoints:
            state = checkpoints.restore(like, "best" if len(seen) % 2 else "latest")
        if state is not None:
            assert (state.params["w"] == int(state.step)).all()
            seen.add(int(state.step))
        assert not checkpoints.damaged
    assert writer.returncode == 0, writer.stderr.read().decode()
    writer.stderr.close()
    assert seen
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.steps("latest"), checkpoints.steps("best")) == ([9, 10], [10])


def test_dump_of_one_state_is_watched_too(tmp_path):
    for step in (1, 2):
        save_once(tmp_path / "state", make_state(step))
    assert_same_bits(host(restore_once(tmp_path / "state", shapes(make_state(0)))), host(make_state(2)))
    flip(largest_file(tmp_path / "state"))
    with pytest.raises(
        ValueError, match=r"^\S+/state is damaged \(state/\S+ differs from what was written\); train again"
    ):
        restore_once(tmp_path / "state", shapes(make_state(0)))


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
