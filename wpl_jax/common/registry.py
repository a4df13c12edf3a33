"""Parts by name: the library's own, those of installed packages, and any import path.

    [project.entry-points."wpl_jax.spaces"]
    ladder = "my_package.ladder:Ladder"

makes ``config.space.name = "ladder"`` work wherever that package is installed; without
it ``config.space.name = "my_package.ladder:Ladder"`` does the same.
"""

import functools
import importlib
from collections.abc import Iterator, MutableMapping
from importlib import metadata
from typing import Any


class Registry(MutableMapping[str, Any]):
    """Parts of one kind by name; a part is imported when it is asked for.

    Names are looked up among the library's own parts, then among the entry points of
    the group; a name with a colon is an import path.
    """

    def __init__(self, group: str, own: dict[str, Any]):
        """Takes the names.

        Args:
          group: Of the entry points of other packages, such as ``"wpl_jax.spaces"``.
          own: Parts, or their import paths, ``"package.module:Name"``, by name.
        """
        self._group, self._own = group, dict(own)

    def __getitem__(self, name: str) -> Any:
        """The part of a name.

        Raises:
          KeyError: If there is none of this name.
          ImportError: If its module cannot be imported.
        """
        if name in self._own:
            found = self._own[name]
            return import_path(found) if isinstance(found, str) else found
        if name in self._points:
            return _load(self._points[name])
        if isinstance(name, str) and ":" in name:
            return import_path(name)
        raise KeyError(name)

    def __setitem__(self, name: str, part: Any) -> None:
        """Adds a part for this process."""
        self._own[name] = part

    def __delitem__(self, name: str) -> None:
        """Removes a name of the library's own."""
        del self._own[name]

    def __iter__(self) -> Iterator[str]:
        """Names: the library's own, then those of entry points."""
        return iter(dict.fromkeys([*self._own, *self._points]))

    def __len__(self) -> int:
        """How many names there are."""
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        """Whether a name is listed, or is an import path."""
        return isinstance(name, str) and (":" in name or name in list(iter(self)))

    @functools.cached_property
    def _points(self) -> dict[str, metadata.EntryPoint]:
        """Entry points by name; read once, which takes as long as many look-ups."""
        return {point.name: point for point in metadata.entry_points(group=self._group)}


def import_path(path: str) -> Any:
    """What ``"package.module:Name"`` names.

    Raises:
      ImportError: If there is no such module, or no such name in it.
    """
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ImportError(
            f"{path!r} is no import path: write it as package.module:Name"
        )
    found = importlib.import_module(module)
    try:
        return getattr(found, name)
    except AttributeError as error:
        raise ImportError(f"{module} has no {name}") from error


def _load(point: metadata.EntryPoint) -> Any:
    """What an entry point names.

    Raises:
      ImportError: If there is no such module, or no such name in it.
    """
    try:
        return point.load()
    except AttributeError as error:
        raise ImportError(f"the entry point {point.name}: {error}") from error


def settings_name(name: str) -> str:
    """The name under which a part's settings lie: of an import path the part's own."""
    return name.rpartition(":")[2]
