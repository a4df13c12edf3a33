"""The ENAS controller: an LSTM that proposes architectures and learns by REINFORCE.

Pham et al., "Efficient Neural Architecture Search via Parameter Sharing" (ICML
2018). The controller is a distribution over architectures that takes one decision
after the other,

    p(a) = prod_k p(a_k | a_1, ..., a_k-1),

and is moved uphill on the expected reward by the gradient of Williams (1992),

    grad E[R] = E[sum_k (R - b_k) grad log p(a_k | a_1, ..., a_k-1)],

for any baseline ``b_k`` that does not depend on the choices from ``k`` on.

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
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax.checks import LARGEST, SMALLEST, check_range

NumChoices = Sequence[int] | np.ndarray | jax.Array
EntropyMode = Literal["reward", "regularizer"]
# Of PRNG keys [n], architectures int32[n, decisions] and the number of the step:
# float[n].
RewardsFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


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


class Baseline(NamedTuple):
    """Exponential moving average of the rewards."""

    mean: jax.Array  # float32[], or float32[decisions]
    started: jax.Array  # bool[]; whether it has seen a reward


class Metrics(NamedTuple):
    """What :func:`train` saw."""

    reward: jax.Array  # float32[steps]; mean over the samples of a step
    entropy: jax.Array  # float32[steps]; the same, of the entropy of an architecture
    best_reward: jax.Array  # float32[]; without the entropy
    best_architecture: jax.Array  # int32[decisions]; the first with that reward


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


def greedy(
    params: Params,
    num_choices: NumChoices,
    *,
    temperature: float = 5.0,
    tanh_constant: float | None = 2.5,
    prior: jax.Array | None = None,
) -> Sample:
    """Takes the most probable choice at each decision, the first of equals.

    This need not be the most probable architecture.

    Args:
      params: As in :func:`sample`.
      num_choices: As in :func:`sample`.
      temperature: As in :func:`sample`.
      tanh_constant: As in :func:`sample`.
      prior: As in :func:`sample`.

    Returns:
      As in :func:`sample`.

    Raises:
      ValueError: As in :func:`sample`.
    """
    return _unroll(
        params,
        num_choices,
        lambda logits, _: jnp.argmax(logits),
        lambda decisions: None,
        temperature,
        tanh_constant,
        prior,
    )


def init_baseline(num_decisions: int | None = None) -> Baseline:
    """A baseline that has seen no reward.

    Args:
      num_decisions: Length of a baseline with an average for each decision, as the
        WPL authors' code has it under ``entropy_mode="reward"``. By default there
        is one average for all.

    Returns:
      The baseline. Its first reward will set it.
    """
    shape = () if num_decisions is None else (num_decisions,)
    return Baseline(jnp.zeros(shape, jnp.float32), jnp.zeros((), jnp.bool))


def update_baseline(
    baseline: Baseline, reward: jax.Array, *, decay: float = 0.95
) -> Baseline:
    """Moves the baseline towards a reward: ``decay * mean + (1 - decay) * reward``.

    The first reward takes the mean's place, so that the average has no bias
    towards zero.

    Args:
      baseline: The baseline.
      reward: float[], or float[num_decisions] from :func:`decision_rewards`, which
        a baseline with one average takes the mean of.
      decay: Share that is kept, in [0, 1).

    Returns:
      The new baseline.

    Raises:
      ValueError: If ``decay`` is a number outside [0, 1).
    """
    check_range("decay", decay, 0, np.nextafter(1, 0), "in [0, 1)")
    mean = baseline.mean
    target = jnp.mean(reward) if mean.ndim == 0 else reward
    moved = decay * mean + (1 - decay) * target
    new = jnp.where(baseline.started, moved, target).astype(mean.dtype)
    return Baseline(new, jnp.ones_like(baseline.started))


def decision_rewards(
    reward: jax.Array,
    entropy: jax.Array,
    *,
    entropy_weight: float = 1e-4,
    entropy_mode: EntropyMode = "reward",
) -> jax.Array:
    """What each decision is credited with: the reward and a share of the entropies.

    Args:
      reward: float[], the reward of an architecture.
      entropy: float[num_decisions], the architecture's entropies in nats.
      entropy_weight: Reward that a nat is worth.
      entropy_mode: See :func:`reinforce_loss`.

    Returns:
      float[num_decisions], without gradient.

    Raises:
      ValueError: If ``entropy_mode`` is not one of the two.
    """
    _check_mode(entropy_mode)
    if entropy_mode == "reward":
        bonus = entropy
    else:
        # A choice changes the entropies of the decisions after it.
        bonus = jnp.sum(entropy) - jnp.cumsum(entropy)
    return jax.lax.stop_gradient(reward + entropy_weight * bonus)


def reinforce_loss(
    params: Params,
    architecture: jax.Array,
    reward: jax.Array,
    baseline: Baseline,
    num_choices: NumChoices,
    *,
    entropy_weight: float = 1e-4,
    entropy_mode: EntropyMode = "reward",
    temperature: float = 5.0,
    tanh_constant: float | None = 2.5,
    prior: jax.Array | None = None,
) -> jax.Array:
    """Loss whose gradient is REINFORCE's, ``sum_k -log_prob_k (reward_k - b_k)``.

    With ``H_k`` the entropy of decision ``k`` given the choices before it, and
    ``H = E[sum_k H_k]`` the entropy of the distribution over architectures:

    - ``entropy_mode="reward"`` adds ``entropy_weight * H_k`` to the reward of
      decision ``k``, as the WPL authors' code does by default. ``H_k`` is known
      before choice ``k`` is made, so that it acts as a baseline: **the expected
      gradient is that of E[R], whatever the weight.** This mode reproduces the
      authors' runs; it does not keep the controller exploring.
    - ``entropy_mode="regularizer"`` has the expected gradient of ``E[R] +
      entropy_weight * H``. It subtracts ``entropy_weight * sum_k H_k`` from the
      loss, with its gradient, and credits each choice with the entropies of the
      decisions after it. The former alone, common in reinforcement learning, is
      not the gradient of an entropy of architectures.

    Args:
      params: As in :func:`sample`.
      architecture: int[num_decisions], drawn by :func:`sample` from the same
        parameters.
      reward: float[], its reward.
      baseline: From the rewards of earlier architectures. Before it has seen one,
        the advantages are zero, as in the authors' code.
      num_choices: As in :func:`sample`.
      entropy_weight: Reward that a nat is worth.
      entropy_mode: ``"reward"`` or ``"regularizer"``.
      temperature: As in :func:`sample`.
      tanh_constant: As in :func:`sample`.
      prior: As in :func:`sample`.

    Returns:
      A scalar.

    Raises:
      ValueError: As in :func:`sample`, and if ``entropy_mode`` is not one of the
        two, the reward is not a scalar or the baseline does not fit.
    """
    _check_mode(entropy_mode)
    if jnp.shape(reward) != ():
        raise ValueError(f"reward must be a scalar, got shape {jnp.shape(reward)}.")
    if baseline.mean.shape not in ((), params.decoder_bias.shape[:1]):
        raise ValueError(
            f"baseline must be a scalar or of shape {params.decoder_bias.shape[:1]}, "
            f"one for each decision; got shape {baseline.mean.shape}."
        )
    given = evaluate(
        params,
        architecture,
        num_choices,
        temperature=temperature,
        tanh_constant=tanh_constant,
        prior=prior,
    )
    rewards = decision_rewards(
        reward,
        given.entropy,
        entropy_weight=entropy_weight,
        entropy_mode=entropy_mode,
    )
    expected = jnp.where(baseline.started, baseline.mean, rewards)
    advantages = jax.lax.stop_gradient(rewards - expected)
    loss = -jnp.sum(given.log_prob * advantages)
    if entropy_mode == "regularizer":
        loss -= entropy_weight * jnp.sum(given.entropy)
    return loss


def train(
    params: Params,
    opt_state: optax.OptState,
    baseline: Baseline,
    key: jax.Array,
    rewards_fn: RewardsFn,
    optimizer: optax.GradientTransformation,
    num_choices: NumChoices,
    *,
    steps: int,
    samples_per_step: int = 1,
    first_step: int | jax.Array = 0,
    decay: float = 0.95,
    entropy_weight: float = 1e-4,
    entropy_mode: EntropyMode = "reward",
    temperature: float = 5.0,
    tanh_constant: float | None = 2.5,
    prior: jax.Array | None = None,
) -> tuple[Params, optax.OptState, Baseline, Metrics]:
    """Trains the controller by REINFORCE, in one ``lax.scan``.

    The advantages are over the average of the earlier steps' rewards. The authors'
    code averages the newest in before it subtracts, which multiplies all
    advantages by ``decay`` and changes nothing else.

    Args:
      params: Parameters of the controller.
      opt_state: ``optimizer.init(params)``, or as left by an earlier call.
      baseline: :func:`init_baseline`, or as left by an earlier call.
      key: PRNG key. A step's draws depend on it and on the number of the step
        only, so that ``steps`` may be split over calls with the same key.
      rewards_fn: ``rewards_fn(keys[n], architectures[n, decisions], step) ->
        float[n]``, finite, higher is better, ``n`` the samples of a step. Traced, so
        that nothing crosses to the host. The keys differ from sample to sample, the
        step is int32.
      optimizer: An optax transformation.
      num_choices: As in :func:`sample`.
      steps: Number of updates.
      samples_per_step: Architectures that the gradient of an update is averaged
        over.
      first_step: Number of the first step.
      decay: As in :func:`update_baseline`.
      entropy_weight: As in :func:`reinforce_loss`.
      entropy_mode: As in :func:`reinforce_loss`.
      temperature: As in :func:`sample`.
      tanh_constant: As in :func:`sample`.
      prior: As in :func:`sample`.

    Returns:
      New parameters, optimizer state and baseline, and the :class:`Metrics`.

    Raises:
      ValueError: As in :func:`reinforce_loss` and :func:`update_baseline`, and if
        ``steps`` or ``samples_per_step`` is below 1 or ``rewards_fn`` returns
        something else.
    """
    for name, value in (("steps", steps), ("samples_per_step", samples_per_step)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    policy: dict[str, Any] = {
        "temperature": temperature,
        "tanh_constant": tanh_constant,
        "prior": prior,
    }
    entropy_bonus: dict[str, Any] = {
        "entropy_weight": entropy_weight,
        "entropy_mode": entropy_mode,
    }

    def mean_loss(params, architectures, rewards, baseline):
        def loss(architecture, reward):
            return reinforce_loss(
                params,
                architecture,
                reward,
                baseline,
                num_choices,
                **entropy_bonus,
                **policy,
            )

        return jnp.mean(jax.vmap(loss)(architectures, rewards))

    def update(state, step):
        params, opt_state, baseline = state
        keys = jax.random.split(jax.random.fold_in(key, step), (2, samples_per_step))
        drawn = jax.vmap(lambda k: sample(params, k, num_choices, **policy))(keys[0])
        rewards = rewards_fn(keys[1], drawn.architecture, step)
        rewards = jnp.asarray(rewards, params.bias.dtype)
        if rewards.shape != (samples_per_step,):
            raise ValueError(
                f"rewards_fn must return a number for each of {samples_per_step} "
                f"architectures, got shape {rewards.shape}."
            )
        gradient = jax.grad(mean_loss)(params, drawn.architecture, rewards, baseline)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        credited = jax.vmap(lambda r, h: decision_rewards(r, h, **entropy_bonus))(
            rewards, drawn.entropy
        )
        baseline = update_baseline(baseline, jnp.mean(credited, axis=0), decay=decay)
        entropy = jnp.mean(jnp.sum(drawn.entropy, axis=1))
        return (params, opt_state, baseline), (drawn.architecture, rewards, entropy)

    numbers = jnp.asarray(first_step, jnp.int32) + jnp.arange(steps, dtype=jnp.int32)
    (params, opt_state, baseline), (architectures, rewards, entropy) = jax.lax.scan(
        update, (params, opt_state, baseline), numbers
    )
    flat = jnp.ravel(rewards)
    # The maximum of several numbers and a NaN is the NaN.
    best = jnp.argmax(jnp.where(jnp.isnan(flat), -jnp.inf, flat))
    metrics = Metrics(
        reward=jnp.mean(rewards, axis=1),
        entropy=entropy,
        best_reward=flat[best],
        best_architecture=architectures.reshape(flat.size, -1)[best],
    )
    return params, opt_state, baseline, metrics


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


def _check_mode(entropy_mode):
    if entropy_mode not in ("reward", "regularizer"):
        raise ValueError(
            f"entropy_mode must be 'reward' or 'regularizer', got {entropy_mode!r}."
        )


def _is_traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)
