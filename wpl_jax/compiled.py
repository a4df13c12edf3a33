"""Methods that are compiled functions."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Makes a method a jitted function of all its arguments but ``self``.

    Compiled when it is first called, once for each instance, whose attributes are
    constants in it: an instance must not change, as a frozen dataclass does not.

    Args:
      **options: Of :func:`jax.jit`, arguments by their names.

    Returns:
      A decorator.
    """

    def decorate(method: Callable[..., Any]) -> Any:
        def compile_for(self: Any) -> Any:
            return jax.jit(functools.partial(method, self), **options)

        prop = functools.cached_property(compile_for)
        prop.__doc__ = method.__doc__
        return prop

    return decorate
