"""What a call of :func:`wpl_jax.choice` finds out about the pass that it is part of.

The same network is traced to derive its space, runs one child of the space, or runs
with fixed choices. Each of these is a :class:`Pass`, and a call of ``choice`` asks the
current one what to return.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax

from wpl_jax.errors import UserError


class Call(NamedTuple):
    """One call of :func:`wpl_jax.choice`.

    Attributes:
      name: Of the decision.
      branches: Functions of the operands, by name.
      operands: Trees of arrays.
      shared: Whether other calls of the same name are the same decision.
      computed: Whether branches only return what has been computed before.
    """

    name: str
    branches: dict[str, Callable[..., Any]]
    operands: tuple[Any, ...]
    shared: bool = False
    computed: bool = False

    @property
    def nouns(self) -> str:
        """What error messages call the branches."""
        return "inputs" if self.computed else "branches"


class Pass(Protocol):
    """One evaluation of a network with choices."""

    def choose(self, call: Call) -> Any:
        """What a call of :func:`wpl_jax.choice` returns."""


_current: contextvars.ContextVar[Pass | None] = contextvars.ContextVar(
    "wpl_jax_choices", default=None
)
_numbers = itertools.count(1)
# Part of the key of all caches of traced functions. A function inside the network,
# jitted by its author, is traced anew in each pass, as its choices differ.
_number_of_pass = jax.make_user_context(default_value=0)


@contextlib.contextmanager
def running(this: Pass) -> Iterator[None]:
    """Makes a pass the current one."""
    token = _current.set(this)
    try:
        with _number_of_pass(next(_numbers)):
            yield
    finally:
        _current.reset(token)


def current(name: str) -> Pass:
    """The current pass.

    Args:
      name: Of the choice that asks, for the message.

    Raises:
      UserError: If there is none.
    """
    found = _current.get()
    if found is None:
        raise UserError(
            f"The choice {name!r} is made outside of a search space, so nothing says "
            "which branch runs. Make a space of the network (wpl_jax.space, "
            "wpl_jax.space_of), or call it inside wpl_jax.fixed_choices(...)."
        )
    return found
