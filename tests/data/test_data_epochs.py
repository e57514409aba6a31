import jax
import numpy as np
import pytest

from jaxai.data import Epochs, batch_indices, permutation
from jaxai.data.epochs import steps_in

KEY = jax.random.key(7)


def test_each_epoch_visits_each_example_once_in_another_order():
    orders = np.stack([permutation(KEY, epoch, 50) for epoch in range(4)])
    assert orders.dtype == np.int32
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(50), (4, 1)))
    assert len(np.unique(orders, axis=0)) == 4


def test_another_key_gives_another_order():
    assert not np.array_equal(permutation(KEY, 0, 50), permutation(jax.random.key(8), 0, 50))


@pytest.mark.parametrize(("examples", "batch_size"), [(50, 10), (53, 10), (50, 50), (50, 1), (53, 30)])
def test_an_epoch_of_batches_repeats_nothing_and_drops_only_the_incomplete_batch(examples, batch_size):
    epochs = Epochs(KEY, examples, batch_size)
    assert epochs.batches == examples // batch_size
    for epoch in range(3):
        taken = np.asarray(epochs.indices(epoch * epochs.batches, epochs.batches))
        assert taken.shape == (epochs.batches, batch_size)
        assert taken.dtype == np.int32
        assert len(np.unique(taken)) == epochs.batches * batch_size


@pytest.mark.parametrize(
    ("examples", "batch_size", "step", "steps"),
    [(50, 10, 0, 1), (53, 10, 3, 5), (53, 10, 123, 12), (50, 50, 5, 7), (50, 1, 47, 9), (53, 30, 4, 3)],
)
def test_remembered_pure_and_one_by_one_agree(examples, batch_size, step, steps):
    def one(at):
        per_epoch = examples // batch_size
        order = np.asarray(permutation(KEY, at // per_epoch, examples))
        return order[at % per_epoch * batch_size :][:batch_size]

    expected = np.stack([one(at) for at in range(step, step + steps)])
    np.testing.assert_array_equal(Epochs(KEY, examples, batch_size).indices(step, steps), expected)
    np.testing.assert_array_equal(batch_indices(KEY, step, steps, batch_size, examples), expected)


def test_indices_can_be_made_inside_a_compiled_step():
    traced = jax.jit(lambda key, step: batch_indices(key, step, 5, 4, 31))
    for step in (0, 6, 33):
        np.testing.assert_array_equal(traced(KEY, step), batch_indices(KEY, step, 5, 4, 31))


def test_resume_from_any_step_continues_the_same_order():
    whole = np.asarray(Epochs(KEY, 31, 4).indices(0, 40))
    for step in (1, 6, 7, 8, 23):
        np.testing.assert_array_equal(Epochs(KEY, 31, 4).indices(step, 40 - step), whole[step:])


def test_what_was_asked_before_changes_nothing():
    epochs = Epochs(KEY, 31, 4)
    forwards = {step: np.asarray(epochs.indices(step, 3)) for step in range(0, 60, 3)}
    for step in reversed(forwards):
        np.testing.assert_array_equal(epochs.indices(step, 3), forwards[step])


@pytest.mark.parametrize("batch_size", [0, -4, 101])
def test_batch_size_that_no_epoch_can_fill_is_refused(batch_size):
    for make in (Epochs, lambda *arguments: batch_indices(KEY, 0, 1, batch_size, 100)):
        with pytest.raises(ValueError, match=f"batch_size is {batch_size}; expected 1 to 100"):
            make(KEY, 100, batch_size)


@pytest.mark.parametrize(("step", "steps"), [(-1, 2), (0, 0)])
def test_steps_out_of_range_are_refused(step, steps):
    with pytest.raises(ValueError, match=f"step is {step} and steps {steps}"):
        Epochs(KEY, 100, 10).indices(step, steps)


def test_more_steps_than_an_int32_counts_are_refused_as_epochs() -> None:
    assert (steps_in(0.01, 4), steps_in(2.5, 4), steps_in(1.0, 2**31 - 1)) == (1, 10, 2**31 - 1)
    with pytest.raises(ValueError, match=r"^epochs is 1e\+09: 4000000000 steps, and at most 2147483647 are counted"):
        steps_in(1e9, 4)
