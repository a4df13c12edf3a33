"""The two models against networks, gradients and training loops in float64 NumPy."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.engine.optimizers import Exponential, Sgd
from wpl_jax.protections.quadratic import STEPS
from wpl_jax.two_models import experiment as two_models
from wpl_jax.two_models.experiment import Data, Examples, Setting
from wpl_jax.two_models.penalties import PENALTIES, fisher_of_a, protection_of

PIXELS, CLASSES = 5, 3
RATE_A, RATE_B, DECAY_B, WEIGHT_DECAY_B = 0.3, 0.2, 0.9, 0.05
SETTING = Setting(
    sizes_a=(PIXELS, 4, 4, CLASSES),
    sizes_b=(PIXELS, 4, 4, 4, CLASSES),
    activation="tanh",
    batch_size=8,
    optimizer_a=Sgd(RATE_A),
    optimizer_b=Sgd(RATE_B, Exponential(DECAY_B, 1), weight_decay=WEIGHT_DECAY_B),
    steps_a=40,
    steps_b=6,
    eval_every=1,
    eval_examples=15,
    stop_examples=16,
)
SHARES = list(itertools.product([False, True], repeat=3))


# A network in NumPy.

ACTIVATIONS = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: 1.0 * (z > 0)),
    "sigmoid": (
        lambda z: 1 / (1 + np.exp(-z)),
        lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2,
    ),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
}


def forward(layers, x, activation):
    """What each layer puts out before its activation; the logits stand last."""
    out = []
    for layer in layers:
        out.append(x @ layer["kernel"] + layer["bias"])
        x = ACTIVATIONS[activation][0](out[-1])
    return out


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def gradient(layers, x, labels, activation):
    """Of the mean cross entropy, by backpropagation."""
    activate, slope = ACTIVATIONS[activation]
    out = forward(layers, x, activation)
    back = (softmax(out[-1]) - np.eye(CLASSES)[labels]) / len(labels)
    found = []
    for i in reversed(range(len(layers))):
        below = activate(out[i - 1]) if i else x
        found.insert(0, {"kernel": below.T @ back, "bias": back.sum(0)})
        if i:
            back = back @ layers[i]["kernel"].T * slope(out[i - 1])
    return found


def accuracy(layers, x, labels, activation="tanh"):
    return np.mean(forward(layers, x, activation)[-1].argmax(-1) == labels)


# Data, parameters and their float64 copies.


def double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def pixels(images, data=None):
    """Standardized in float64."""
    data = make_data() if data is None else data
    mean, deviation = float(data.mean), float(data.std)
    return (np.asarray(images, np.float64) - mean) / deviation


@functools.cache
def make_data():
    """Images whose classes a linear map tells apart, most of them."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(PIXELS, CLASSES))

    def examples(n):
        images = rng.integers(256, size=(n, PIXELS), dtype=np.uint8)
        scores = (images / 255 - 0.5) @ weights + 0.05 * rng.normal(size=(n, CLASSES))
        return Examples(
            jnp.asarray(images), jnp.asarray(scores.argmax(-1), dtype=jnp.int32)
        )

    train = examples(60)
    values = np.asarray(train.images)
    return Data(
        train=train,
        fisher=examples(12),
        valid=examples(30),
        test=examples(20),
        mean=jnp.float32(values.mean()),
        std=jnp.float32(values.std()),
    )


def random_layers(sizes, seed):
    """Kernels and biases, none of them zero."""
    rng = np.random.default_rng(seed)
    return [
        {
            "kernel": jnp.asarray(rng.normal(size=(i, o)) / np.sqrt(i), jnp.float32),
            "bias": jnp.asarray(0.1 * rng.normal(size=o), jnp.float32),
        }
        for i, o in itertools.pairwise(sizes)
    ]


def random_pool():
    """A pool whose shared layers are no longer A's own."""
    return {
        "shared": random_layers(SETTING.sizes_a, 0),
        "a": random_layers(SETTING.sizes_a, 1),
        "b": random_layers(SETTING.sizes_b, 2),
    }


def random_fisher():
    layers = random_layers(SETTING.sizes_a, 3)
    return jax.tree.map(lambda x: 3 * x**2 + 0.1, layers)


def batch(key, step, data):
    """The batch of a step, its indices drawn once more."""
    n = len(data.train.labels)
    key = jax.random.fold_in(key, step)
    index = np.asarray(jax.random.randint(key, (SETTING.batch_size,), 0, n))
    images = np.asarray(data.train.images)[index]
    return pixels(images, data), np.asarray(data.train.labels)[index]


def assert_close(got, expected, rtol=1e-4, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for have, want in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(have, want, rtol, atol)


def same(left, right):
    return all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


# Layers.


def test_init_layers_have_the_sizes_asked_for():
    layers = two_models.init_layers(jax.random.key(0), (7, 4, 2, 3), "relu")
    shapes = [(x["kernel"].shape, x["bias"].shape) for x in layers]
    assert shapes == [((7, 4), (4,)), ((4, 2), (2,)), ((2, 3), (3,))]
    assert all(np.all(layer["bias"] == 0) for layer in layers)


@pytest.mark.parametrize(
    ("activation", "variance"),
    [("relu", 2 / 300), ("tanh", 2 / (300 + 200)), ("sigmoid", 2 / (300 + 200))],
)
def test_init_layers_have_the_variance_of_the_papers(activation, variance):
    sizes = (300, 200, 200)
    first, second = two_models.init_layers(jax.random.key(0), sizes, activation)
    kernel = np.asarray(first["kernel"], np.float64)
    # The standard error of a variance of n normal numbers is sqrt(2 / n) of it.
    error = np.sqrt(2 / kernel.size)
    np.testing.assert_allclose(kernel.var(), variance, rtol=5 * error)
    assert abs(kernel.mean()) < 5 * np.sqrt(variance / kernel.size)
    correlation = np.corrcoef(kernel[:200].ravel(), second["kernel"].ravel())[0, 1]
    assert abs(correlation) < 0.03


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("axes", [(), (6,), (2, 3)])
def test_apply_layers_is_a_feed_forward_network(activation, axes):
    layers = random_layers(SETTING.sizes_b, 0)
    x = np.random.default_rng(0).normal(size=(*axes, PIXELS))
    got = two_models.apply_layers(layers, jnp.asarray(x, jnp.float32), activation)
    assert got.shape == (*axes, CLASSES)
    assert_close(got, forward(double(layers), x, activation)[-1])


def test_every_activation_is_tested():
    assert sorted(two_models.ACTIVATIONS) == sorted(ACTIVATIONS)


def test_standardize_is_by_the_training_set():
    data = make_data()
    got = two_models.standardize(data.train.images, data)
    assert got.dtype == jnp.float32
    assert abs(double(got).mean()) < 1e-6
    assert double(got).std() == pytest.approx(1, rel=1e-6)
    assert_close(got, pixels(data.train.images))
    assert_close(two_models.standardize(data.test.images, data), pixels(data.test[0]))


def test_accuracy_counts_the_correct():
    data, layers = make_data(), random_layers(SETTING.sizes_a, 5)
    got = float(two_models.accuracy(layers, data.test, data, "tanh"))
    logits = forward(double(layers), pixels(data.test.images), "tanh")[-1]
    correct = [int(z.argmax() == y) for z, y in zip(logits, data.test[1], strict=True)]
    assert 0 < sum(correct) < len(correct)
    assert got == pytest.approx(sum(correct) / len(correct))


# The pool.


def static_a(pool, share):
    """A's layers for a fixed sharing, written out."""
    own, shared = pool["a"], pool["shared"]
    return [
        shared[0] if share[0] else own[0],
        shared[1] if share[1] else own[1],
        shared[2] if share[2] else own[2],
    ]


def static_b(pool, share):
    """B's layers: two hidden ones like A's, one of its own, the classifier."""
    own, shared = pool["b"], pool["shared"]
    return [
        shared[0] if share[0] else own[0],
        shared[1] if share[1] else own[1],
        own[2],
        shared[2] if share[2] else own[3],
    ]


@pytest.mark.parametrize("share", SHARES)
def test_pool_holds_both_models(share):
    pool, data = random_pool(), make_data()
    x = two_models.standardize(data.test.images, data)
    flags = jnp.array(share)
    for layers, static in (
        (two_models.layers_of_a(pool, flags), static_a),
        (two_models.layers_of_b(pool, flags), static_b),
    ):
        expected = static(pool, share)
        assert same(layers, expected)
        logits = forward(double(expected), pixels(data.test.images), "tanh")[-1]
        assert_close(two_models.apply_layers(layers, x, "tanh"), logits)


def test_classifier_of_a_is_the_last_layer_of_b_where_all_is_shared():
    pool = random_pool()
    all_shared = two_models.share_first(3, 3)
    last_a = two_models.layers_of_a(pool, all_shared)[-1]
    last_b = two_models.layers_of_b(pool, all_shared)[-1]
    assert same(last_a, last_b)
    assert same(last_a, pool["shared"][-1])
    hidden_shared = two_models.share_first(2, 3)
    assert same(two_models.layers_of_a(pool, hidden_shared)[-1], pool["a"][-1])
    assert same(two_models.layers_of_b(pool, hidden_shared)[-1], pool["b"][-1])


def test_models_of_equal_depth_share_what_both_have():
    pool = {
        "shared": random_layers(SETTING.sizes_a, 0),
        "a": random_layers(SETTING.sizes_a, 1),
        "b": random_layers(SETTING.sizes_a, 2),
    }
    got = two_models.layers_of_b(pool, jnp.array([True, False, True]))
    assert same(got, [pool["shared"][0], pool["b"][1], pool["shared"][2]])


@pytest.mark.parametrize("count", range(4))
def test_share_first(count):
    got = two_models.share_first(count, 3)
    np.testing.assert_array_equal(got, [True] * count + [False] * (3 - count))


@pytest.mark.parametrize("share", SHARES)
def test_protection_mask_is_one_on_the_shared_layers(share):
    pool = random_pool()
    mask = two_models.protection_mask(pool, jnp.array(share))
    whole = jax.tree.map(lambda m, p: np.broadcast_to(m, p.shape), mask, pool)
    for flag, layer in zip(share, whole["shared"], strict=True):
        assert all(np.all(leaf == flag) for leaf in jax.tree.leaves(layer))
    for leaf in jax.tree.leaves([whole["a"], whole["b"]]):
        assert np.all(leaf == 0)


def test_pool_starts_from_a_as_trained():
    layers_a = random_layers(SETTING.sizes_a, 0)
    pool = two_models.init_pool(jax.random.key(1), layers_a, SETTING)
    assert same(pool["shared"], layers_a)
    assert same(pool["a"], layers_a)
    shapes = [layer["kernel"].shape for layer in pool["b"]]
    assert shapes == list(itertools.pairwise(SETTING.sizes_b))
    other = two_models.init_pool(jax.random.key(2), layers_a, SETTING)
    assert not same(pool["b"], other["b"])


# Training B.


@functools.cache
def jitted_train_b(step):
    """The function compiled; a list of its tracings, one of the pools it goes through.

    B's training returns no parameters. They are seen where A's layers are looked up,
    which is when both models are evaluated: before the first step, after each step,
    and twice at the end.
    """
    traces, pools = [], []
    layers_of_a = two_models.layers_of_a

    def keep(params):
        pools.append(jax.tree.map(np.array, params))

    def watch(params, share):
        jax.debug.callback(keep, params, ordered=True)
        return layers_of_a(params, share)

    def train_b(key, layers_a, fisher, share, alpha, data):
        traces.append(step)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(two_models, "layers_of_a", watch)
            return two_models.train_b(
                key, layers_a, fisher, share, alpha, data, SETTING, step
            )

    return jax.jit(train_b), traces, pools


def train_b(step, share, alpha, seed=0):
    """Curves of B's training, and the pool before the first and after each step."""
    function, _, pools = jitted_train_b(step)
    pools.clear()
    curves = function(
        jax.random.key(seed),
        random_layers(SETTING.sizes_a, 10 + seed),
        random_fisher(),
        jnp.array(share),
        jnp.float32(alpha),
        make_data(),
    )
    jax.effects_barrier()
    assert len(pools) == 1 + SETTING.steps_b + 2
    return curves, pools[:-2]


def numpy_train_b(step, share, alpha, seed=0):
    """Curves and parameters of B's training, in float64."""
    data = make_data()
    layers_a = random_layers(SETTING.sizes_a, 10 + seed)
    key_init, key_batches = jax.random.split(jax.random.key(seed))
    pool = double(two_models.init_pool(key_init, layers_a, SETTING))
    anchor, fisher = double(layers_a), double(random_fisher())
    valid = pixels(data.valid.images), np.asarray(data.valid.labels)
    test = pixels(data.test.images), np.asarray(data.test.labels)
    watched = tuple(x[: SETTING.eval_examples] for x in valid)

    def both(examples):
        return [accuracy(f(pool, share), *examples) for f in (static_a, static_b)]

    def penalty():
        return sum(
            alpha / 2 * np.sum(f[name] * (p[name] - a[name]) ** 2)
            for p, a, f, s in zip(pool["shared"], anchor, fisher, share, strict=True)
            for name in p
            if s
        )

    curves = {"valid": [both(watched)], "penalty": [penalty()], "pools": []}
    where = [("shared", i) if s else ("b", i) for i, s in enumerate(share[:2])]
    where += [("b", 2), ("shared", 2) if share[2] else ("b", 3)]
    for index in range(SETTING.steps_b):
        rate = RATE_B * DECAY_B**index
        curves["pools"].append(jax.tree.map(np.copy, pool))
        x, labels = batch(key_batches, index, data)
        slopes = gradient(static_b(pool, share), x, labels, "tanh")
        for (group, i), slope in zip(where, slopes, strict=True):
            layer = pool[group][i]
            for name in layer:
                theta = layer[name]
                g = slope[name] + WEIGHT_DECAY_B * theta
                if group == "shared":
                    stiff, home = alpha * fisher[i][name], anchor[i][name]
                else:
                    stiff, home = 0.0, theta
                if step == "explicit":
                    layer[name] = theta - rate * (g + stiff * (theta - home))
                else:
                    moved, pull = theta - rate * g, rate * stiff
                    layer[name] = (moved + pull * home) / (1 + pull)
        curves["valid"].append(both(watched))
        curves["penalty"].append(penalty())
    curves["pools"].append(pool)
    curves["final"] = both(valid), both(test)
    curves["start"] = accuracy(anchor, *valid), accuracy(anchor, *test)
    shared = [f for f, s in zip(fisher, share, strict=True) if s]
    flat = np.concatenate([np.zeros(0), *(x.ravel() for x in jax.tree.leaves(shared))])
    with np.errstate(invalid="ignore"):  # Nothing may be shared.
        curves["spread"] = flat.sum() ** 2 / (flat.size * np.sum(flat**2))
    return curves


CASES = [
    *((share, 0.7, 0) for share in SHARES),
    ((True, True, False), 0.0, 0),
    ((True, True, False), 3.0, 1),
    ((True, True, True), 0.05, 2),
]


def assert_unused_layers_stay(pools, share):
    """From step to step A's own layers and all that B does not use are untouched."""
    idle = {
        "a": [True, True, True],
        "shared": [not flag for flag in share],
        "b": [share[0], share[1], False, share[2]],
    }
    for before, after in itertools.pairwise(pools):
        for group, stays in idle.items():
            for i, expected in enumerate(stays):
                assert same(after[group][i], before[group][i]) == expected


# One test, so that the function is compiled once, in one process.
@pytest.mark.slow_except("proximal")
@pytest.mark.parametrize("step", sorted(STEPS))
def test_train_b_is_sgd_with_the_penalty(step):
    forgot = []
    for share, alpha, seed in CASES:
        got, pools = train_b(step, share, alpha, seed)
        expected = numpy_train_b(step, share, alpha, seed)
        assert_close(pools, expected["pools"])
        assert_unused_layers_stay(pools, share)
        valid = np.array(expected["valid"])
        assert_close(got.valid_a, valid[:, 0])
        assert_close(got.valid_b, valid[:, 1])
        penalty = np.array(expected["penalty"])
        assert_close(got.penalty_value, penalty, rtol=1e-4, atol=1e-7)
        assert penalty[0] == 0
        assert (penalty[1:] > 0).all() == (alpha > 0 and any(share))
        assert_close(got.final_valid, np.array(expected["final"][0]))
        assert_close(got.final_test, np.array(expected["final"][1]))
        assert_close([got.start_valid, got.start_test], list(expected["start"]))
        assert_close(got.fisher_spread, expected["spread"])
        assert got.finite
        forgot.append(np.ptp(valid[:, 0]) > 0)
    assert any(forgot)  # Else A's curves would be right whatever B does.
    _, traces, _ = jitted_train_b(step)
    assert traces == [step]  # One compilation serves every sharing and alpha.


def test_diverging_b_is_reported():
    # Each explicit step multiplies the distance from the anchor by 1e11 or more.
    share = (True, True, False)
    assert not train_b("explicit", share, 1e12)[0].finite
    assert train_b("proximal", share, 1e12)[0].finite


@pytest.mark.slow
def test_seeds_at_once_equal_seeds_one_by_one():
    seeds = (0, 1, 2)
    share, alpha = (True, True, False), 0.7
    layers = [random_layers(SETTING.sizes_a, 10 + seed) for seed in seeds]
    # Looking less often does not change the training either.
    setting = SETTING._replace(eval_every=3)
    over_seeds = jax.vmap(
        functools.partial(two_models.train_b, setting=setting, step="proximal"),
        (0, 0, None, None, None, None),
    )
    got = jax.jit(over_seeds)(
        jax.vmap(jax.random.key)(jnp.array(seeds)),
        jax.tree.map(lambda *x: jnp.stack(x), *layers),
        random_fisher(),
        jnp.array(share),
        jnp.float32(alpha),
        make_data(),
    )
    singles = [train_b("proximal", share, alpha, seed)[0] for seed in seeds]
    assert not same(singles[0].penalty_value, singles[1].penalty_value)
    for i, single in enumerate(singles):
        seldom = single._replace(
            valid_a=single.valid_a[::3],
            valid_b=single.valid_b[::3],
            penalty_value=single.penalty_value[::3],
        )
        assert_close(jax.tree.map(lambda x, i=i: x[i], got), seldom, 1e-5, 1e-7)


# Training A.


def numpy_train_a(seed, stops):
    """A after every stop's steps, and those steps: a loop that looks at each step."""
    data = make_data()
    key_init, key_batches = jax.random.split(jax.random.key(seed))
    layers = double(two_models.init_layers(key_init, SETTING.sizes_a, "tanh"))
    probe = (
        pixels(data.valid.images)[: SETTING.stop_examples],
        np.asarray(data.valid.labels)[: SETTING.stop_examples],
    )
    snapshots, accuracies = [layers], [accuracy(layers, *probe)]
    for step in range(SETTING.steps_a):
        slopes = gradient(layers, *batch(key_batches, step, data), "tanh")
        layers = jax.tree.map(lambda p, g: p - RATE_A * g, layers, slopes)
        snapshots.append(layers)
        accuracies.append(accuracy(layers, *probe))
    reached = [
        next((i for i, a in enumerate(accuracies) if a >= stop), SETTING.steps_a)
        for stop in stops
    ]
    steps = [*reached, SETTING.steps_a]
    return [snapshots[i] for i in steps], steps, accuracies


@pytest.mark.slow
def test_train_a_stops_at_the_first_step_that_is_accurate_enough():
    # Accuracies that 16 examples can have, one between two, one beyond all.
    stops = [0.0625, 0.4375, 0.53, 0.75, 1.1]
    train_a = jax.jit(
        jax.vmap(two_models.train_a, (0, None, None, None)), static_argnums=3
    )
    seeds = (0, 1, 2)
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    layers, steps = train_a(keys, jnp.array(stops), make_data(), SETTING)
    distinct = set()
    for i, seed in enumerate(seeds):
        expected, expected_steps, accuracies = numpy_train_a(seed, stops)
        assert steps[i].tolist() == expected_steps
        for j, want in enumerate(expected):
            assert_close(jax.tree.map(lambda x, i=i, j=j: x[i, j], layers), want, 1e-3)
        distinct |= set(expected_steps)
        assert max(accuracies) >= 0.75
    assert steps[:, -1].tolist() == [SETTING.steps_a] * 3
    assert {0, SETTING.steps_a} < distinct
    assert len(distinct) > 5  # Else stopping anywhere would pass.


# The Fisher of A.


def example_gradients(layers, labels=None):
    """One gradient for each image the Fisher is estimated on."""
    data = make_data()
    x = pixels(data.fisher.images)
    labels = np.asarray(data.fisher.labels) if labels is None else labels
    return [
        gradient(double(layers), x[i : i + 1], labels[i : i + 1], "tanh")
        for i in range(len(x))
    ]


def mean_of(trees):
    return jax.tree.map(lambda *x: np.mean(x, 0), *trees)


def squares(tree):
    return jax.tree.map(np.square, tree)


@functools.cache
def jitted_fisher(penalty):
    bound = functools.partial(
        fisher_of_a, activation="tanh", protection=protection_of(penalty, "none")
    )
    return jax.jit(bound)


def fisher_of(penalty, layers, share=(True, True, True)):
    key = jax.random.key(0)
    return jitted_fisher(penalty)(key, layers, jnp.array(share), make_data())


def test_fisher_of_l2_is_one():
    layers = random_layers(SETTING.sizes_a, 0)
    assert same(fisher_of("l2", layers), jax.tree.map(jnp.ones_like, layers))


def test_fisher_of_wpl_is_the_mean_square_gradient():
    layers = random_layers(SETTING.sizes_a, 0)
    expected = mean_of([squares(g) for g in example_gradients(layers)])
    assert_close(fisher_of("wpl", layers), expected, 1e-4, 1e-8)


def test_fisher_of_batch_wpl_is_the_square_of_the_mean_gradient():
    layers = random_layers(SETTING.sizes_a, 0)
    expected = squares(mean_of(example_gradients(layers)))
    assert_close(fisher_of("wpl_batch", layers), expected, 1e-3, 1e-8)


def test_fisher_of_ewc_expects_over_labels_from_the_model():
    layers, data = random_layers(SETTING.sizes_a, 0), make_data()
    x = pixels(data.fisher.images)
    chances = softmax(forward(double(layers), x, "tanh")[-1])
    by_class = [
        [squares(g) for g in example_gradients(layers, np.full(len(x), c))]
        for c in range(CLASSES)
    ]
    weighted = [
        jax.tree.map(lambda g, p=chances[i, c]: CLASSES * p * g, by_class[c][i])
        for c in range(CLASSES)
        for i in range(len(x))
    ]
    expected = mean_of(weighted)
    n = 2000
    keys = jax.random.split(jax.random.key(0), n)
    over_keys = jax.jit(jax.vmap(jitted_fisher("ewc"), (0, None, None, None)))
    draws = over_keys(keys, layers, jnp.array([True, True, True]), data)
    empirical = fisher_of("wpl", layers)
    distances = []
    for drawn, want, other in zip(
        *map(jax.tree.leaves, (draws, expected, empirical)), strict=True
    ):
        drawn = np.asarray(drawn, np.float64)
        error = drawn.std(0) / np.sqrt(n) + 1e-9
        assert np.max(np.abs(drawn.mean(0) - want) / error) < 5
        distances.append(np.max(np.abs(other - want) / error))
    assert max(distances) > 50  # The empirical Fisher is another number.


@dataclasses.dataclass(frozen=True)
class Known:
    """Estimates the same Fisher of every model."""

    def estimate(self, trained, task, data, key, axis=NO_AXIS):
        return random_fisher()


@functools.cache
def jitted_normalized(normalize):
    protection = dataclasses.replace(protection_of("wpl", normalize), estimator=Known())
    bound = functools.partial(fisher_of_a, activation="tanh", protection=protection)
    layers = random_layers(SETTING.sizes_a, 0)
    return jax.jit(lambda share: bound(jax.random.key(0), layers, share, make_data()))


@pytest.mark.parametrize("share", SHARES)
def test_normalized_fisher_has_mean_one_on_the_shared_layers(share):
    got = {
        name: jitted_normalized(name)(jnp.array(share))
        for name in ("none", "tensor", "tree")
    }
    exact = double(random_fisher())
    shared = [layer for layer, flag in zip(exact, share, strict=True) if flag]
    entries = np.concatenate([x.ravel() for x in jax.tree.leaves(shared)] or [[1.0]])
    for i, flag in enumerate(share):
        raw = jax.tree.map(lambda f, flag=flag: flag * f, exact[i])
        assert_close(got["none"][i], raw)
        assert_close(got["tree"][i], jax.tree.map(lambda f: f / entries.mean(), raw))
        per_tensor = jax.tree.map(lambda f: f / max(f.mean(), 1e-30), raw)
        assert_close(got["tensor"][i], per_tensor)


def test_every_penalty_and_step_is_tested():
    # Those of the corners are tested with a whole run.
    assert set(PENALTIES) == {"none", "frozen", "l2", "ewc", "wpl", "wpl_batch"}
    assert set(STEPS) == {"explicit", "proximal"}
