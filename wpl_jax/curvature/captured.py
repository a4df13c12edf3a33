"""What a function reads besides its arguments, as far as Python tells.

A compiled function has taken over the values of globals and of variables of enclosing
functions. It may serve again as long as these are the same.
"""

import dataclasses
import functools
import types
from collections.abc import Iterator
from typing import Any

_PLAIN = (bool, bytes, complex, float, int, str, type(None))
_OWN = __name__.partition(".")[0]


class Same:
    """A value that is equal to itself alone; numbers and texts to equal ones."""

    def __init__(self, value: Any):
        self._value = value
        self._is_plain = isinstance(value, _PLAIN)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same):
            return NotImplemented
        if self._is_plain:
            kinds = type(self._value), type(other._value)
            return kinds[0] is kinds[1] and self._value == other._value
        return self._value is other._value

    def __hash__(self) -> int:
        return hash(self._value) if self._is_plain else id(self._value)


def captured(*functions: Any) -> tuple[Same, ...]:
    """The values that functions read from globals, closures and the object of a method.

    Helpers of the same module that they call are followed. What is changed in place, as
    an entry of an array or of a dict, is not noticed.

    Args:
      *functions: Functions, methods, ``functools.partial``, tuples of them, and what
        this library makes of them, as :func:`wpl_jax.sample_class`. Of other objects
        nothing is read.

    Returns:
      A tuple that is equal to an earlier one if and only if all values are the same.
    """
    return tuple(map(Same, _values(functions, set())))


def _values(thing: Any, seen: set[int]) -> Iterator[Any]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, tuple):
        for each in thing:
            yield from _values(each, seen)
    elif isinstance(thing, functools.partial):
        inside = thing.func, thing.args, tuple(thing.keywords.values())
        yield from _values(inside, seen)
    elif isinstance(thing, types.MethodType):
        yield from getattr(thing.__self__, "__dict__", {}).values()
        yield from _values(thing.__func__, seen)
    elif isinstance(thing, types.FunctionType):
        for value in _enclosed(thing):
            yield value
            yield from _values(value, seen)
        if not _is_own(thing):  # The globals of this library are constants.
            for value in _globals(thing):
                yield value
                if _belongs(value, thing):
                    yield from _values(value, seen)
    elif dataclasses.is_dataclass(thing) and _is_own(type(thing)):
        fields = dataclasses.fields(thing)
        yield from _values(tuple(getattr(thing, f.name) for f in fields), seen)


def _is_own(thing: Any) -> bool:
    """Whether this library defines a function or a class."""
    return (thing.__module__ or "").partition(".")[0] == _OWN


def _belongs(value: Any, function: types.FunctionType) -> bool:
    """Whether a function is a helper of another one, from the same module."""
    module = getattr(value, "__module__", None)
    return isinstance(value, types.FunctionType) and module == function.__module__


def _enclosed(function: types.FunctionType) -> Iterator[Any]:
    """Values of the variables of enclosing functions that it reads."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # It is empty: the variable is assigned later.
            yield None


def _globals(function: types.FunctionType) -> Iterator[Any]:
    """Values of the globals that its code names, that of inner functions too."""
    codes = [function.__code__]
    for code in codes:
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
        for name in code.co_names:
            if name in function.__globals__:
                yield function.__globals__[name]
