"""The data of a run by the options of `jaxai evaluate`."""

import dataclasses
from typing import Any

from jaxai.dotted_names import imported


def with_data(config: Any, folder: str | None, function: str | None) -> Any:
    """An experiment with other data.

    Args:
      config: with a field `data`.
      folder: of the data; None: as it is.
      function: that returns the data, as `package.module:name`, which the user has typed; None: as it is.

    Raises:
      ValueError: the function cannot be imported.
    """
    changes: dict[str, Any] = {}
    if folder is not None:
        changes["dir"] = folder
    if function is not None:
        changes["source"] = imported(function, "--data.source")
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes)) if changes else config
