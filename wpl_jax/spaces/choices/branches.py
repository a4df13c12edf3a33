"""The branches of one choice, traced: compared, chosen from, or mixed."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from wpl_jax.errors import UserError, shorten
from wpl_jax.spaces.branches import switch
from wpl_jax.spaces.choices.context import Call
from wpl_jax.spaces.choices.modules import Modules

# Recomputing what a product or a convolution returns would cost a third of a child.
_KEPT = jax.checkpoint_policies.dots_saveable

_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


class Branches(NamedTuple):
    """What a choice chooses from.

    Attributes:
      call: The call of ``choice``.
      modules: Modules of all branches that have state.
      traced: Each branch as a function of the state and the operands. Its ``consts``
        are the arrays from outside that it uses.
      forms: Shapes of what a branch returns, and of the state that it changes.
    """

    call: Call
    modules: Modules
    traced: list[core.ClosedJaxpr]
    forms: list[tuple[Any, dict[int, Any]]]

    @property
    def form(self) -> Any:
        """Shapes of what each of the branches returns."""
        return self.forms[0][0]


def trace(
    call: Call,
    entering: Callable[[str], Any] = lambda _: contextlib.nullcontext(),
) -> Branches:
    """Traces all branches of a choice, without running one.

    Args:
      call: The call of ``choice``.
      entering: A context in which a branch is traced, by its name.

    Raises:
      UserError: If they return different shapes or dtypes.
    """
    _check_operands(call)
    modules, traced, forms = Modules(call.branches.values()), [], []
    for label, function in call.branches.items():

        def run(state, *operands, function=function):
            return modules.run(function, state, *operands)

        with entering(label):
            jaxpr, form = jax.make_jaxpr(run, return_shape=True)(
                modules.state, *call.operands
            )
        traced.append(jaxpr)
        forms.append(form)
    found = Branches(call, modules, traced, forms)
    _check_alike(found)
    return found


def choose(branches: Branches, index: jax.Array) -> Any:
    """Runs one branch; the others cost nothing.

    Args:
      branches: Of the choice.
      index: Number of the branch, ``int32[]``.
    """
    if branches.call.computed:
        return _select(branches, index)
    state = branches.modules.state
    changed_by_any = sorted({i for _, changed in branches.forms for i in changed})

    def of(number):
        def run(*arguments):
            found, changed = _evaluate(branches, number, arguments)
            return found, {i: changed.get(i, state[i]) for i in changed_by_any}

        return run

    each = [of(number) for number in range(len(branches.traced))]
    arguments = _arguments(branches)
    found, changed = switch(index, each, *arguments, keep=_KEPT)
    branches.modules.update(changed)
    return found


def gated(found: Any, gates: jax.Array, index: jax.Array) -> Any:
    """What a chosen branch returned, with a gradient for the gates of all.

    Gates of other choices have the gradient that they would have if their branches
    returned ones (the code of Dong and Yang, 2019).

    Args:
      found: What the branch returned.
      gates: 1 for what is chosen and 0 for the rest, ``float32[choices]``.
      index: Number of the branch, ``int32[]``.
    """
    own = gates[index]
    others = jnp.sum(gates) - own

    def apply(y):
        return own.astype(y.dtype) * y + others.astype(y.dtype)

    return jax.tree.map(apply, found)


def mix(branches: Branches, weights: jax.Array) -> Any:
    """The weighted sum of what all branches return.

    Args:
      branches: Of the choice.
      weights: ``float32[choices]``.

    Raises:
      UserError: If they do not return floating-point numbers.
    """
    check_floats(branches)
    if branches.call.computed:
        return _mix_computed(branches, weights)
    total: Any = None
    changed: dict[int, Any] = {}
    for number in range(len(branches.traced)):
        found, own = _evaluate(branches, number, _arguments(branches))
        changed |= own  # State that several branches change is that of the last.
        term = jax.tree.map(lambda y, w=weights[number]: w.astype(y.dtype) * y, found)
        total = term if total is None else jax.tree.map(jnp.add, total, term)
    branches.modules.update(changed)
    return total


def check_floats(branches: Branches) -> None:
    """Checks that branches return floating-point numbers, which weights multiply."""
    for leaf in jax.tree.leaves(branches.form):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise UserError(
                f"The choice {branches.call.name!r} returns {describe(branches.form)}, "
                "and a mixture needs floating-point numbers. Use a strategy that "
                "chooses, such as random or enas."
            )


def describe(form: Any) -> str:
    """Shapes and dtypes in words."""
    leaves, tree = jax.tree.flatten(form)
    if not leaves:
        return "no array"
    each = [f"{x.dtype}[{','.join(map(str, x.shape))}]" for x in leaves]
    return str(jax.tree.unflatten(tree, each)).replace("'", "")


def _select(branches: Branches, index: jax.Array) -> Any:
    """The arrays of one branch, of those that are computed already.

    A conditional would copy them, and write zeros as the gradients of the others.
    """

    def select(arrays, positions):
        return jax.lax.select_n(jnp.asarray(positions)[index], *arrays)

    return _of_each_leaf(branches, select)


def _mix_computed(branches: Branches, weights: jax.Array) -> Any:
    """The weighted sum, with one term for each array."""

    def add(arrays, positions):
        sums = jnp.zeros(len(arrays)).at[np.asarray(positions)].add(weights)
        return sum(w.astype(x.dtype) * x for w, x in zip(sums, arrays, strict=True))

    return _of_each_leaf(branches, add)


def _of_each_leaf(branches: Branches, function: Callable[..., Any]) -> Any:
    """Applies a function to the arrays that branches return at the same place.

    It takes different arrays, and for each branch the position of its own among them.
    """
    each = [
        jax.tree.leaves(_evaluate(branches, number, _arguments(branches))[0])
        for number in range(len(branches.traced))
    ]
    found = []
    for arrays in zip(*each, strict=True):
        different = list({id(x): x for x in arrays}.values())
        place_of = {id(x): i for i, x in enumerate(different)}
        found.append(function(different, [place_of[id(x)] for x in arrays]))
    return jax.tree.unflatten(jax.tree.structure(branches.form), found)


def _arguments(branches: Branches) -> list[Any]:
    """The state and the operands, as branches take them."""
    return jax.tree.leaves((branches.modules.state, branches.call.operands))


def _evaluate(
    branches: Branches, number: int, arguments: Any
) -> tuple[Any, dict[int, Any]]:
    """What one branch returns, and the state that it changes."""
    leaves = core.jaxpr_as_fun(branches.traced[number])(*arguments)
    return jax.tree.unflatten(jax.tree.structure(branches.forms[number]), leaves)


def _check_operands(call: Call) -> None:
    for place, leaf in enumerate(jax.tree.leaves(call.operands)):
        if not isinstance(leaf, _ARRAYS):
            raise UserError(
                f"Operand {place} of the choice {call.name!r} is {shorten(leaf)}, "
                "expected an array. Let the branches close over what is no array."
            )


def _check_alike(branches: Branches) -> None:
    """Checks that all branches return the same shapes and dtypes."""
    call, forms = branches.call, [form for form, _ in branches.forms]
    trees = [jax.tree.structure(form) for form in forms]
    leaves = [[(x.shape, x.dtype) for x in jax.tree.leaves(form)] for form in forms]
    if jax.tree.leaves(forms[0]) and all(
        pair == (trees[0], leaves[0]) for pair in zip(trees, leaves, strict=True)
    ):
        return
    # Equal ones together, as most differ in one branch.
    by_form: dict[str, list[str]] = {}
    for label, form in zip(call.branches, forms, strict=True):
        by_form.setdefault(describe(form), []).append(repr(label))
    differ = "; ".join(f"{', '.join(v)}: {form}" for form, v in by_form.items())
    raise UserError(
        f"The {call.nouns} of the choice {call.name!r} are not alike: {differ}. All "
        "have to be arrays of the same shapes and dtypes."
    )
