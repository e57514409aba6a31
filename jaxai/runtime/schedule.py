"""When a run calls the compiled program, evaluates and saves: a function of the step alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxai import ranges
from jaxai.runtime.config import Run

STEPS_PER_CALL = 50
"""About as many steps in a call when nobody says: dispatch costs nothing then, and a person still sees it move."""


@dataclass(frozen=True)
class Schedule:
    """How `steps` steps are split into calls of at most `steps_per_call`, none of which crosses an evaluation."""

    steps: int
    steps_per_call: int
    evaluate_every: int
    checkpoint_every: int

    @classmethod
    def of(cls, run: Run, steps: int, steps_per_epoch: int, steps_per_call: int = STEPS_PER_CALL) -> "Schedule":
        """The schedule that a run asks for; `steps_per_call` is about what a call has where the run does not say.

        Raises:
          ValueError: a negative number of steps.
        """
        ranges.check(run)
        evaluate_every = min(run.evaluate_every or steps_per_epoch, steps)
        # As many equal calls as come near to the usual length, so that no rest is left over before an evaluation.
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
        """Whether an evaluation follows once `step` steps are taken."""
        return step % self.evaluate_every == 0 or step == self.steps

    def checkpoints(self, step: int) -> bool:
        """Whether a checkpoint follows once `step` steps are taken."""
        return step % self.checkpoint_every == 0 or step == self.steps
