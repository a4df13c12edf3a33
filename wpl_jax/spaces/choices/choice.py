"""The calls that turn a network into a search space."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from wpl_jax.errors import UserError, shorten
from wpl_jax.spaces.choices.context import Call, current, running

MOST_COMBINATIONS = 1000  # of inputs: each is a choice of one decision


def choice(
    name: str,
    branches: Mapping[str, Callable[..., Any]],
    *operands: Any,
    shared: bool = False,
) -> Any:
    """Runs one of several branches; which one is what a search decides.

    It belongs into a plain JAX function, or into the ``__call__`` of a Flax NNX module,
    of which :func:`wpl_jax.space` or :func:`wpl_jax.space_of` makes a search
    space. A parameter that only branches use is trained only in children that run such
    a branch.

    Args:
      name: Of the decision; the only one of this name in the network. In a loop, use
        names such as ``f"layer_{i}"``.
      branches: Functions of the operands by name: NNX modules, methods, functions. They
        may use parameters and arrays from outside. All return arrays of the same
        shapes and dtypes.
      *operands: Trees of arrays, the arguments of the branches.
      shared: Whether all calls of this name are one decision, such as the same
        operation in each cell of a network. All of them then pass ``shared=True`` and
        branches of the same names.

    Returns:
      What the branch returns. In a mixture (DARTS), the sum of what all branches
      return, multiplied by their weights.

    Raises:
      UserError: If the name or the branches are wrong, when the space is derived.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> def network(params, x):
      ...     y = choice("activation", {"relu": jax.nn.relu, "tanh": jnp.tanh}, x)
      ...     return params["scale"] * y
      >>> with fixed_choices({"activation": "relu"}):
      ...     print(network({"scale": 2.0}, jnp.array([-1.0, 1.0])))
      [0. 2.]
    """
    _check(name, branches, "branches", "functions")
    wrong = [label for label, function in branches.items() if not callable(function)]
    if wrong:
        raise UserError(
            f"The branch {wrong[0]!r} of the choice {name!r} is "
            f"{shorten(branches[wrong[0]])}, expected a function of the operands. For "
            "a choice among arrays use wpl_jax.choice_of_inputs."
        )
    call = Call(name, dict(branches), operands, shared)
    return current(name).choose(call)


def choice_of_inputs(
    name: str,
    inputs: Sequence[Any] | Mapping[str, Any],
    count: int = 1,
    *,
    shared: bool = False,
) -> Any:
    """Takes one of several arrays, or several of them; a search decides which.

    All arrays are computed before one is taken. To save the computation of the others,
    use :func:`choice` with a branch for each.

    Args:
      name: Of the decision, as in :func:`choice`.
      inputs: Arrays of the same shape and dtype, or equal trees of such arrays; by
        name, or else numbered from 0.
      count: How many are taken. With more than one, each set of so many different
        inputs is a choice of the decision, such as ``"0+2"``.
      shared: As in :func:`choice`.

    Returns:
      The array. With a ``count`` above 1, a tuple of so many, in the order of the
      inputs. In a mixture, weighted sums of them.

    Raises:
      UserError: If an argument is wrong, when the space is derived.

    Examples:
      >>> with fixed_choices({"inputs": "0+2"}):
      ...     choice_of_inputs("inputs", [1.0, 2.0, 3.0], count=2)
      (1.0, 3.0)
    """
    if not isinstance(inputs, Mapping):
        inputs = {str(i): x for i, x in enumerate(inputs)}
    _check(name, inputs, "inputs", "arrays")
    if not isinstance(count, int) or not 1 <= count <= len(inputs):
        raise UserError(
            f"The choice {name!r} takes count={count!r} inputs, expected a number "
            f"from 1 to {len(inputs)}, the inputs that there are."
        )
    number = math.comb(len(inputs), count)
    if number > MOST_COMBINATIONS:
        raise UserError(
            f"The choice {name!r} has {number:,} sets of {count} of {len(inputs)} "
            f"inputs, expected at most {MOST_COMBINATIONS:,}. Use several choices of "
            "one input each."
        )

    def taking(chosen: tuple[str, ...]) -> Callable[[], Any]:
        found = tuple(inputs[label] for label in chosen)
        return lambda: found if count > 1 else found[0]

    sets = itertools.combinations(inputs, count)
    branches = {"+".join(chosen): taking(chosen) for chosen in sets}
    return current(name).choose(Call(name, branches, (), shared, computed=True))


@contextlib.contextmanager
def fixed_choices(choices: Mapping[str, str]) -> Iterator[None]:
    """Runs networks with given choices, as if they had been written without any.

    Args:
      choices: For each decision the name of its branch, such as
        ``Found.choices`` of :func:`wpl_jax.run`.
    """
    with running(_Fixed(choices)):
        yield


class _Fixed:
    """A pass with given choices."""

    def __init__(self, choices: Mapping[str, str]):
        self._choices = dict(choices)

    def choose(self, call: Call) -> Any:
        chosen = self._choices.get(call.name)
        if chosen not in call.branches:
            raise UserError(
                f"The choice {call.name!r} is fixed to {chosen!r}, expected one of "
                f"{list(call.branches)}."
            )
        return call.branches[chosen](*call.operands)


def _check(name: Any, given: Any, what: str, of: str) -> None:
    """Checks a name, and that branches or inputs are a mapping by names."""
    if not isinstance(name, str) or not name or not name.isprintable():
        raise UserError(
            f"The name of a choice is {shorten(name)}, expected text such as 'layer_1'."
        )
    by_name = isinstance(given, Mapping) and all(isinstance(k, str) for k in given)
    if not by_name or not given:
        raise UserError(
            f"The {what} of the choice {name!r} are {shorten(given)}, expected at "
            f"least one, {of} by name."
        )
