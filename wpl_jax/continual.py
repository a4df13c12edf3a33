"""Continual learning in a few lines: an optimizer, and remembering a task.

:func:`with_plasticity` builds an optimizer under the penalty, and :func:`remember`
estimates a Fisher and consolidates it. They are made of :mod:`wpl_jax.penalty` and
:mod:`wpl_jax.fisher`, which do the same in steps. :mod:`wpl_jax.calibration` chooses
alpha.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax import fisher as fisher_lib
from wpl_jax import penalty as penalty_lib
from wpl_jax.common.checks import check_range
from wpl_jax.common.settings import LARGEST
from wpl_jax.curvature.batches import mean_over_batches
from wpl_jax.curvature.plasticity_state import has_plasticity


def with_plasticity(
    optimizer: Callable[..., optax.GradientTransformation],
    *,
    alpha: optax.ScalarOrSchedule,
    learning_rate: optax.ScalarOrSchedule,
    step: Literal["proximal", "explicit"] = "proximal",
    anchor_dtype: penalty_lib.AnchorDtype = None,
    fisher_dtype: penalty_lib.FisherDtype = None,
    **settings: Any,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer under the penalty; alpha and learning rate are given once.

    Both are part of the state, as hyperparameters of ``optax.inject_hyperparams``. So
    :func:`set_alpha` changes alpha without another transform or compilation, and alpha
    may be mapped over (``jax.vmap``).

    Args:
      optimizer: Makes an optimizer from ``learning_rate=`` and ``settings``, such as
        ``optax.sgd`` or ``optax.adamw``.
      alpha: Strength of the penalty, a number of at least 0 or a schedule.
      learning_rate: Of the optimizer, and of the proximal step: a number or a schedule.
      step: ``"proximal"`` for :func:`wpl_jax.proximal_weight_plasticity` after the
        optimizer, ``"explicit"`` for :func:`wpl_jax.weight_plasticity` before it.
      anchor_dtype: As in :func:`wpl_jax.weight_plasticity`.
      fisher_dtype: As in :func:`wpl_jax.weight_plasticity`.
      **settings: Of the optimizer.

    Returns:
      A transformation for ``tx.update(gradients, state, params, mask=mask)``.

    Raises:
      ValueError: If an argument is none of these.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, wpl_jax
      >>> tx = wpl_jax.with_plasticity(
      ...     optax.sgd, alpha=10.0, learning_rate=0.1, momentum=0.9)
      >>> params = {"w": jnp.ones(2)}
      >>> state = tx.init(params)
      >>> state = wpl_jax.set_alpha(state, 3.0)
      >>> print(state.hyperparams["alpha"])
      3.0
    """
    if not callable(optimizer):
        raise ValueError(
            "optimizer must be a function of learning_rate= that makes an optimizer, "
            f"such as optax.sgd without arguments, got {optimizer!r}."
        )
    stored: dict[str, Any] = {
        "anchor_dtype": anchor_dtype,
        "fisher_dtype": fisher_dtype,
    }
    if step not in ("proximal", "explicit"):
        raise ValueError(f"step must be 'proximal' or 'explicit', got {step!r}.")
    # A wrong number is an error here, and not where `init` is called.
    penalty_lib.proximal_weight_plasticity(alpha, learning_rate, **stored)

    def make(alpha, learning_rate):
        inner = optimizer(learning_rate=learning_rate, **settings)
        if step == "explicit":
            return optax.chain(penalty_lib.weight_plasticity(alpha, **stored), inner)
        proximal = penalty_lib.proximal_weight_plasticity(
            alpha, learning_rate, **stored
        )
        return optax.chain(inner, proximal)

    # An integer would stay one, and cut off what is set later.
    alpha, learning_rate = (
        x if callable(x) else jnp.asarray(x, jnp.float32)
        for x in (alpha, learning_rate)
    )
    injected = optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)
    return injected(alpha=alpha, learning_rate=learning_rate)


def set_alpha(opt_state: Any, alpha: float | jax.Array) -> Any:
    """Another strength of the penalty, in the state of :func:`with_plasticity`.

    Compiles nothing, and may be used under ``jax.jit`` and ``jax.vmap``.

    Args:
      opt_state: The optimizer state, nested in any way; of Flax NNX
        ``optimizer.opt_state``.
      alpha: A number of at least 0, or an array with the shape of what it replaces.

    Returns:
      The state with the new alpha. Of Flax NNX it is the same state, in which alpha has
      been changed in place: it stays a variable, as checkpoints need it.

    Raises:
      ValueError: If alpha is a number below 0 or not finite, the state is not one of
        :func:`with_plasticity`, or a schedule sets its alpha.

    Examples:
      >>> import jax.numpy as jnp, optax, wpl_jax
      >>> tx = wpl_jax.with_plasticity(optax.sgd, alpha=0.0, learning_rate=0.1)
      >>> state = wpl_jax.set_alpha(tx.init({"w": jnp.ones(2)}), 3.0)
      >>> print(state.hyperparams["alpha"])
      3.0
    """
    if not isinstance(alpha, jax.core.Tracer) and not np.ndim(alpha):
        known = float(alpha) if isinstance(alpha, jax.Array | np.ndarray) else alpha
        check_range("alpha", known, 0, LARGEST, "a number of at least 0")
    changed = 0

    def change(node: Any) -> Any:
        nonlocal changed
        if not _has_alpha(node):
            return node
        if "alpha" in getattr(node, "hyperparams_states", {}):
            raise ValueError(
                "The alpha of this state follows a schedule, which would set it again "
                "at the next update. Make the optimizer with a number as its alpha."
            )
        changed += 1
        old = node.hyperparams["alpha"]
        new = jnp.asarray(alpha, jnp.float32)
        if hasattr(old, "set_value"):  # A variable of Flax NNX.
            old.set_value(new)
            return node
        return node._replace(hyperparams={**node.hyperparams, "alpha": new})

    found = jax.tree.map(change, opt_state, is_leaf=_has_alpha)
    if not changed:
        raise ValueError(
            "This optimizer state has no alpha that can be set (it is a "
            f"{type(opt_state).__name__}). Make the optimizer with "
            "wpl_jax.with_plasticity(...), and pass the state that its init returned."
        )
    return found


def _has_alpha(node: Any) -> bool:
    """Whether it is the state of :func:`with_plasticity`, with hyperparameters."""
    names = getattr(node, "hyperparams", ())
    return "alpha" in names and has_plasticity(getattr(node, "inner_state", None))


def remember(
    state: Any,
    loss: Callable[[Any, Any], jax.Array],
    data: Any,
    *,
    estimator: Callable[..., Any] = fisher_lib.per_example_fisher,
    normalize: Literal["unit", "loss"] | None = "unit",
    rule: penalty_lib.Rule = penalty_lib.replace,
    weights: Callable[[Any], jax.Array] | None = None,
    key: jax.Array | None = None,
    **settings: Any,
) -> Any:
    """Remembers what has been trained: estimates its Fisher and moves the anchor to it.

    Call it after a task and before the next one. The penalty protects from then on.
    A second call with the same functions, settings and shapes compiles nothing: define
    ``loss`` once, and not anew before each call. It is compiled again when a global or
    a variable of an enclosing function that it reads has another value, such as the
    batch statistics of a model of Linen. What is changed in place is not noticed.

    Args:
      state: One of

        - a ``TrainState`` of Flax Linen, or another object with ``params``,
          ``opt_state`` and ``replace``;
        - a pair ``(model, optimizer)`` of Flax NNX, ``nnx.Optimizer``;
        - a pair ``(params, opt_state)``.

      loss: ``loss(params, example)`` of one example, as the estimator takes it: of
        :func:`wpl_jax.exact_fisher` the logits. With NNX ``loss(model, example)``; the
        model that it gets is in evaluation mode. With Linen the loss itself has to
        apply the model in evaluation mode.
      data: Examples, a pytree of arrays with a leading axis; or an iterator of such
        batches, of one size if possible. A list of arrays is a pytree: pass
        ``iter(batches)`` if it is one of batches.
      estimator: ``estimator(loss, params, examples, **settings)``, of
        :mod:`wpl_jax.fisher`.
      normalize: Scale of the Fisher, see :func:`wpl_jax.normalize`; None for the raw
        one.
      rule: How it meets what earlier tasks left, see :func:`wpl_jax.consolidate`.
      weights: ``weights(batch) -> [n]`` of 0 and 1, for padding.
      key: PRNG key of estimators that draw.
      **settings: Of the estimator.

    Returns:
      What ``state`` was, with the new optimizer state. Of NNX it is the same pair,
      whose optimizer has been changed in place.

    Raises:
      ValueError: If the state is none of these or holds no penalty, or the data have
        no examples.

    Warns:
      UserWarning: If the Fisher is 0 everywhere, so that nothing is protected.

    Examples:
      >>> import jax.numpy as jnp, optax, wpl_jax
      >>> tx = wpl_jax.with_plasticity(optax.sgd, alpha=10.0, learning_rate=0.1)
      >>> params = {"w": jnp.ones(2)}
      >>> loss = lambda params, x: jnp.sum(params["w"] * x) ** 2
      >>> state = params, tx.init(params)
      >>> params, opt_state = wpl_jax.remember(state, loss, jnp.ones((4, 2)))
      >>> print(wpl_jax.plasticity_states(opt_state)[0].fisher["w"])
      [1. 1.]
    """
    if not callable(estimator):
        raise ValueError(
            "estimator must be a function such as wpl_jax.exact_fisher, got "
            f"{estimator!r}."
        )
    if normalize not in ("unit", "loss", None):
        raise ValueError(
            f"normalize must be 'unit', 'loss' or None, got {normalize!r}."
        )
    opened = _open(state, loss)
    estimate = _Estimate(estimator, opened.loss, tuple(sorted(settings.items())))
    params = opened.params
    try:
        fisher = mean_over_batches(
            *(estimate, opened.fixed, params, _batches(data)),
            functions=(loss, estimator, *settings.values()),
            weights=weights,
            key=key,
        )
    except Exception as error:
        if isinstance(data, list | tuple):
            error.add_note(
                "remember took data, which is a list or a tuple, as one tree of "
                "arrays. If it is a list of batches, pass iter(data)."
            )
        raise
    _warn_of_zeros(fisher)
    if normalize is not None:
        fisher = fisher_lib.normalize(fisher, scale=normalize)
    return opened.put(
        penalty_lib.consolidate(opened.opt_state, params, fisher, rule=rule)
    )


def _warn_of_zeros(fisher: Any) -> None:
    """Warns of a Fisher that protects nothing, where its entries are known."""
    leaves = jax.tree.leaves(fisher)
    if any(isinstance(x, jax.core.Tracer) for x in leaves):
        return
    if not any(bool(jnp.any(x)) for x in leaves):
        warnings.warn(
            "The Fisher is 0 everywhere, so nothing is protected at any alpha. The "
            "loss may not depend on its parameters, or the model may be certain of "
            "every example (docs/ewc_mistakes.md).",
            UserWarning,
            stacklevel=3,
        )


@dataclasses.dataclass(frozen=True)
class _Estimate:
    """An estimator with its settings; equal ones share a compiled function."""

    estimator: Callable[..., Any]
    loss: Callable[[Any, Any, Any], jax.Array]
    settings: tuple[tuple[str, Any], ...]

    def __call__(self, fixed: Any, params: Any, examples: Any, **drawn: Any) -> Any:
        def loss(params, example):
            return self.loss(fixed, params, example)

        return self.estimator(loss, params, examples, **drawn, **dict(self.settings))


class _Opened(NamedTuple):
    """The parts of a state."""

    params: Any
    fixed: Any  # arrays that the loss reads besides the parameters
    opt_state: Any
    loss: Callable[[Any, Any, Any], jax.Array]  # of fixed, params and an example
    put: Callable[[Any], Any]  # puts an optimizer state into its place


@dataclasses.dataclass(frozen=True)
class _LossOfParams:
    loss: Callable[[Any, Any], jax.Array]

    def __call__(self, fixed: Any, params: Any, example: Any) -> jax.Array:
        del fixed
        return self.loss(params, example)


@dataclasses.dataclass(frozen=True)
class _LossOfModel:
    """The loss of a model of Flax NNX in evaluation mode."""

    loss: Callable[[Any, Any], jax.Array]
    graph: Any

    def __call__(self, fixed: Any, params: Any, example: Any) -> jax.Array:
        from flax import nnx

        model = nnx.merge(self.graph, params, fixed, copy=True)
        model.eval()
        return self.loss(model, example)


def _open(state: Any, loss: Callable[[Any, Any], jax.Array]) -> _Opened:
    of_params = _LossOfParams(loss)
    if all(hasattr(state, name) for name in ("params", "opt_state", "replace")):
        return _Opened(
            state.params,
            None,
            state.opt_state,
            of_params,
            lambda opt_state: state.replace(opt_state=opt_state),
        )
    pair = tuple(state) if isinstance(state, tuple | list) else ()
    if len(pair) != 2:
        raise ValueError(
            "state must be a TrainState, a pair (model, optimizer) of Flax NNX, or a "
            f"pair (params, opt_state), got a {type(state).__name__}."
        )
    first, second = pair[0], pair[1]
    if hasattr(second, "opt_state") and hasattr(second, "wrt"):
        return _open_nnx(first, second, loss)
    return _Opened(first, None, second, of_params, lambda opt_state: (first, opt_state))


def _open_nnx(
    model: Any, optimizer: Any, loss: Callable[[Any, Any], jax.Array]
) -> _Opened:
    from flax import nnx  # Importing it takes a second.

    parts: Any = nnx.split(model, optimizer.wrt, ...)
    graph, params, rest = parts

    def put(opt_state):
        optimizer.opt_state = opt_state
        return model, optimizer

    return _Opened(params, rest, optimizer.opt_state, _LossOfModel(loss, graph), put)


def _batches(data: Any) -> Iterable[Any]:
    """Batches; arrays are one batch of all examples."""
    is_tree = isinstance(data, Mapping | list | tuple)
    is_stream = isinstance(data, Iterable) and not isinstance(data, str)
    if is_stream and not is_tree and not hasattr(data, "shape"):
        return data
    leaves = jax.tree.leaves(data)
    if leaves and all(hasattr(x, "shape") for x in leaves):
        return [data]
    raise ValueError(
        "data must be a pytree of arrays with a leading axis of examples, or an "
        f"iterable of such batches, got a {type(data).__name__}."
    )
