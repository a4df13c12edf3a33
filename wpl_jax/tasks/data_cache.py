"""Data that is loaded once, for all tasks that are made of it."""

import json
from collections.abc import Callable, Mapping
from typing import Any


class DataCache:
    """Keeps what has been loaded, by the settings that it was loaded with.

    The arms of a run, and their retraining, differ in penalties and sizes and mostly
    have the same data: on one cache it is read once, and once on the devices.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def get(self, settings: Mapping[str, Any], load: Callable[[], Any]) -> Any:
        """What was loaded with the same settings, or what is loaded now.

        Args:
          settings: All that the data depends on; of JSON's types.
          load: Loads it.
        """
        key = json.dumps(settings, sort_keys=True)
        if key not in self._loaded:
            self._loaded[key] = load()
        return self._loaded[key]
