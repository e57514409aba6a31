"""Experiments that learn what their field `data` names, and the options that change it."""

import dataclasses
from typing import Any

from jaxai.dotted_names import defined_in_preset, dotted_name, imported
from jaxai.runtime import experiment

PLACES = ("dir", "cache")
"""Fields of the data that change its place, not its content."""


class OnData(experiment.Experiment):
    """An experiment with a field `data`.

    Attributes:
      data: a dataclass whose `source` names the data, or is a function that returns it.
    """

    data: Any

    @property
    def from_preset(self) -> str:
        """The function that returns the data, if the preset defines it."""
        return f"has {dotted_name(self.data.source)}" if defined_in_preset(self.data.source) else ""

    @property
    def named_again(self) -> str:
        """The function that returns the data, if another module defines it."""
        function = callable(self.data.source) and not defined_in_preset(self.data.source)
        return f"--data.source {dotted_name(self.data.source)}" if function else ""

    @property
    def task(self) -> Any:
        """The data, wherever it is."""
        places = {field.name: field.default for field in dataclasses.fields(self.data) if field.name in PLACES}
        return dataclasses.replace(self.data, **places)


def with_data(config: Any, folder: str | None, function: str | None) -> Any:
    """An experiment with other data.

    Args:
      config: with a field `data`.
      folder: of the data; None: as it is.
      function: that returns the data, as `package.module:name`, typed by the user; None: as it is.

    Raises:
      ValueError: the function cannot be imported.
    """
    changes: dict[str, Any] = {}
    if folder is not None:
        changes["dir"] = folder
    if function is not None:
        changes["source"] = imported(function, "--data.source")
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes)) if changes else config
