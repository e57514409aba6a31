import itertools

import pytest

from jaxai.runtime.config import Run
from jaxai.runtime.plan import STEPS_PER_CALL, Plan

SHAPES = [
    Plan(steps, per_call, evaluate, checkpoint)
    for steps, per_call, evaluate, checkpoint in itertools.product((1, 7, 60, 100), (1, 3, 50), (1, 4, 25), (2, 25, 80))
]


def ends(plan, first):
    return [start + steps for start, steps in plan.calls(first)]


@pytest.mark.parametrize("plan", SHAPES, ids=str)
def test_calls_take_every_step_once(plan):
    for first in (0, plan.steps // 3, plan.steps):
        taken = [step for start, steps in plan.calls(first) for step in range(start, start + steps)]
        assert taken == list(range(first, plan.steps))


@pytest.mark.parametrize("plan", SHAPES, ids=str)
def test_no_call_is_too_long_or_crosses_an_evaluation_or_a_checkpoint(plan):
    for start, steps in plan.calls(0):
        assert 1 <= steps <= plan.steps_per_call
        for inside in range(start + 1, start + steps):
            assert inside % plan.evaluate_every
            assert inside % plan.checkpoint_every


@pytest.mark.parametrize("plan", SHAPES, ids=str)
def test_going_on_from_the_end_of_a_call_repeats_the_rest_of_the_calls(plan):
    calls = list(plan.calls(0))
    for i, (start, _) in enumerate(calls):
        assert list(plan.calls(start)) == calls[i:]


def test_every_evaluation_and_checkpoint_is_the_end_of_a_call_and_so_is_the_last_step():
    plan = Plan(steps=95, steps_per_call=8, evaluate_every=20, checkpoint_every=30)
    assert [step for step in ends(plan, 0) if plan.evaluates(step)] == [20, 40, 60, 80, 95]
    assert [step for step in ends(plan, 0) if plan.checkpoints(step)] == [30, 60, 90, 95]


@pytest.mark.parametrize("steps_per_epoch", [1, 2, 49, 50, 51, 63, 97, 100, 937])
def test_calls_that_nobody_chose_are_nearly_equal_parts_of_an_epoch(steps_per_epoch):
    plan = Plan.of(Run(), 3 * steps_per_epoch, steps_per_epoch)
    lengths = {steps for _, steps in plan.calls(0)}
    assert max(lengths) <= STEPS_PER_CALL
    assert len(lengths) <= 2
    # The last call of an epoch gives up what its equals round up, less than one step each.
    assert min(lengths) > max(lengths) - len(list(plan.calls(0))) / 3


def test_defaults_evaluate_and_save_each_epoch():
    plan = Plan.of(Run(), 300, 100)
    assert [step for step in range(1, 301) if plan.evaluates(step)] == [100, 200, 300]
    assert [step for step in range(1, 301) if plan.checkpoints(step)] == [100, 200, 300]


def test_a_run_shorter_than_its_intervals_still_evaluates_and_saves_at_its_end():
    plan = Plan.of(Run(evaluate_every=500, checkpoint_every=500, steps_per_call=64), 10, 100)
    assert list(plan.calls(0)) == [(0, 10)]
    assert plan.evaluates(10)
    assert plan.checkpoints(10)


@pytest.mark.parametrize("name", ["steps_per_call", "evaluate_every", "checkpoint_every", "early_stopping"])
def test_negative_steps_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^{name} is -3; it must be at least 0$"):
        Plan.of(Run(**{name: -3}), 10, 5)
