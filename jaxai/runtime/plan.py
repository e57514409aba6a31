"""The steps at which a run calls the compiled program, evaluates and saves; they depend on the step alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxai import ranges
from jaxai.runtime.config import Run

__all__ = ["STEPS_PER_CALL", "Plan"]

STEPS_PER_CALL = 50
"""Default number of train steps per call: the cost of a call is negligible, and progress is still shown."""


@dataclass(frozen=True)
class Plan:
    """How `steps` steps are split into calls of at most `steps_per_call`, none of which crosses an evaluation."""

    steps: int
    steps_per_call: int
    evaluate_every: int
    checkpoint_every: int

    @classmethod
    def of(cls, run: Run, steps: int, evaluate_every: int, steps_per_call: int = STEPS_PER_CALL) -> "Plan":
        """The plan of a run.

        Args:
          run: its settings; 0 selects the defaults below.
          steps: train steps of the whole run.
          evaluate_every: default number of steps between evaluations.
          steps_per_call: default number of steps per call, approximately.

        Raises:
          ValueError: a negative number of steps.
        """
        ranges.check(run)
        evaluate_every = min(run.evaluate_every or evaluate_every, steps)
        # Calls of equal length, close to the default, so that none before an evaluation is shorter.
        equal = -(-evaluate_every // -(-evaluate_every // steps_per_call))
        return cls(
            steps, min(run.steps_per_call or equal, steps), evaluate_every, run.checkpoint_every or evaluate_every
        )

    def calls(self, first: int) -> Iterator[tuple[int, int]]:
        """(first step, number of steps) of each call from step `first` on."""
        while first < self.steps:
            ends = (first // every * every + every for every in (self.evaluate_every, self.checkpoint_every))
            steps = min(self.steps_per_call, self.steps - first, *(end - first for end in ends))
            yield first, steps
            first += steps

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows after `step` steps."""
        return step % self.evaluate_every == 0 or step == self.steps

    def checkpoints(self, step: int) -> bool:
        """Whether a checkpoint follows after `step` steps."""
        return step % self.checkpoint_every == 0 or step == self.steps
