"""A feed: a source of batches of your own, such as an environment that runs on the host."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxai.core import State

__all__ = ["Feed"]


@runtime_checkable
class Feed(Protocol):
    """A source of batches that the host generates during training, such as a gymnasium environment.

    It may have a method `close()`, which is called when training ends. Checkpoints do not contain its state: a run
    that resumes gets a new feed, which continues exactly only if its batches depend on `step` alone.

    Attributes:
      example: the batch of one step: name -> anything with a shape [batch, ...] and a dtype. Only these are read.
    """

    example: Mapping[str, Any]

    def next(self, step: int, state: State) -> Mapping[str, np.ndarray]:
        """The batch that train step `step` learns from, with the names, shapes and dtypes of `example`.

        Args:
          step: the train step, from 0.
          state: the state before the call that contains this step; with `steps_per_call=1`, the state before the step.
            It is valid until this method returns: the call that follows takes over its memory.
        """
