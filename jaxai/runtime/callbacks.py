"""Callbacks and measures: functions of your own that run between the calls of a training, never inside a step.

A callback is called as `callback(step, metrics, state)`

- after each call of the compiled step, with its metrics as `metrics.jsonl` has them (`{"epoch": ..., "loss": ...}`),
- after each evaluation, with those of the evaluation (`{"epoch": ..., "test_loss": ..., "test_accuracy": ...}`).

`step` is the number of train steps taken. `state` is valid until the callback returns: the next call takes over its
memory, so copy what you keep (`jax.device_get(state.params)`). With callbacks, each call is finished before the next
one starts, which costs an accelerator a few per cent if calls are short.

A callback returns None, or "stop" to end the run: the state is evaluated and saved, the result is written, and the stop
is recorded in `stopped.json`. The same command then leaves the run as it is; `resume_with_changes` continues it.
An exception ends the run as well: the state is saved, and a line names the callback.

Weights & Biases::

    run = wandb.init(project="digits")
    callbacks = [lambda step, metrics, state: run.log(dict(metrics), step=step)]

TensorBoard (`tensorboard=True` of a run needs no callback)::

    writer = tensorboardX.SummaryWriter("events")

    def write(step, metrics, state):
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

A stopping rule (`early_stopping=N` of a run needs no callback)::

    def good_enough(step, metrics, state):
        return "stop" if metrics.get("test_accuracy", 0) > 0.99 else None

A measure is called as `measure(state)` at each evaluation and returns `{name: value}`: numbers that are logged, shown,
passed to the callbacks and drawn in the report together with the other metrics of the evaluation. Its state is valid
until it returns, too::

    def smallest_weight(state):
        return {"smallest_weight": min(float(abs(leaf).min()) for leaf in jax.tree.leaves(state.params))}
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxai.core import State
from jaxai.ranges import shown

__all__ = ["Callback", "CallbackError", "Measure", "check_callbacks", "check_measures"]

STOP = "stop"
Callback = Callable[[int, Mapping[str, Any], State], Literal["stop"] | None]
"""(step, metrics, state) -> None or "stop"."""
Measure = Callable[[State], Mapping[str, float]]
"""state -> {name: value}."""


class CallbackError(ValueError):
    """A callback or a measure raised, or returned something unexpected; its own error is the `__cause__`."""


def check_callbacks(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    """The callbacks, as a tuple.

    Raises:
      ValueError: no sequence of functions that take (step, metrics, state).
    """
    return _functions("callback", callbacks, "step", "metrics", "state")


def check_measures(measures: Sequence[Measure]) -> tuple[Measure, ...]:
    """The measures, as a tuple.

    Raises:
      ValueError: no sequence of functions that take a state.
    """
    return _functions("measure", measures, "state")


def _functions(what: str, functions: Any, *parameters: str) -> tuple[Any, ...]:
    expected = f"({', '.join(parameters)})"
    if callable(functions) or not isinstance(functions, Iterable):
        given = name_of(functions) if callable(functions) else shown(functions)
        raise ValueError(f"{what}s is {given}; expected a list of functions {expected}")
    found = tuple(functions)
    for function in found:
        if not callable(function):
            raise ValueError(f"{what}s has {shown(function)}; expected functions {expected}")
        try:
            signature = inspect.signature(function)
        except ValueError:  # of a builtin
            continue
        try:
            signature.bind(*parameters)
        except TypeError:
            raise ValueError(f"{what} {name_of(function)} takes {signature}; expected {expected}") from None
    return found


def call_back(callbacks: Sequence[Callback], step: int, metrics: Mapping[str, Any], state: State) -> str:
    """Calls each callback in turn; returns the name of the first that returned "stop", else "".

    Args:
      callbacks: see the top of this module.
      step: number of train steps taken.
      metrics: of a call or of an evaluation; each callback gets a copy.
      state: after `step` steps.

    Raises:
      CallbackError: a callback raised, or returned neither None nor "stop".
    """
    stopped_by = ""
    for callback in callbacks:
        try:
            answer = callback(step, dict(metrics), state)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            names = ", ".join(metrics)
            raise CallbackError(
                f"callback {name_of(callback)} failed at step {step}: {reason:.300} (its metrics were {names:.200})"
            ) from error
        if answer is not None and not (isinstance(answer, str) and answer == STOP):
            raise CallbackError(
                f"callback {name_of(callback)} returned {shown(answer)} at step {step}; expected None or 'stop'"
            )
        if answer == STOP:
            stopped_by = stopped_by or name_of(callback)
    return stopped_by


def measured(measures: Sequence[Measure], step: int, state: State, metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an evaluation, and those that the measures return.

    Args:
      measures: see the top of this module.
      step: number of train steps taken.
      state: after `step` steps.
      metrics: of the evaluation.

    Raises:
      CallbackError: a measure raised, did not return numbers by name, or returned a name that exists already.
    """
    found = dict(metrics)
    for measure in measures:
        try:
            values = {str(name): float(value) for name, value in measure(state).items()}
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CallbackError(
                f"measure {name_of(measure)} failed at step {step}: {reason:.300}; it must return {{name: number}}"
            ) from error
        if taken := sorted(values.keys() & {*found, "step"}):
            raise CallbackError(
                f"measure {name_of(measure)} returned {taken[0]} at step {step}, which is the name of another metric;"
                " choose another name"
            )
        found |= values
    return found


def name_of(function: Any) -> str:
    """The name of a callback or a measure in messages; for a lambda with its file and line."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    code = getattr(function, "__code__", None)
    return f"<lambda> ({Path(code.co_filename).name}:{code.co_firstlineno})" if code and "<lambda>" in name else name
