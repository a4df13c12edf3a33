"""A Fisher of more examples than fit into memory, batch after batch."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.checks import check_differentiable
from wpl_jax.common.trees import zero_importance
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
    calls with the same functions compile nothing, as those of ``jax.jit``. Batches may
    be of numpy or JAX, and may lie on several devices, as those of the estimators.

    Args:
      estimate: ``estimate(params, examples) -> tree``, the mean over the examples of a
        batch, with options ``weights`` and ``key`` if they are given below. For example
        ``functools.partial(wpl_jax.per_example_fisher, loss)``. What it reads besides
        its arguments must stay as it is.
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
      ValueError: If there is no batch, or no example that counts. Where that is not
        known yet, as under ``jax.jit``, the result is NaN.

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
        _Alone(_by_value(estimate)), None, params, batches, weights=weights, key=key
    )


def mean_over_batches(
    estimate: Estimate,
    fixed: Any,
    params: Any,
    batches: Iterable[Any],
    *,
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
      weights: As in :func:`fisher_of_batches`.
      key: As in :func:`fisher_of_batches`.
    """
    check_differentiable(params)
    total, counted, before = None, jnp.int32(0), jnp.int32(0)
    for number, batch in enumerate(batches):
        if total is None:
            total = jax.jit(zero_importance)(params)
            add = _adder(estimate, weights, (fixed, params, batch))
        total, after = add(total, counted, fixed, params, batch, key, number)
        # Dispatch is asynchronous: without a limit, all batches would be in memory.
        jax.block_until_ready(before)
        before, counted = counted, after
    # What is traced has no value yet: without an example the Fisher is then NaN.
    if total is None or not (isinstance(counted, jax.core.Tracer) or int(counted)):
        raise ValueError(
            "There is no example that counts: batches was empty, or all weights are 0. "
            "An iterator can be read once; pass a new one."
        )
    return jax.tree.map(lambda t: t / counted, total)


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


def _adder(estimate: Estimate, weights: Any, arrays: Any) -> Callable[..., Any]:
    """Adds the sum over a batch to a total and its examples to a count, compiled."""
    # In a program that is being traced, functions may have captured what must not
    # outlive it.
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(arrays)):
        return _make_adder(estimate, weights)
    try:
        hash((estimate, weights))
    except TypeError:  # An argument of a partial may be an array.
        return _make_adder(estimate, weights)
    return _kept_adder(estimate, weights)


def _make_adder(estimate: Estimate, weights: Any) -> Callable[..., Any]:
    def add(total, counted, fixed, params, batch, key, number):
        options: dict[str, Any] = {}
        count: Any = count_examples(batch)
        if weights is not None:
            options["weights"] = kept = weights(batch) != 0
            count = jnp.sum(kept)
        if key is not None:
            options["key"] = jax.random.fold_in(key, number)
        found = estimate(fixed, params, batch, **options)
        total = jax.tree.map(lambda t, f: t + count * f, total, found)
        return total, counted + count

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
