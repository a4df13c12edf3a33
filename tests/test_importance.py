"""Importance by all classes, by outputs and by curvature, against float64 numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.raising import assert_says

import wpl_jax

N, INPUTS, HIDDEN, CLASSES = 7, 3, 5, 4
RNG = np.random.default_rng(0)


def draw(*shape):
    """Float64 values that float32 represents exactly."""
    return RNG.normal(size=shape).astype(np.float32).astype(np.float64)


REGRESSION = {"b": draw(CLASSES), "w": draw(INPUTS, CLASSES)}
MLP = {
    "hidden": {"b": draw(HIDDEN), "w": draw(INPUTS, HIDDEN)},
    "last": {"b": draw(CLASSES), "w": draw(HIDDEN, CLASSES)},
}
X, LABELS = draw(N, INPUTS), RNG.integers(CLASSES, size=N)


def regression(p, x):
    return x @ p["w"] + p["b"]


def mlp(p, x):
    h = jnp.tanh(x @ p["hidden"]["w"] + p["hidden"]["b"])
    return h @ p["last"]["w"] + p["last"]["b"]


# The same in numpy, of one example: outputs and their derivative by hand.


def regression_by_hand(p, x):
    eye = np.eye(CLASSES)
    jacobian = {"b": eye, "w": np.einsum("i,kj->kij", x, eye)}
    return x @ p["w"] + p["b"], jacobian


def mlp_by_hand(p, x):
    h = np.tanh(x @ p["hidden"]["w"] + p["hidden"]["b"])
    eye = np.eye(CLASSES)
    inner = p["last"]["w"].T * (1 - h**2)  # [classes, hidden]
    jacobian = {
        "hidden": {"b": inner, "w": np.einsum("i,kj->kij", x, inner)},
        "last": {"b": eye, "w": np.einsum("i,kj->kij", h, eye)},
    }
    return h @ p["last"]["w"] + p["last"]["b"], jacobian


MODELS = {
    "regression": (REGRESSION, regression, regression_by_hand),
    "mlp": (MLP, mlp, mlp_by_hand),
}
of_each_model = pytest.mark.parametrize("model", MODELS)


def to_jax(tree):
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32 if x.dtype == np.float64 else None), tree
    )


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def mean(function, model, examples=(X, LABELS)):
    """The mean over examples of what a function makes of outputs and derivative."""
    params, _, by_hand = MODELS[model]
    each = []
    for x, label in zip(*examples, strict=True):
        z, jacobian = by_hand(params, x)
        each.append(jax.tree.map(lambda j: function(z, j, label), jacobian))  # noqa: B023
    return jax.tree.map(lambda *found: np.mean(found, axis=0), *each)


def assert_close(got, want, rtol=2e-5, atol=1e-7):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.dtype == jnp.float32
        np.testing.assert_allclose(g, w, rtol, atol)


def fisher_by_hand(z, jacobian, label):
    """sum_y p_y (d log p_y)^2, class by class."""
    p = softmax(z)
    return sum(
        p[y] * np.tensordot(np.eye(CLASSES)[y] - p, jacobian, 1) ** 2
        for y in range(CLASSES)
    )


@of_each_model
@pytest.mark.parametrize("chunk_size", [3, 100])
def test_exact_fisher_is_the_expectation_over_all_classes(model, chunk_size):
    params, outputs, _ = MODELS[model]
    got = wpl_jax.exact_fisher(
        outputs, to_jax(params), to_jax(X), chunk_size=chunk_size
    )
    assert_close(got, mean(fisher_by_hand, model))


def test_log_probabilities_and_logits_have_the_same_exact_fisher():
    log_p = lambda p, x: jax.nn.log_softmax(mlp(p, x)) + 3.0  # noqa: E731
    got = wpl_jax.exact_fisher(log_p, to_jax(MLP), to_jax(X))
    assert_close(got, mean(fisher_by_hand, "mlp"))


@of_each_model
def test_the_ggn_diagonal_of_a_cross_entropy_is_the_exact_fisher(model):
    params, outputs, _ = MODELS[model]

    def loss(z, example):
        return -jax.nn.log_softmax(z)[example[1]]

    got = wpl_jax.ggn_diagonal(
        lambda p, example: outputs(p, example[0]),
        loss,
        to_jax(params),
        to_jax((X, LABELS)),
        chunk_size=4,
    )
    assert_close(got, mean(fisher_by_hand, model), rtol=1e-4, atol=1e-6)


def test_the_ggn_diagonal_of_another_loss_is_that_of_its_hessian():
    """Poisson and squared errors, of which outputs are correlated in the second."""
    mixing = draw(CLASSES, CLASSES)
    hessian = mixing.T @ mixing

    def poisson(z, example):
        return jnp.sum(jnp.exp(z) - z * example[1])

    def correlated(z, example):
        return jnp.sum(jnp.square(jnp.asarray(mixing, jnp.float32) @ z)) / 2

    def ggn(of):
        return lambda z, j, label: np.einsum("k...,kl,l...->...", j, of(z), j)

    for loss, of in (
        (poisson, lambda z: np.diag(np.exp(z))),
        (correlated, lambda z: hessian),
    ):
        got = wpl_jax.ggn_diagonal(
            lambda p, example: mlp(p, example[0]),
            loss,
            to_jax(MLP),
            to_jax((X, LABELS)),
        )
        assert_close(got, mean(ggn(of), "mlp"), rtol=2e-4, atol=1e-4)


@of_each_model
def test_memory_aware_synapses_are_mean_absolute_sensitivities(model):
    params, outputs, _ = MODELS[model]
    got = wpl_jax.memory_aware_synapses(
        outputs, to_jax(params), to_jax(X), chunk_size=3
    )
    want = mean(lambda z, j, label: np.abs(2 * np.tensordot(z, j, 1)), model)
    assert_close(got, want)


def test_memory_aware_synapses_of_weights_that_meet_examples_in_other_ways():
    """A table, a weight in several rows, a transformed weight: against a loop."""
    rng = np.random.default_rng(1)
    params = to_jax(
        {"table": rng.normal(size=(6, 3)), "w": rng.normal(size=(3, 4)), "s": draw(4)}
    )
    words = jnp.asarray(rng.integers(6, size=(N, 2)))

    def outputs(p, words):
        rows = p["table"][words] @ (p["w"] / jnp.sqrt(3.0))
        return jnp.tanh(rows) * p["s"]

    norm = jax.jit(jax.grad(lambda p, words: jnp.sum(outputs(p, words) ** 2)))
    each = [jax.tree.map(np.float64, norm(params, one)) for one in words]
    want = jax.tree.map(lambda *g: np.mean(np.abs(g), 0), *each)
    got = wpl_jax.memory_aware_synapses(outputs, params, words)
    assert_close(got, want)


@of_each_model
def test_the_fisher_of_reversed_logits(model):
    params, outputs, _ = MODELS[model]
    loss = wpl_jax.reversed_cross_entropy(outputs)
    got = wpl_jax.per_example_fisher(loss, to_jax(params), to_jax((X, LABELS)))

    def by_hand(z, jacobian, label):
        gradient = np.eye(CLASSES)[label] - softmax(-z)  # of CE(-z, y) in z
        return np.tensordot(gradient, jacobian, 1) ** 2

    assert_close(got, mean(by_hand, model))
    rows = to_jax((X, np.eye(CLASSES)[LABELS]))
    assert_close(wpl_jax.per_example_fisher(loss, to_jax(params), rows), got)


def test_reversed_logits_of_a_confident_model_have_a_fisher():
    params = jax.tree.map(lambda p: 100 * p, to_jax(REGRESSION))
    labels = jnp.argmax(regression(params, to_jax(X)), -1)
    examples = to_jax(X), labels

    def loss(p, example):
        return -jax.nn.log_softmax(regression(p, example[0]))[example[1]]

    reverse = wpl_jax.reversed_cross_entropy(regression)
    of = functools.partial(wpl_jax.per_example_fisher, params=params, examples=examples)
    plain, reversed_ = of(loss), of(reverse)
    assert jnp.max(plain["w"]) < 1e-6 * jnp.max(reversed_["w"])


def test_padding_of_a_sequence_has_no_part_in_reversed_logits():
    z = jnp.asarray(draw(3, CLASSES), jnp.float32)
    loss = wpl_jax.reversed_cross_entropy(lambda p, x: p)
    want = -sum(np.log(softmax(-np.float64(z[t])))[y] for t, y in ((0, 2), (2, 1)))
    np.testing.assert_allclose(loss(z, (0, jnp.array([2, -1, 1]))), want, rtol=1e-5)


# Sequences, and random signs.


def sequence(p, words):
    """Scores of the classes at each of three positions."""
    return jnp.tanh(p["table"][words]) @ p["w"]


SEQUENCE = to_jax({"table": draw(6, INPUTS), "w": draw(INPUTS, CLASSES)})
WORDS = jnp.asarray(RNG.integers(6, size=(N, 3)))


def test_the_exact_fisher_of_a_sequence_adds_up_its_positions():
    """As labels of all positions together, of which there are 4^3."""
    scores = jax.jit(sequence)

    def log_likelihood(p, words, labels):
        log_p = jax.nn.log_softmax(scores(p, words))
        return jnp.sum(log_p[jnp.arange(3), labels])

    labels = np.stack(np.meshgrid(*[np.arange(CLASSES)] * 3), -1).reshape(-1, 3)
    slopes = jax.jit(
        jax.vmap(jax.value_and_grad(log_likelihood), in_axes=(None, None, 0))
    )
    each = []
    for words in WORDS:
        values, gradients = slopes(SEQUENCE, words, labels)
        p = np.exp(np.float64(values))
        np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
        squares = jax.tree.map(lambda g: np.square(g, dtype=np.float64), gradients)
        expect = functools.partial(np.tensordot, p, axes=1)
        each.append(jax.tree.map(expect, squares))
    want = jax.tree.map(lambda *f: np.mean(f, 0), *each)
    got = wpl_jax.exact_fisher(sequence, SEQUENCE, WORDS)
    assert_close(got, want, rtol=1e-4, atol=1e-6)


OF_SEQUENCES = {
    "exact": wpl_jax.exact_fisher,
    "ggn": lambda outputs, p, e, **options: wpl_jax.ggn_diagonal(
        outputs, lambda z, e: jnp.sum(jax.nn.logsumexp(z, -1)), p, e, **options
    ),
    "mas": wpl_jax.memory_aware_synapses,
}


@pytest.mark.slow_except("exact")
@pytest.mark.parametrize("name", OF_SEQUENCES)
def test_padding_of_a_sequence_has_no_part_where_its_outputs_are_masked(name):
    """As sequences of three lengths, each by itself and without padding."""
    lengths = np.array([3, 1, 2, 0, 3, 2, 1])
    mask = jnp.arange(3) < lengths[:, None]
    padded = jnp.where(mask, WORDS, 5)  # 5 is a word as well

    def masked(p, example):
        words, mask = example
        return sequence(p, words) * mask[:, None]

    estimate = OF_SEQUENCES[name]
    got = estimate(masked, SEQUENCE, (padded, mask), chunk_size=4)
    sums = []
    for length in (1, 2, 3):
        rows = WORDS[lengths == length, :length]
        found = estimate(sequence, SEQUENCE, rows)
        share = len(rows) / N
        sums.append(jax.tree.map(lambda f, share=share: share * np.float64(f), found))
    want = jax.tree.map(lambda *f: sum(f), *sums)
    assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert np.any(want["table"])


def estimates(estimate, draws):
    """Many estimates with other keys: their mean and its standard error."""
    keys = jax.random.split(jax.random.key(0), draws)
    found = jax.jit(lambda keys: jax.lax.map(estimate, keys))(keys)
    flat = np.concatenate(
        [np.reshape(f, (draws, -1)) for f in jax.tree.leaves(found)], 1
    )
    return flat.mean(0, dtype=np.float64), flat.std(0, ddof=1), flat


def flattened(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@pytest.mark.slow_except("classes-3")
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("kind", ["classes", "sequence", "ggn"])
def test_random_signs_are_unbiased(kind, samples):
    draws = 600
    params, examples = to_jax(MLP), to_jax(X)
    exact, estimate = {
        "classes": (
            wpl_jax.exact_fisher(mlp, params, examples),
            functools.partial(wpl_jax.exact_fisher, mlp, params, examples),
        ),
        "sequence": (
            wpl_jax.exact_fisher(sequence, SEQUENCE, WORDS),
            functools.partial(wpl_jax.exact_fisher, sequence, SEQUENCE, WORDS),
        ),
        "ggn": (
            wpl_jax.exact_fisher(mlp, params, examples),
            functools.partial(
                wpl_jax.ggn_diagonal,
                mlp,
                lambda z, x: jax.nn.logsumexp(z),
                params,
                examples,
            ),
        ),
    }[kind]
    found, deviation, _ = estimates(
        lambda key: estimate(samples=samples, key=key, chunk_size=3), draws
    )
    error = deviation / np.sqrt(draws)
    exact = flattened(exact)
    assert (np.abs(found - exact) < 5 * error + 1e-6).all()
    # The bound on the deviation of one estimate, with some room for that of 600.
    assert (deviation < 1.2 * np.sqrt(2 / samples) * exact + 1e-6).all()


@pytest.mark.slow
def test_random_signs_vary_less_than_drawn_labels_where_the_model_is_confident():
    params = jax.tree.map(lambda p: 3 * p, to_jax(REGRESSION))
    examples = to_jax(X), jnp.zeros(N, jnp.int32)

    def loss(p, example):
        return -jax.nn.log_softmax(regression(p, example[0]))[example[1]]

    resample = wpl_jax.sample_class(regression)
    _, of_signs, _ = estimates(
        lambda key: wpl_jax.exact_fisher(
            regression, params, examples[0], samples=1, key=key
        ),
        300,
    )
    _, of_labels, _ = estimates(
        lambda key: wpl_jax.per_example_fisher(
            loss, params, examples, resample=resample, key=key
        ),
        300,
    )
    assert (of_signs < of_labels).mean() > 0.8
    assert np.median(of_labels / of_signs) > 1.5


@pytest.mark.slow
def test_random_signs_do_not_depend_on_the_chunk_size():
    of = functools.partial(wpl_jax.exact_fisher, mlp, to_jax(MLP), to_jax(X), samples=2)
    whole = of(key=jax.random.key(0))
    assert_close(of(key=jax.random.key(0), chunk_size=2), whole)
    assert not np.allclose(flattened(of(key=jax.random.key(1))), flattened(whole))


# Weights of examples.

PER_EXAMPLE = lambda p, examples, **options: wpl_jax.per_example_fisher(  # noqa: E731
    lambda p, x: jnp.sum(jnp.sin(mlp(p, x))), p, examples, **options
)
ESTIMATORS = {
    "per example": PER_EXAMPLE,
    "exact": functools.partial(wpl_jax.exact_fisher, mlp),
    "ggn": functools.partial(
        wpl_jax.ggn_diagonal, mlp, lambda z, x: jax.nn.logsumexp(z)
    ),
    "mas": functools.partial(wpl_jax.memory_aware_synapses, mlp),
    "batch": lambda p, examples, chunk_size=None, **options: wpl_jax.batch_fisher(
        lambda p, x: jnp.sum(jnp.sin(mlp(p, x))), p, examples, **options
    ),
}


@pytest.mark.slow_except("exact")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_padding_has_no_part_in_it(name):
    params, x = to_jax(MLP), to_jax(X)
    weights = np.array([1, 0, 1, 1, 0, 0, 1])
    want = ESTIMATORS[name](params, x[weights == 1], chunk_size=2)
    padded = x.at[weights == 0].set(7.0)
    for kept in (weights, weights.astype(bool), jnp.float32(weights)):
        got = ESTIMATORS[name](params, padded, chunk_size=2, weights=kept)
        assert_close(got, want)
    none = ESTIMATORS[name](params, padded, weights=np.zeros(N))
    assert not flattened(none).any()


def test_the_exact_fisher_can_be_differentiated():
    """F = p (1 - p) mean x^2 of a binary model, where p depends on the weight too."""
    x, w = np.array([1.0, 2.0]), 0.7

    def fisher(w):
        return wpl_jax.exact_fisher(
            lambda w, x: jnp.stack([w * x, 0 * x]), w, jnp.asarray(x, jnp.float32)
        )

    p = 1 / (1 + np.exp(-w * x))
    want = np.mean(x**3 * p * (1 - p) * (1 - 2 * p))
    for mode in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(mode(fisher)(w), want, rtol=1e-4)


# Errors.


def test_what_does_not_fit_is_named():
    params, x = to_jax(MLP), to_jax(X)
    exact = functools.partial(wpl_jax.exact_fisher, mlp, params, x)
    assert_says(lambda: exact(samples=2), ["key=jax.random.key"])
    assert_says(lambda: exact(samples=0, key=jax.random.key(0)), ["samples", "got 0"])
    assert_says(lambda: exact(weights=np.ones(3)), ["weights", "(3,)", f"({N},)"])
    assert_says(lambda: exact(weights=np.full(N, 0.5)), ["0.5", "expected 0"])
    for outputs in (lambda p, x: jnp.sum(x), lambda p, x: mlp(p, x)[:1]):
        of = functools.partial(wpl_jax.exact_fisher, outputs, params, x)
        assert_says(of, ["at least two classes", "binary head"])
    loss = wpl_jax.reversed_cross_entropy(mlp)
    of = functools.partial(loss, params)
    assert_says(of, ["pairs (inputs, label)"], x[0])
    assert_says(of, ["float32", "(4,)"], (x[0], jnp.float32(1.0)))
