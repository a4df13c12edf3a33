"""What it costs to store anchors and Fishers in fewer bits: accuracies of two tasks.

A network learns the digits of scikit-learn, and then the digits with permuted pixels
(Kirkpatrick et al., 2017). A row is the mean accuracy of a task on test images after
both, over seeds, with the range between seeds.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wpl_jax

SEEDS, STEPS, BATCH, TRAIN = 10, 600, 64, 1200
SIZES = (64, 64, 10)
RATE = 0.1
ALPHAS = (0.0, 0.1, 1.0, 10.0, 100.0)
STORED: tuple[dict[str, Any], ...] = (
    {},
    {"anchor_dtype": "bfloat16", "fisher_dtype": "bfloat16"},
    {"anchor_dtype": "bfloat16", "fisher_dtype": "uint8"},
    {"anchor_dtype": "int8", "fisher_dtype": "uint8"},
)


def rows() -> Iterator[dict[str, Any]]:
    """Accuracies of both tasks after the second, by storage and alpha."""
    tasks = _tasks()
    for stored in STORED:
        bits = [str(stored.get(f"{name}_dtype", "float32")) for name in _NAMES]
        run = jax.jit(jax.vmap(functools.partial(_train, stored), (0, None, None)))
        for alpha in ALPHAS:
            found = run(jnp.arange(SEEDS), alpha, tasks)
            for task, accuracy in zip("AB", np.asarray(found).T, strict=True):
                yield {
                    "benchmark": "anchor {}, Fisher {}".format(*bits),
                    "figure": f"% accuracy of {task}, alpha {alpha:g}",
                    "ratio": 100 * float(accuracy.mean()),
                    "low": 100 * float(accuracy.min()),
                    "high": 100 * float(accuracy.max()),
                }


_NAMES = ("anchor", "fisher")


def _tasks():
    """Images and labels of the digits, and of the digits with permuted pixels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = digits.data[order] / 16, jnp.asarray(digits.target[order])
    permuted = x[:, np.random.default_rng(1).permutation(x.shape[1])]
    return tuple((jnp.asarray(images, jnp.float32), y) for images in (x, permuted))


def _logits(params, x):
    *hidden, last = params
    for layer in hidden:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def _losses(params, example):
    x, y = example
    return optax.softmax_cross_entropy_with_integer_labels(_logits(params, x), y)


def _train(stored, seed, alpha, tasks):
    """Accuracies of both tasks on test images, ``float32[2]``."""
    key = jax.random.key(seed)
    params = [
        {"w": jax.random.normal(jax.random.fold_in(key, i), (m, n)) / jnp.sqrt(m)}
        | {"b": jnp.zeros(n)}
        for i, (m, n) in enumerate(itertools.pairwise(SIZES))
    ]
    penalty = wpl_jax.proximal_weight_plasticity(alpha, RATE, **stored)
    tx = optax.chain(optax.sgd(RATE), penalty)

    def fit(params, opt_state, key, task):
        def step(carry, key):
            params, opt_state = carry
            index = jax.random.randint(key, (BATCH,), 0, TRAIN)
            batch = jax.tree.map(lambda z: z[index], task)
            gradient = jax.grad(lambda p: jnp.mean(_losses(p, batch)))(params)
            updates, opt_state = tx.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        keys = jax.random.split(key, STEPS)
        return jax.lax.scan(step, (params, opt_state), keys)[0]

    first, second = tasks
    params, opt_state = fit(params, tx.init(params), jax.random.fold_in(key, 10), first)
    known = jax.tree.map(lambda z: z[:TRAIN], first)
    fisher = wpl_jax.normalize(wpl_jax.exact_fisher(_logits, params, known[0]))
    opt_state = wpl_jax.consolidate(opt_state, params, fisher)
    params, _ = fit(params, opt_state, jax.random.fold_in(key, 11), second)

    def accuracy(task):
        x, y = jax.tree.map(lambda z: z[TRAIN:], task)
        return jnp.mean(jnp.argmax(_logits(params, x), -1) == y)

    return jnp.stack([accuracy(first), accuracy(second)])
