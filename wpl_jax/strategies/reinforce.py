"""REINFORCE: training of the controller by the rewards of its proposals.

The policy ``p`` of :mod:`wpl_jax.controller` is trained to increase the expected
reward, by the gradient of Williams (1992),

    grad E[R] = E[sum_k (R - b_k) grad log p(a_k | a_1, ..., a_k-1)],

for any baseline ``b_k`` that does not depend on the choices from ``k`` on. All
functions are pure and jittable.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax.common.checks import check_range
from wpl_jax.controller import NumChoices, Params, evaluate, sample

EntropyMode = Literal["reward", "regularizer"]
# Of PRNG keys [n], architectures int32[n, decisions] and the number of the step:
# float[n].
RewardsFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Baseline(NamedTuple):
    """Exponential moving average of the rewards."""

    mean: jax.Array  # float32[], or float32[decisions]
    started: jax.Array  # bool[]; whether it has seen a reward


class Metrics(NamedTuple):
    """Rewards and entropies during :func:`train`."""

    reward: jax.Array  # float32[steps]; mean over the samples of a step
    entropy: jax.Array  # float32[steps]; the same, of the entropy of an architecture
    best_reward: jax.Array  # float32[]; without the entropy
    best_architecture: jax.Array  # int32[decisions]; the first with that reward


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
      entropy_mode: See :func:`loss`.

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


def loss(
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
      params: As in :func:`wpl_jax.controller.sample`.
      architecture: int[num_decisions], drawn by
        :func:`wpl_jax.controller.sample` from the same parameters.
      reward: float[], its reward.
      baseline: From the rewards of earlier architectures. Before it has seen one,
        the advantages are zero, as in the authors' code.
      num_choices: As in :func:`wpl_jax.controller.sample`.
      entropy_weight: Reward that a nat is worth.
      entropy_mode: ``"reward"`` or ``"regularizer"``.
      temperature: As in :func:`wpl_jax.controller.sample`.
      tanh_constant: As in :func:`wpl_jax.controller.sample`.
      prior: As in :func:`wpl_jax.controller.sample`.

    Returns:
      A scalar.

    Raises:
      ValueError: As in :func:`wpl_jax.controller.sample`, and if ``entropy_mode``
        is not one of the two, the reward is not a scalar or the baseline does not
        fit.
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
    value = -jnp.sum(given.log_prob * advantages)
    if entropy_mode == "regularizer":
        value -= entropy_weight * jnp.sum(given.entropy)
    return value


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
      num_choices: As in :func:`wpl_jax.controller.sample`.
      steps: Number of updates.
      samples_per_step: Architectures that the gradient of an update is averaged
        over.
      first_step: Number of the first step.
      decay: As in :func:`update_baseline`.
      entropy_weight: As in :func:`loss`.
      entropy_mode: As in :func:`loss`.
      temperature: As in :func:`wpl_jax.controller.sample`.
      tanh_constant: As in :func:`wpl_jax.controller.sample`.
      prior: As in :func:`wpl_jax.controller.sample`.

    Returns:
      New parameters, optimizer state and baseline, and the :class:`Metrics`.

    Raises:
      ValueError: As in :func:`loss` and :func:`update_baseline`, and if
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
        def of_one(architecture, reward):
            return loss(
                params,
                architecture,
                reward,
                baseline,
                num_choices,
                **entropy_bonus,
                **policy,
            )

        return jnp.mean(jax.vmap(of_one)(architectures, rewards))

    def update(state, step):
        params, opt_state, baseline = state
        keys = jax.random.split(jax.random.fold_in(key, step), (2, samples_per_step))
        drawn = jax.vmap(lambda k: sample(params, k, num_choices, **policy))(keys[0])
        rewards = rewards_fn(keys[1], drawn.architecture, step)
        rewards = _checked_rewards(rewards, samples_per_step, params.bias.dtype)
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
    metrics = _metrics(architectures, rewards, entropy)
    return params, opt_state, baseline, metrics


def _checked_rewards(rewards: Any, samples: int, dtype: Any) -> jax.Array:
    rewards = jnp.asarray(rewards, dtype)
    if rewards.shape != (samples,):
        raise ValueError(
            f"rewards_fn must return a number for each of {samples} architectures, got "
            f"shape {rewards.shape}."
        )
    return rewards


def _metrics(
    architectures: jax.Array, rewards: jax.Array, entropy: jax.Array
) -> Metrics:
    """What is reported of all steps.

    Args:
      architectures: ``int32[steps, samples, decisions]``.
      rewards: Theirs, ``float[steps, samples]``.
      entropy: ``float[steps]``.
    """
    flat = jnp.ravel(rewards)
    # The maximum of several numbers and a NaN is the NaN.
    best = jnp.argmax(jnp.where(jnp.isnan(flat), -jnp.inf, flat))
    return Metrics(
        reward=jnp.mean(rewards, axis=1),
        entropy=entropy,
        best_reward=flat[best],
        best_architecture=architectures.reshape(flat.size, -1)[best],
    )


def _check_mode(entropy_mode):
    if entropy_mode not in ("reward", "regularizer"):
        raise ValueError(
            f"entropy_mode must be 'reward' or 'regularizer', got {entropy_mode!r}."
        )
