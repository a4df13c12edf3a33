"""A Fisher of more examples than fit into memory, batch after batch."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.checks import check_differentiable
from wpl_jax.common.trees import zero_importance
from wpl_jax.curvature.captured import captured
from wpl_jax.curvature.chunks import count_examples

Estimate = Callable[..., Any]


def fisher_of_batches(
    estimate: Estimate,
    params: Any,
    batches: Iterable[Any],
    *,
    weights: Callable[[Any], jax.Array] | None = None,
    key: jax.Array | None = None,
) -> Any:
    """The mean over the examples of all batches of an iterator.

    Holds one batch and two trees like the parameters at a time. Compiles once for each
    shape of a batch: fill up the last one, and give its padding a weight of 0. Further
    calls with the same functions compile nothing. Batches may be of numpy or JAX, and
    may lie on several devices, as those of the estimators.

    Args:
      estimate: ``estimate(params, examples) -> tree``, the mean over the examples of a
        batch, with options ``weights`` and ``key`` if they are given below. For example
        ``functools.partial(wpl_jax.per_example_fisher, loss)``. It is compiled again
        when a global or a variable of an enclosing function that it reads has another
        value. What is changed in place is not noticed.
      params: A pytree of floating-point arrays.
      batches: Any iterable of examples, pytrees of arrays with a leading axis.
      weights: ``weights(batch) -> [n]``, 1 for each example of a batch that counts and
        0 for padding. None if there is no padding.
      key: PRNG key of estimators that draw; each batch gets another one.

    Returns:
      A tree like ``params``, at least float32: what ``estimate`` gives for all examples
      together, if it is a mean over examples. Of :func:`wpl_jax.batch_fisher` it is the
      mean over batches by their number of examples.

    Raises:
      ValueError: If there is no batch, no example that counts, or a weight other than
        0 and 1. Where that is not known yet, as under ``jax.jit``, the result without
        an example is NaN.

    Examples:
      >>> import functools, jax.numpy as jnp, wpl_jax
      >>> loss = lambda w, x: w * x
      >>> batches = [jnp.array([1.0, 2.0]), jnp.array([3.0, 0.0])]
      >>> estimate = functools.partial(wpl_jax.per_example_fisher, loss)
      >>> weights = lambda batch: batch != 0  # The last number is padding.
      >>> fisher = wpl_jax.fisher_of_batches(
      ...     estimate, jnp.array(1.0), batches, weights=weights)
      >>> print(fisher.round(4))  # (1 + 4 + 9) / 3
      4.6667
    """
    return mean_over_batches(
        *(_Alone(_by_value(estimate)), None, params, batches),
        functions=(estimate,),
        weights=weights,
        key=key,
    )


def mean_over_batches(
    estimate: Estimate,
    fixed: Any,
    params: Any,
    batches: Iterable[Any],
    *,
    functions: tuple[Any, ...],
    weights: Callable[[Any], jax.Array] | None = None,
    key: jax.Array | None = None,
) -> Any:
    """:func:`fisher_of_batches`, of an estimate that reads further arrays.

    Args:
      estimate: ``estimate(fixed, params, examples) -> tree``. Equal ones share a
        compiled function.
      fixed: A pytree of arrays.
      params: As in :func:`fisher_of_batches`.
      batches: As in :func:`fisher_of_batches`.
      functions: Those of the caller that the estimate calls. It is compiled again where
        they read other values than before (:mod:`wpl_jax.curvature.captured`).
      weights: As in :func:`fisher_of_batches`.
      key: As in :func:`fisher_of_batches`.
    """
    check_differentiable(params)
    if weights is not None and not callable(weights):
        raise ValueError(
            "weights must be a function of a batch that returns 1 for each example "
            f"that counts and 0 for padding, got a {type(weights).__name__}."
        )
    total, tally, before = None, _Tally(jnp.int32(0), jnp.int32(0)), None
    for number, batch in enumerate(batches):
        if total is None:
            total = jax.jit(zero_importance)(params)
            add = _adder(estimate, functions, weights, (fixed, params, batch))
        total, after = add(total, tally, fixed, params, batch, key, number)
        # Dispatch is asynchronous: without a limit, all batches would be in memory.
        jax.block_until_ready(before)
        before, tally = tally, after
    # What is traced has no value yet: without an example the Fisher is then NaN.
    is_known = not isinstance(tally.examples, jax.core.Tracer)
    if total is None or (is_known and not int(tally.examples)):
        raise ValueError(
            "There is no example that counts: batches was empty, or all weights are 0. "
            "An iterator can be read once; pass a new one."
        )
    if is_known and int(tally.wrong):
        raise ValueError(
            "weights must return 1 for each example that counts and 0 for padding, and "
            f"has returned {int(tally.wrong)} other numbers."
        )
    return jax.tree.map(lambda t: t / tally.examples, total)


class _Tally(NamedTuple):
    """Counts of examples so far, and of weights that are neither 0 nor 1."""

    examples: jax.Array
    wrong: jax.Array


@dataclasses.dataclass(frozen=True)
class _Alone:
    """An estimate that reads no further arrays."""

    estimate: Estimate

    def __call__(self, fixed: Any, params: Any, examples: Any, **options: Any) -> Any:
        del fixed
        return self.estimate(params, examples, **options)


@dataclasses.dataclass(frozen=True)
class _Bound:
    """A ``functools.partial`` that is equal to another one of the same arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]

    def __call__(self, *rest: Any, **options: Any) -> Any:
        return self.function(*self.arguments, *rest, **(dict(self.keywords) | options))


def _by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(function, functools.partial):
        return function
    keywords = tuple(sorted(function.keywords.items()))
    return _Bound(function.func, function.args, keywords)


def _adder(
    estimate: Estimate, functions: tuple[Any, ...], weights: Any, arrays: Any
) -> Callable[..., Any]:
    """Adds the sum over a batch to a total and its examples to a count, compiled."""
    # In a program that is being traced, functions may have captured what must not
    # outlive it.
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(arrays)):
        return _make_adder(estimate, weights)
    read = captured(*functions, weights)
    try:
        hash((estimate, weights, read))
    except TypeError:  # An argument of a partial may be an array.
        return _make_adder(estimate, weights)
    return _kept_adder(estimate, weights, read)


def _make_adder(estimate: Estimate, weights: Any, read: Any = ()) -> Callable[..., Any]:
    """As :func:`_adder`; ``read`` is what tells one of the kept ones from another."""
    del read

    def add(total, tally, fixed, params, batch, key, number):
        options: dict[str, Any] = {}
        count: Any = count_examples(batch)
        wrong: Any = 0
        if weights is not None:
            found = weights(batch)
            options["weights"] = kept = found != 0
            count, wrong = jnp.sum(kept), jnp.sum(kept & (found != 1))
        if key is not None:
            options["key"] = jax.random.fold_in(key, number)
        found = estimate(fixed, params, batch, **options)
        total = jax.tree.map(lambda t, f: t + count * f, total, found)
        return total, _Tally(tally.examples + count, tally.wrong + wrong)

    return jax.jit(add, donate_argnums=0)


# Few: each keeps alive what its functions have captured.
_kept_adder = functools.lru_cache(maxsize=4)(_make_adder)


def trained_only(
    function: Callable[[Any, Any], Any], params: Any, trained: Any
) -> tuple[Callable[[Any, Any], Any], Any]:
    """Restricts a loss, or another function of a model, to what is trained.

    Frozen parameters, such as those below LoRA, then have no Fisher and cost none. The
    estimators take both results in place of the function and the parameters. With Flax
    NNX the same is ``nnx.split(model, nnx.LoRAParam, ...)``.

    Args:
      function: ``function(params, example)``.
      params: All parameters.
      trained: A tree like the parameters, or a prefix of it, of True for what is
        trained, or a function of the parameters that returns one, as of
        ``optax.masked``.

    Returns:
      The function of what is trained and an example, and what is trained: a tree like
      the parameters with ``optax.MaskedNode()`` in place of what is frozen. A Fisher of
      it fits the state of ``optax.masked(weight_plasticity(...), trained)``.

    Raises:
      ValueError: If nothing is trained.

    Examples:
      >>> import jax.numpy as jnp, wpl_jax
      >>> params = {"frozen": jnp.ones(2), "lora": jnp.ones(2)}
      >>> loss = lambda p, x: jnp.sum((p["frozen"] + p["lora"]) * x)
      >>> mask = {"frozen": False, "lora": True}
      >>> of_trained, lora = wpl_jax.trained_only(loss, params, mask)
      >>> fisher = wpl_jax.per_example_fisher(of_trained, lora, jnp.ones((3, 2)))
      >>> print(fisher["lora"], fisher["frozen"])
      [1. 1.] MaskedNode()
    """
    mask = trained(params) if callable(trained) else trained
    if not any(jax.tree.leaves(mask)):
        raise ValueError("trained has no True: none of the parameters is trained.")
    part = jax.tree.map(
        lambda keep, sub: sub if keep else optax.MaskedNode(), mask, params
    )

    def of_trained(part, example):
        whole = jax.tree.map(
            lambda keep, own, frozen: own if keep else frozen, mask, part, params
        )
        return function(whole, example)

    return of_trained, part
