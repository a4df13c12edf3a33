"""Two models with shared layers, trained one after the other (section 4.1).

Model A is trained, then model B, which shares some of A's layers. B's training
overwrites them, and A forgets. This module holds the experiment as functions
from arrays to arrays; :mod:`wpl_jax.two_models.run` runs them over settings and
seeds.

The parameters are a pool, ``{"shared": [...], "a": [...], "b": [...]}``, of
layers that both models may use and of layers of their own. Which of its layers A
shares is data, ``share: bool[layers of A]``, not structure, so that one
compilation serves every amount of sharing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax import penalty
from wpl_jax.engine.optimizers import Optimizer
from wpl_jax.protections.quadratic import STEPS

Layers = list[dict[str, jax.Array]]
Params = dict[str, Layers]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}


class Examples(NamedTuple):
    """Images with their labels, flattened."""

    images: jax.Array  # uint8[n, pixels]
    labels: jax.Array  # int32[n]


class Data(NamedTuple):
    """What an experiment reads."""

    train: Examples
    fisher: Examples  # validation images that the Fisher is estimated on
    valid: Examples  # the other validation images
    test: Examples
    mean: jax.Array  # float32[], of the training pixels
    std: jax.Array  # float32[]


class Curves(NamedTuple):
    """What one training of B leaves, per seed."""

    valid_a: jax.Array  # float32[evaluations]; accuracy of A as B is trained
    valid_b: jax.Array  # float32[evaluations]
    penalty_value: jax.Array  # float32[evaluations]; in nats
    final_valid: jax.Array  # float32[2]; of A and B, all validation images
    final_test: jax.Array  # float32[2]; of A and B, all test images
    start_valid: jax.Array  # float32[]; of A before B is trained
    start_test: jax.Array  # float32[]
    fisher_spread: jax.Array  # float32[]; see fisher_spread
    finite: jax.Array  # bool[]; whether B's training stayed finite


class Setting(NamedTuple):
    """Sizes and optimizers, the same for all arms of an experiment.

    The schedules of the optimizers count steps.
    """

    sizes_a: tuple[int, ...]  # pixels, hidden units, classes
    sizes_b: tuple[int, ...]
    activation: str
    batch_size: int
    optimizer_a: Optimizer
    optimizer_b: Optimizer
    steps_a: int
    steps_b: int
    eval_every: int
    eval_examples: int
    stop_examples: int


def init_layers(key: jax.Array, sizes: tuple[int, ...], activation: str) -> Layers:
    """Draws dense layers: He et al. (2015) for ReLU, Glorot and Bengio else.

    Args:
      key: PRNG key.
      sizes: Units of the input, of each hidden layer and of the output.
      activation: A name in ``ACTIVATIONS``.

    Returns:
      One dict of ``kernel[inputs, outputs]`` and ``bias[outputs]`` a layer.
    """
    initializer = (
        jax.nn.initializers.he_normal()
        if activation == "relu"
        else jax.nn.initializers.glorot_normal()
    )
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"kernel": initializer(k, (i, o)), "bias": jnp.zeros(o)}
        for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def apply_layers(layers: Layers, images: jax.Array, activation: str) -> jax.Array:
    """Logits of a feed-forward network, ``float[..., classes]``."""
    x = images
    for layer in layers[:-1]:
        x = ACTIVATIONS[activation](x @ layer["kernel"] + layer["bias"])
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


def init_pool(key: jax.Array, layers_a: Layers, setting: Setting) -> Params:
    """The parameters B's training starts from: A as trained, B's own layers new."""
    return {
        "shared": layers_a,
        "a": layers_a,
        "b": init_layers(key, setting.sizes_b, setting.activation),
    }


def layers_of_a(params: Params, share: jax.Array) -> Layers:
    """A's layers: from the shared ones where ``share``, else its own."""
    return [
        _choose(share[i], shared, own)
        for i, (shared, own) in enumerate(
            zip(params["shared"], params["a"], strict=True)
        )
    ]


def layers_of_b(params: Params, share: jax.Array) -> Layers:
    """B's layers: A's hidden layers stand first in B, A's classifier last."""
    hidden_a = len(params["shared"]) - 1
    layers = list(params["b"])
    for i in range(hidden_a):
        layers[i] = _choose(share[i], params["shared"][i], layers[i])
    layers[-1] = _choose(share[hidden_a], params["shared"][-1], layers[-1])
    return layers


def share_first(count: int, layers: int) -> jax.Array:
    """``bool[layers]``, true for the first ``count``."""
    return jnp.arange(layers) < count


def protection_mask(params: Params, share: jax.Array) -> Params:
    """1 on the shared layers, 0 on all others, broadcastable to the pool."""
    mask = jax.tree.map(lambda _: jnp.float32(0), params)
    mask["shared"] = [
        jax.tree.map(lambda _, s=s: s.astype(jnp.float32), layer)
        for s, layer in zip(share, params["shared"], strict=True)
    ]
    return mask


def used_by_b(params: Params, share: jax.Array) -> Params:
    """1 on the layers that B uses, 0 on all others, broadcastable to the pool."""
    used = protection_mask(params, share)
    hidden_a = len(params["shared"]) - 1
    between = jnp.zeros(len(params["b"]) - hidden_a - 1, bool)  # layers of B alone
    shared = jnp.concatenate([share[:hidden_a], between, share[hidden_a:]])
    used["b"] = protection_mask({"shared": params["b"]}, ~shared)["shared"]
    return used


def standardize(images: jax.Array, data: Data) -> jax.Array:
    """Pixels as float32 with the training set's mean 0 and deviation 1."""
    return (images.astype(jnp.float32) - data.mean) / data.std


def accuracy(
    layers: Layers, examples: Examples, data: Data, activation: str
) -> jax.Array:
    """Share of the examples classified correctly, ``float32[]``."""
    logits = apply_layers(layers, standardize(examples.images, data), activation)
    return jnp.mean(jnp.argmax(logits, -1) == examples.labels)


def train_a(
    key: jax.Array, stops: jax.Array, data: Data, setting: Setting
) -> tuple[Layers, jax.Array]:
    """Trains A and keeps it at each accuracy of ``stops``, and converged.

    One training passes through all of them, so that a loosely converged A is the
    same run stopped early, as in the paper.

    Args:
      key: PRNG key.
      stops: Accuracies on validation images, ascending, ``float32[stops]``.
      data: The data.
      setting: Sizes and optimizers; ``steps_a`` is what A is given to converge.

    Returns:
      A's layers with a leading axis of ``stops + 1``, the last after ``steps_a``
      steps; and the steps taken until each, ``int32[stops + 1]``. A stop that is
      never reached is the converged model.
    """
    key_init, key_batches = jax.random.split(key)
    layers = init_layers(key_init, setting.sizes_a, setting.activation)
    probe = jax.tree.map(lambda x: x[: setting.stop_examples], data.valid)

    optimizer = setting.optimizer_a

    def step(i, trained):
        layers, opt_state = trained
        images, labels = _batch(key_batches, i, data, setting)
        gradient = jax.grad(_mean_loss)(layers, images, labels, setting)
        transform = optimizer.transform(optimizer.rate(i))
        updates, opt_state = transform.update(gradient, opt_state, layers)
        return optax.apply_updates(layers, updates), opt_state

    def until(carry, stop):
        def short_of_it(carry):
            (layers, _), i = carry
            reached = accuracy(layers, probe, data, setting.activation) >= stop
            return ~reached & (i < setting.steps_a)

        def advance(carry):
            trained, i = carry
            return step(i, trained), i + 1

        carry = jax.lax.while_loop(short_of_it, advance, carry)
        (layers, _), i = carry
        return carry, (layers, i)

    trained = layers, optimizer.transform(optimizer.rate(jnp.int32(0))).init(layers)
    (trained, i), loose = jax.lax.scan(until, (trained, jnp.int32(0)), stops)
    layers, _ = jax.lax.fori_loop(i, setting.steps_a, step, trained)
    last = (layers, jnp.int32(setting.steps_a))
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), loose, last)


def train_b(
    key: jax.Array,
    layers_a: Layers,
    fisher: Layers,
    share: jax.Array,
    alpha: jax.Array,
    data: Data,
    setting: Setting,
    step: str,
) -> Curves:
    """Trains B on the layers that A left, and watches both models.

    Args:
      key: PRNG key.
      layers_a: A's layers, trained: the anchor.
      fisher: That of A, like ``layers_a``.
      share: Which layers of A are shared, ``bool[layers]``.
      alpha: Strength of the penalty, ``float32[]``; 0 for none.
      data: The data.
      setting: Sizes and optimizers.
      step: A name in ``STEPS``, how the penalty is applied.

    Returns:
      Accuracies as training goes, the first before the first step.
    """
    key_init, key_batches = jax.random.split(key)
    params = init_pool(key_init, layers_a, setting)
    mask = protection_mask(params, share)
    penalized = _penalized_optimizer(setting, step, alpha)
    train_batch = _training_of_b(key_batches, params, share, penalized, data, setting)
    no_fisher = jax.tree.map(jnp.zeros_like, params)
    opt_state = penalty.consolidate(
        penalized(jnp.int32(0)).init(params), params, no_fisher | {"shared": fisher}
    )

    def both(params, examples):
        return jnp.stack(
            [
                accuracy(layers, examples, data, setting.activation)
                for layers in (layers_of_a(params, share), layers_of_b(params, share))
            ]
        )

    watched = jax.tree.map(lambda x: x[: setting.eval_examples], data.valid)

    def watch(params, opt_state):
        value = penalty.penalty_value(opt_state, params, alpha, mask=mask)
        return both(params, watched), value

    def interval(carry, start):
        carry = jax.lax.fori_loop(start, start + setting.eval_every, train_batch, carry)
        return carry, watch(*carry)

    start = watch(params, opt_state)
    (params, _), watched_b = jax.lax.scan(
        interval,
        (params, opt_state),
        jnp.arange(0, setting.steps_b, setting.eval_every),
    )
    valid, values = jax.tree.map(
        lambda x, y: jnp.concatenate([x[None], y]), start, watched_b
    )
    return Curves(
        valid_a=valid[:, 0],
        valid_b=valid[:, 1],
        penalty_value=values,
        final_valid=both(params, data.valid),
        final_test=both(params, data.test),
        start_valid=accuracy(layers_a, data.valid, data, setting.activation),
        start_test=accuracy(layers_a, data.test, data, setting.activation),
        fisher_spread=fisher_spread(fisher, mask["shared"]),
        finite=jnp.isfinite(optax.tree.norm(params)),
    )


def _penalized_optimizer(setting: Setting, step: str, alpha: jax.Array):
    """A function from the number of a step to B's optimizer under the penalty."""
    optimizer = setting.optimizer_b

    def penalized(i):
        rate = optimizer.rate(i)
        return STEPS[step](optimizer.transform(rate), rate, alpha)

    return penalized


def _training_of_b(key, params, share, penalized, data, setting):
    """A step of B's training.

    Args:
      key: PRNG key of the batches.
      params: Of both models; only their structure is used.
      share: Which layers of A are shared, ``bool[layers]``.
      penalized: Of :func:`_penalized_optimizer`.
      data: The data.
      setting: Sizes and optimizers.

    Returns:
      A function of the number of the step and of parameters with optimizer state, to
      the new ones.
    """
    mask, used = protection_mask(params, share), used_by_b(params, share)

    def loss(params, images, labels):
        return _mean_loss(layers_of_b(params, share), images, labels, setting)

    def train_batch(i, carry):
        params, opt_state = carry
        gradient = jax.grad(loss)(params, *_batch(key, i, data, setting))
        updates, opt_state = penalized(i).update(gradient, opt_state, params, mask=mask)
        # Weight decay is of B's layers alone.
        updates = jax.tree.map(lambda u, there: there * u, updates, used)
        return optax.apply_updates(params, updates), opt_state

    return train_batch


def fisher_spread(fisher: Layers, mask: Layers) -> jax.Array:
    """Over which share of the shared weights the Fisher is spread, ``float32[]``.

    ``(sum F)^2 / (n sum F^2)`` over the ``n`` weights in the mask, known as the
    participation ratio: 1 if F is the same for all, ``k/n`` if it is the same for ``k``
    of them and 0 for the others.

    Args:
      fisher: The Fisher.
      mask: 1 or 0 for each array, broadcastable to it.

    Returns:
      The share; nan if no weight has a Fisher.
    """
    kept = jax.tree.map(lambda f, m: f * m, fisher, mask)
    largest = optax.tree.norm(kept, ord=jnp.inf)  # Squares could leave the range.
    scaled = jax.tree.map(lambda f: f / largest, kept)
    counts = jax.tree.map(
        lambda f, m: jnp.sum(jnp.broadcast_to(m, f.shape)), fisher, mask
    )
    squares = optax.tree.norm(scaled, squared=True)
    return optax.tree.sum(scaled) ** 2 / (squares * optax.tree.sum(counts))


def cross_entropy(
    layers: Layers, images: jax.Array, labels: jax.Array, activation: str
) -> jax.Array:
    """Nats of each image, or of one, ``float32[...]``."""
    logits = apply_layers(layers, images, activation)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _mean_loss(layers, images, labels, setting):
    return jnp.mean(cross_entropy(layers, images, labels, setting.activation))


def _batch(key, step, data: Data, setting: Setting):
    """The training batch of a step, a function of the key and the step alone."""
    index = jax.random.randint(
        jax.random.fold_in(key, step),
        (setting.batch_size,),
        0,
        data.train.labels.shape[0],
    )
    return standardize(data.train.images[index], data), data.train.labels[index]


def _choose(share: jax.Array, shared: Any, own: Any) -> Any:
    return jax.tree.map(lambda s, o: jnp.where(share, s, o), shared, own)
