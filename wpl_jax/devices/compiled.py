"""Methods that are compiled functions.

Instances that are equal share what is compiled: two searches that differ in their
penalty evaluate their children by the same program.
"""

import functools
from collections.abc import Callable
from typing import Any

_REMEMBERED = 64  # instances, for each method


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Makes a method one compiled function of all its arguments but ``self``.

    Compiled when it is first called, once for all equal instances, for the
    ``devices`` that they name. Their attributes are constants in it: they must be
    hashable and not change, as those of frozen dataclasses.

    Args:
      **options: Of :meth:`wpl_jax.devices.parallel.Devices.compile`.

    Returns:
      A decorator.
    """

    def decorate(method: Callable[..., Any]) -> Any:
        @functools.lru_cache(maxsize=_REMEMBERED)
        def compile_for(self: Any) -> Any:
            return self.devices.compile(functools.partial(method, self), **options)

        return property(compile_for, doc=method.__doc__)

    return decorate
