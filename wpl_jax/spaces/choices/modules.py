"""Branches that hold Flax NNX modules: their state as arguments and results.

JAX traces a branch as a function of its own. NNX refuses to change the state of a
module, such as batch statistics or the counter of a key, inside of such a function. So
a branch runs on copies of its modules (``nnx.split`` and ``nnx.merge``), and returns
the state that it has changed. Parameters are only read, and need no copy.
"""

import functools
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import jax


class Modules:
    """The modules of the branches of one choice that have state beside parameters.

    Attributes:
      state: Their arrays that are no parameters.
    """

    def __init__(self, functions: Iterable[Callable[..., Any]]):
        self.state: list[jax.Array] = []
        self._nodes: list[Any] = []
        nnx: Any = sys.modules.get("flax.nnx")
        if nnx is None:  # No branch has a module.
            return
        self._nnx, found = nnx, {}

        def note(node: Any) -> Any:
            found[id(node)] = node
            return node

        for function in functions:
            _with_nodes(function, nnx.Pytree, note, set())
        nodes = list(found.values())
        if not nodes:
            return
        self._graph, self._params, rest = nnx.split(nodes, nnx.Param, ...)
        leaves, self._tree = jax.tree_util.tree_flatten_with_path(rest)
        if leaves:
            self._nodes = nodes
            self._paths, self.state = map(list, zip(*leaves, strict=True))

    def run(
        self, function: Callable[..., Any], state: list[jax.Array], *operands: Any
    ) -> tuple[Any, dict[int, jax.Array]]:
        """Runs a branch on copies of the modules.

        Args:
          function: The branch.
          state: The state before it, like :attr:`state`.
          *operands: Its arguments.

        Returns:
          What it returns, and the entries of the state that it changed, by number.
        """
        if not self._nodes:
            return function(*operands), {}
        nnx = self._nnx
        rest = jax.tree.unflatten(self._tree, state)
        copies = nnx.merge(self._graph, self._params, rest, copy=True)
        of_path = dict(nnx.iter_graph(copies))
        copy_of = {
            id(node): of_path[path]
            for path, node in nnx.iter_graph(self._nodes)
            if isinstance(node, nnx.Pytree)
        }
        function = _with_nodes(
            function, nnx.Pytree, lambda node: copy_of[id(node)], set()
        )
        found = function(*operands)
        _, _, rest = nnx.split(copies, nnx.Param, ...)
        after = dict(jax.tree_util.tree_flatten_with_path(rest)[0])
        changed = {
            number: after[path]
            for number, (path, before) in enumerate(
                zip(self._paths, state, strict=True)
            )
            if after[path] is not before
        }
        return found, changed

    def update(self, changed: dict[int, jax.Array]) -> None:
        """Puts new entries of the state into the modules."""
        if changed:
            state = [changed.get(i, x) for i, x in enumerate(self.state)]
            rest = jax.tree.unflatten(self._tree, state)
            self._nnx.update(self._nodes, rest)


def _with_nodes(
    value: Any, kind: type, change: Callable[[Any], Any], seen: set[int]
) -> Any:
    """A function with all modules that it reaches replaced by ``change``.

    Args:
      value: The function, or what it reaches: the object of a method, arguments of a
        partial, defaults, variables from outside, and containers in these.
      kind: Class of the modules.
      change: Called with each module.
      seen: Functions on the way to this value, for those that call themselves.
    """
    again = functools.partial(_with_nodes, kind=kind, change=change, seen=seen)
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, types.MethodType):
        return types.MethodType(again(value.__func__), again(value.__self__))
    if isinstance(value, functools.partial):
        keywords = {name: again(x) for name, x in value.keywords.items()}
        return functools.partial(again(value.func), *map(again, value.args), **keywords)
    if isinstance(value, dict):
        return {name: again(x) for name, x in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(again, value))
    if not isinstance(value, types.FunctionType) or id(value) in seen:
        return value
    if not value.__closure__ and not value.__defaults__ and not value.__kwdefaults__:
        return value
    seen.add(id(value))
    cells = tuple(_with_content(cell, again) for cell in value.__closure__ or ())
    found = types.FunctionType(
        value.__code__,
        value.__globals__,
        value.__name__,
        again(value.__defaults__),
        cells or None,
    )
    found.__kwdefaults__ = again(value.__kwdefaults__)
    seen.discard(id(value))
    return found


def _with_content(cell: Any, again: Callable[[Any], Any]) -> Any:
    """A cell of a closure with its content replaced; the cell if there is none."""
    try:
        return types.CellType(again(cell.cell_contents))
    except ValueError:  # Not assigned yet.
        return cell
