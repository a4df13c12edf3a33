"""EWC by the rules of Avalanche 0.6.0: ours, the rules in numpy, and Avalanche itself.

Its ``EWCPlugin`` adds ``ewc_lambda * sum_i F_i (theta_i - anchor_i)^2`` to the loss for
each earlier task (``separate``), or once around the newest weights (``online``, with
``F <- decay_factor * F + F_new``). ``F`` is the mean over mini-batches, a shorter last
one included, of the squared gradient of their mean loss.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wpl_jax

LAMBDA, RATE, DECAY, STEPS = 4.0, 0.125, 0.75, 3  # numbers that float32 has exactly
WIDTHS = (3, 4, 3)
RNG = np.random.default_rng(0)
TASKS = [(RNG.normal(size=(7, 3)) + t, RNG.integers(3, size=7)) for t in range(3)]
START = [
    {"w": RNG.normal(size=(m, n)), "b": RNG.normal(size=n)}
    for m, n in itertools.pairwise(WIDTHS)
]


def batches(task, size):
    """In the order of the examples; the last one is shorter."""
    x, y = task
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]


# The rules in numpy.


def by_leaf(function, *trees):
    return [
        {k: function(*(t[i][k] for t in trees)) for k in d}
        for i, d in enumerate(trees[0])
    ]


def gradient(params, batch):
    """Of the mean cross-entropy, by backpropagation."""
    (x, y), (first, last) = batch, params
    hidden = np.tanh(x @ first["w"] + first["b"])
    scores = np.exp(hidden @ last["w"] + last["b"])
    error = (scores / scores.sum(1, keepdims=True) - np.eye(3)[y]) / len(y)
    below = (error @ last["w"].T) * (1 - hidden**2)
    return [
        {"w": x.T @ below, "b": below.sum(0)},
        {"w": hidden.T @ error, "b": error.sum(0)},
    ]


def importance(params, task, size):
    found = [gradient(params, batch) for batch in batches(task, size)]
    return by_leaf(lambda *g: np.mean(np.square(g), 0), *found)


def by_the_rules(mode, size):
    """Weights after each task."""
    params, kept, after = START, [], []  # kept: pairs of importance and anchor
    for task in TASKS:
        for _ in range(STEPS):
            for batch in batches(task, size):
                slope = gradient(params, batch)
                for fisher, anchor in kept:
                    slope = by_leaf(
                        lambda s, f, p, a: s + 2 * LAMBDA * f * (p - a),
                        *(slope, fisher, params, anchor),
                    )
                params = by_leaf(lambda p, s: p - RATE * s, params, slope)
        found = importance(params, task, size)
        if mode == "online":
            for fisher, _ in kept:
                found = by_leaf(lambda old, new: DECAY * old + new, fisher, found)
            kept = []
        kept.append((found, params))
        after.append(params)
    return after


# Ours.


def loss(params, example):
    (x, y), (first, last) = example, params
    logits = jnp.tanh(x @ first["w"] + first["b"]) @ last["w"] + last["b"]
    return -jax.nn.log_softmax(logits)[y]


def by_wpl_jax(mode, size):
    """Weights after each task, and the tasks' states of the penalty."""
    tx = wpl_jax.with_plasticity(
        optax.sgd, alpha=2 * LAMBDA, learning_rate=RATE, step="explicit"
    )

    @jax.jit
    def step(params, opt_state, batch):
        def mean_loss(params):
            return jnp.mean(jax.vmap(loss, (None, 0))(params, batch))

        updates, opt_state = tx.update(jax.grad(mean_loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    estimator, padding = wpl_jax.per_example_fisher, 0
    if size > 1:
        estimator = functools.partial(wpl_jax.batch_fisher, batch_size=size)
        padding = -len(TASKS[0][1]) % size
    rule = wpl_jax.online(DECAY) if mode == "online" else wpl_jax.accumulate
    params = jax.tree.map(jnp.asarray, START)
    state, after = (params, tx.init(params)), []
    for task in TASKS:
        for _ in range(STEPS):
            for batch in batches(task, size):
                state = step(*state, jax.tree.map(jnp.asarray, batch))
        padded = jax.tree.map(
            lambda part: jnp.pad(part, [(0, padding)] + [(0, 0)] * (part.ndim - 1)),
            task,
        )
        state = wpl_jax.remember(
            state,
            loss,
            padded,
            estimator=estimator,
            normalize=None,
            rule=rule,
            weights=is_no_padding,
        )
        after.append(state[0])
    return after


def is_no_padding(batch):
    return jnp.arange(len(batch[1])) < len(TASKS[0][1])


def assert_equal(ours, rules):
    for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(rules), strict=True):
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("mode", "size"), [("separate", 3), ("online", 3), ("separate", 1)]
)
def test_the_penalty_trains_as_the_rules_of_avalanche(mode, size):
    with jax.enable_x64(True):
        assert_equal(by_wpl_jax(mode, size), by_the_rules(mode, size))


def test_the_rules_hold_the_weights_and_differ_by_mode():
    """Else the test above would compare trainings without a penalty."""
    separate, online = by_the_rules("separate", 3), by_the_rules("online", 3)
    np.testing.assert_array_equal(separate[0][0]["w"], online[0][0]["w"])
    assert np.abs(separate[2][0]["w"] - online[2][0]["w"]).max() > 1e-3


# Avalanche, where it is installed.


def by_avalanche(mode, size):
    """Weights after each task."""
    import torch
    from avalanche.benchmarks import tensors_benchmark
    from avalanche.training.plugins import EWCPlugin
    from avalanche.training.supervised import Naive
    from torch import nn

    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    layers = model[0], model[2]
    with torch.no_grad():
        for layer, start in zip(layers, START, strict=True):
            layer.weight.copy_(torch.tensor(start["w"].T))
            layer.bias.copy_(torch.tensor(start["b"]))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=RATE),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=size,
        train_epochs=STEPS,
        plugins=[EWCPlugin(LAMBDA, mode, DECAY if mode == "online" else None)],
        evaluator=None,
    )
    tensors = [tuple(map(torch.tensor, task)) for task in TASKS]
    after = []
    for experience in tensors_benchmark(
        train_tensors=tensors, test_tensors=tensors, task_labels=[0] * len(tensors)
    ).train_stream:
        strategy.train(experience, shuffle=False)
        after.append(
            [
                {
                    "w": layer.weight.detach().numpy().T.copy(),
                    "b": layer.bias.detach().numpy().copy(),
                }
                for layer in layers
            ]
        )
    return after


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Avalanche and PyTorch
@pytest.mark.parametrize("mode", ["separate", "online"])
def test_avalanche_trains_by_these_rules(mode):
    pytest.importorskip("avalanche")
    import torch

    torch.set_default_dtype(torch.float64)
    try:
        assert_equal(by_avalanche(mode, 3), by_the_rules(mode, 3))
    finally:
        torch.set_default_dtype(torch.float32)
