import itertools
import threading
import time

import jax
import numpy as np
import pytest

from jaxai.data import Epochs, Stream
from jaxai.data.stream import calls

EXAMPLES, BATCH = 53, 8
ARRAYS = {
    "image": np.random.default_rng(0).integers(0, 256, (EXAMPLES, 4, 4, 3), np.uint8),
    "label": np.arange(EXAMPLES, dtype=np.int32),
}


def epochs():
    return Epochs(jax.random.key(3), EXAMPLES, BATCH)


def streaming():
    return [thread for thread in threading.enumerate() if thread.name == "jaxai-stream"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert streaming() == []


def resident(step, steps):
    indices = epochs().indices(step, steps)
    return {key: np.asarray(jax.numpy.asarray(array)[indices]) for key, array in ARRAYS.items()}


def assert_batches(got, expected):
    assert got.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(got[key], expected[key])
        assert got[key].dtype == expected[key].dtype


def test_stream_gives_what_data_on_the_device_would():
    with Stream(ARRAYS, epochs(), calls(5, 27, 4)) as stream:
        got = list(stream)
    assert len(got) == 6
    for batches, (step, steps) in zip(got, calls(5, 27, 4), strict=True):
        assert_batches(batches, resident(step, steps))
    assert got[-1]["label"].shape == (2, BATCH)
    assert stream.seconds_waited > 0


def test_memory_mapped_arrays_are_streamed(tmp_path):
    for key, array in ARRAYS.items():
        np.save(tmp_path / f"{key}.npy", array)
    mapped = {key: np.load(tmp_path / f"{key}.npy", mmap_mode="r") for key in ARRAYS}
    with Stream(mapped, epochs(), calls(0, 6, 3)) as stream:
        for batches, (step, steps) in zip(stream, calls(0, 6, 3), strict=True):
            assert_batches(batches, resident(step, steps))
            assert type(batches["image"]) is np.ndarray


def test_shards_put_together_are_the_batch():
    parts = []
    for index in range(4):
        with Stream(ARRAYS, epochs(), calls(0, 10, 5), shard=(index, 4)) as stream:
            parts.append(list(stream))
    for at, (step, steps) in enumerate(calls(0, 10, 5)):
        together = {key: np.concatenate([part[at][key] for part in parts], axis=1) for key in ARRAYS}
        assert_batches(together, resident(step, steps))


def test_place_runs_in_the_thread_and_its_result_is_yielded():
    names = []

    def place(batches):
        names.append(threading.current_thread().name)
        return jax.device_put(batches)

    with Stream(ARRAYS, epochs(), calls(0, 4, 2), place=place) as stream:
        got = list(stream)
    assert names == ["jaxai-stream"] * 2
    assert all(isinstance(array, jax.Array) for batches in got for array in batches.values())
    assert_batches({key: np.asarray(array) for key, array in got[1].items()}, resident(2, 2))


def test_no_more_is_made_ahead_than_depth_allows():
    made = []
    endless = ((step, 1) for step in itertools.count())
    with Stream(ARRAYS, epochs(), endless, place=lambda batches: made.append(1), depth=2) as stream:
        next(stream)
        time.sleep(0.2)
        assert len(made) == 4  # one taken, two waiting, one that finds no room


def test_error_of_the_thread_is_raised_in_the_consumer():
    def place(batches):
        if len(batches["label"]) == 1:
            raise RuntimeError("the device is gone")
        return batches

    with Stream(ARRAYS, epochs(), [(0, 2), (2, 1), (3, 2)], place=place) as stream:
        next(stream)
        with pytest.raises(RuntimeError, match="the device is gone"):
            next(stream)
        assert streaming() == []
        assert list(stream) == []


def test_error_in_the_calls_is_raised_in_the_consumer():
    with Stream(ARRAYS, epochs(), [(-1, 1)]) as stream, pytest.raises(ValueError, match="step is -1"):
        next(stream)


def test_closing_early_stops_a_thread_that_waits_for_room():
    stream = Stream(ARRAYS, epochs(), ((step, 1) for step in itertools.count()))
    next(stream)
    time.sleep(0.05)
    began = time.perf_counter()
    stream.close()
    stream.close()
    assert time.perf_counter() - began < 1
    assert streaming() == []
    with pytest.raises(StopIteration):
        next(stream)


def test_leaving_by_an_error_closes_too():
    def fail_midway():
        with Stream(ARRAYS, epochs(), calls(0, 100, 1)) as stream:
            next(stream)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_midway()
    assert streaming() == []


def test_exhausted_stream_has_no_thread():
    stream = Stream(ARRAYS, epochs(), calls(0, 3, 1))
    assert len(list(stream)) == 3
    assert streaming() == []


@pytest.mark.parametrize("shard", [(0, 3), (2, 2), (-1, 2), (0, 0)])
def test_shards_that_do_not_divide_the_batch_are_refused(shard):
    with pytest.raises(ValueError, match=f"shard is {shard[0]} of {shard[1]}"):
        Stream(ARRAYS, epochs(), calls(0, 3, 1), shard=shard)


def test_arrays_of_another_length_are_refused():
    with pytest.raises(
        ValueError, match=r"arrays have lengths \{'image': 53, 'label': 52\}; expected 53 examples each"
    ):
        Stream({**ARRAYS, "label": ARRAYS["label"][:-1]}, epochs(), calls(0, 3, 1))
