"""The ENAS controller: an LSTM that proposes architectures.

Pham et al., "Efficient Neural Architecture Search via Parameter Sharing" (ICML
2018). The controller is a distribution over architectures that takes one decision
after the other,

    p(a) = prod_k p(a_k | a_1, ..., a_k-1);

:mod:`wpl_jax.strategies.reinforce` trains it.

All it knows of a space is the number of choices of each decision. Decisions are
padded to the largest number, so that one ``lax.scan`` over them is one compilation
for every architecture. Padded choices have probability 0, entropy 0, gradient 0.

All functions are pure and jittable, on a single architecture; ``vmap`` them over
keys, architectures or parameters. Where ``num_choices`` is an argument of a jitted
function, either it is a static tuple or it goes unchecked. Wherever they appear,

- ``temperature`` divides the logits, ``tanh_constant`` then bounds them:
  ``tanh_constant * tanh(logits / temperature)``, unless it is ``None``;
- ``prior`` of shape ``[num_decisions, max_choices]`` is then added, in nats; where
  it is minus infinity, the choice is forbidden.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.checks import check_range
from wpl_jax.common.settings import LARGEST, SMALLEST

NumChoices = Sequence[int] | np.ndarray | jax.Array


class Params(NamedTuple):
    """Parameters of the controller, padded to the largest number of choices."""

    embedding: jax.Array  # float32[decisions, max_choices, hidden]; last one unused
    input_kernel: jax.Array  # float32[hidden, 4 * hidden]; gates in, forget, cell, out
    hidden_kernel: jax.Array  # float32[hidden, 4 * hidden]
    bias: jax.Array  # float32[4 * hidden]
    decoder_kernel: jax.Array  # float32[decisions, hidden, max_choices]
    decoder_bias: jax.Array  # float32[decisions, max_choices]


class Sample(NamedTuple):
    """An architecture, and how probable the controller finds each of its choices."""

    architecture: jax.Array  # int32[decisions]
    log_prob: jax.Array  # float32[decisions]; of each choice given those before it
    entropy: jax.Array  # float32[decisions]; in nats, of each decision given the same


def init(
    key: jax.Array, num_choices: NumChoices, *, hidden: int = 100, scale: float = 0.1
) -> Params:
    """Draws the parameters of a controller.

    Args:
      key: PRNG key.
      num_choices: Number of choices of each decision.
      hidden: Units of the LSTM, and length of an embedding.
      scale: Parameters are uniform in ``[-scale, scale]``, except for the biases
        of the decoders, which are 0.

    Returns:
      The parameters, float32.

    Raises:
      ValueError: If ``num_choices`` is not a sequence of integers of at least 1,
        ``hidden`` is below 1, or ``scale`` is negative.
    """
    counts = np.asarray(_checked_counts(num_choices))
    if hidden < 1:
        raise ValueError(f"hidden must be at least 1, got {hidden}.")
    check_range("scale", scale, 0, LARGEST, "a number of at least 0")
    decisions, choices = len(counts), int(counts.max())
    shapes = {
        "embedding": (decisions, choices, hidden),
        "input_kernel": (hidden, 4 * hidden),
        "hidden_kernel": (hidden, 4 * hidden),
        "bias": (4 * hidden,),
        "decoder_kernel": (decisions, hidden, choices),
    }
    # One draw for all: it compiles in a third of the time of five.
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    drawn = jax.random.uniform(key, (ends[-1],), jnp.float32, -scale, scale)
    parts = zip(shapes.items(), jnp.split(drawn, ends[:-1]), strict=True)
    return Params(
        **{name: part.reshape(shape) for (name, shape), part in parts},
        decoder_bias=jnp.zeros((decisions, choices), jnp.float32),
    )


def sample(
    params: Params,
    key: jax.Array,
    num_choices: NumChoices,
    *,
    temperature: float = 5.0,
    tanh_constant: float | None = 2.5,
    prior: jax.Array | None = None,
) -> Sample:
    """Draws an architecture.

    Args:
      params: Parameters of the controller.
      key: PRNG key.
      num_choices: Number of choices of each decision.
      temperature: See the module; above 0. The higher, the closer to uniform.
      tanh_constant: See the module; above 0, or ``None``.
      prior: See the module.

    Returns:
      The architecture, its log-probabilities and its entropies.

    Raises:
      ValueError: If an argument is out of its range, or one does not fit the
        parameters. Values that are traced go unchecked.

    Examples:
      >>> import jax
      >>> from wpl_jax import controller
      >>> params = controller.init(jax.random.key(0), [4, 1, 3], hidden=8)
      >>> drawn = controller.sample(params, jax.random.key(1), [4, 1, 3])
      >>> drawn.architecture.shape, int(drawn.architecture[1])
      ((3,), 0)
      >>> print(drawn.entropy.round(1))
      [1.4 0.  1.1]
    """
    return _unroll(
        params,
        num_choices,
        lambda logits, key: jax.random.categorical(key, logits),
        lambda decisions: jax.random.split(key, decisions),
        temperature,
        tanh_constant,
        prior,
    )


def evaluate(
    params: Params,
    architecture: jax.Array,
    num_choices: NumChoices,
    *,
    temperature: float = 5.0,
    tanh_constant: float | None = 2.5,
    prior: jax.Array | None = None,
) -> Sample:
    """Log-probabilities and entropies of a given architecture.

    Args:
      params: As in :func:`sample`.
      architecture: int[num_decisions].
      num_choices: As in :func:`sample`.
      temperature: As in :func:`sample`.
      tanh_constant: As in :func:`sample`.
      prior: As in :func:`sample`.

    Returns:
      The same architecture with its log-probabilities, minus infinity where there
      is no such choice, and entropies. Differentiable in ``params``.

    Raises:
      ValueError: As in :func:`sample`.
    """
    architecture = jnp.asarray(architecture)
    expected = params.decoder_bias.shape[:1]
    if architecture.shape != expected or not jnp.issubdtype(
        architecture.dtype, jnp.integer
    ):
        raise ValueError(
            f"architecture must be integers of shape {expected}, one for each "
            f"decision; got {architecture.dtype} of shape {architecture.shape}."
        )
    return _unroll(
        params,
        num_choices,
        lambda logits, choice: choice,
        lambda decisions: architecture,
        temperature,
        tanh_constant,
        prior,
    )


def _unroll(params, num_choices, choose, hints, temperature, tanh_constant, prior):
    """Goes through the decisions; ``choose(logits, hint)`` takes each of them."""
    available, prior = _checked_policy(
        params, num_choices, temperature, tanh_constant, prior
    )

    def decide(state, decision):
        inputs, hidden, cell = state
        embedding, kernel, bias, available, prior, hint = decision
        hidden, cell = _lstm(params, inputs, hidden, cell)
        logits = (hidden @ kernel + bias) / temperature
        if tanh_constant is not None:
            logits = tanh_constant * jnp.tanh(logits)
        logits = jnp.where(available, logits + prior, -jnp.inf)
        choice = jnp.asarray(choose(logits, hint), jnp.int32)
        log_p = jax.nn.log_softmax(logits)
        # No such choice is minus infinity, not the nearest choice.
        log_prob = log_p.at[choice].get(
            mode="fill", fill_value=-jnp.inf, wrap_negative_indices=False
        )
        # Zeros before the product, since 0 * infinity has no gradient.
        finite = jnp.where(available, log_p, 0)
        entropy = jnp.sum(jnp.exp(finite) * -finite)
        return (embedding[choice], hidden, cell), (choice, log_prob, entropy)

    start = (jnp.zeros_like(params.bias, shape=params.hidden_kernel.shape[:1]),) * 3
    decisions = (
        params.embedding,
        params.decoder_kernel,
        params.decoder_bias,
        available,
        prior,
        hints(len(available)),
    )
    _, path = jax.lax.scan(decide, start, decisions)
    return Sample(*path)


def _lstm(params, inputs, hidden, cell):
    gates = inputs @ params.input_kernel + hidden @ params.hidden_kernel + params.bias
    take, keep, new, show = jnp.split(gates, 4)
    cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(take) * jnp.tanh(new)
    return jax.nn.sigmoid(show) * jnp.tanh(cell), cell


def _checked_policy(params, num_choices, temperature, tanh_constant, prior):
    """Which choices there are, and the prior over them, both [decisions, choices]."""
    check_range("temperature", temperature, SMALLEST, LARGEST, "a number above 0")
    if tanh_constant is not None:
        expected = "a number above 0, or None"
        check_range("tanh_constant", tanh_constant, SMALLEST, LARGEST, expected)
    counts = _checked_counts(num_choices)
    decisions, choices = params.decoder_bias.shape
    if len(counts) != decisions:
        raise ValueError(
            f"num_choices has {len(counts)} decisions, the controller {decisions}: "
            "pass what it was initialized with."
        )
    if not _is_traced(counts) and counts.max() > choices:
        raise ValueError(
            f"num_choices has a decision of {counts.max()} choices, the controller at "
            f"most {choices}: pass what it was initialized with."
        )
    available = jnp.arange(choices) < counts[:, None]
    if prior is None:
        return available, jnp.zeros_like(params.decoder_bias)
    if jnp.shape(prior) != (decisions, choices):
        raise ValueError(
            f"prior must have shape {(decisions, choices)}, that of decisions and "
            f"their choices; got {jnp.shape(prior)}."
        )
    if not _is_traced(prior) and not _is_traced(counts):
        _check_prior(np.asarray(prior), counts)
    prior = jnp.asarray(prior, params.decoder_bias.dtype)
    available &= prior > -jnp.inf
    return available, jnp.where(available, prior, 0)


def _check_prior(prior, counts):
    for decision, count in enumerate(counts):
        row = prior[decision, :count]
        if not (row < np.inf).all() or not (row > -np.inf).any():
            raise ValueError(
                "prior must leave at least one choice of each decision, and hold "
                "numbers or minus infinity; for the choices of decision "
                f"{decision} got {row}."
            )


def _checked_counts(num_choices):
    """The numbers of choices, in numpy unless they are traced."""
    if any(_is_traced(count) for count in jax.tree.leaves(num_choices)):
        return jnp.asarray(num_choices, jnp.int32)
    counts = np.asarray(num_choices)
    valid = counts.ndim == 1 and counts.size and counts.dtype.kind in "iu"
    if not valid or counts.min() < 1:
        raise ValueError(
            "num_choices must hold the number of choices of each decision, at least "
            f"one decision and integers of at least 1; got {num_choices!r}."
        )
    return counts


def _is_traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)
