"""A task in a few lines: what it does is what its parts do step by step."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from helpers.compiling import compilations
from helpers.raising import assert_says

import wpl_jax
from wpl_jax.common.trees import without_keys
from wpl_jax.curvature.captured import Same, captured

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(12, 3)), jnp.float32)
Y = jnp.asarray(RNG.integers(4, size=12))
PARAMS = {"w": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32), "b": jnp.zeros(4)}
ALPHA, RATE = 3.0, 0.1


def logits(params, x):
    return x @ params["w"] + params["b"]


def loss(params, example):
    x, y = example
    return -jax.nn.log_softmax(logits(params, x))[y]


def assert_close(got, want, rtol=1e-5):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol, 1e-7)


def gradient(params):
    return jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, (X, Y))))(params)


# The optimizer.


def by_hand(step, optimizer, alpha):
    if step == "explicit":
        return optax.chain(wpl_jax.weight_plasticity(alpha), optimizer)
    return optax.chain(optimizer, wpl_jax.proximal_weight_plasticity(alpha, RATE))


def run(tx, state, steps=3):
    """Parameters after some steps away from the anchor."""
    params = jax.tree.map(lambda p: p + 0.5, PARAMS)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params


def consolidated(tx):
    fisher = jax.tree.map(lambda p: jnp.full_like(p, 2.0), PARAMS)
    return wpl_jax.consolidate(tx.init(PARAMS), PARAMS, fisher)


@pytest.mark.parametrize("step", ["explicit", "proximal"])
def test_it_is_the_chain_that_one_would_write(step):
    tx = wpl_jax.with_plasticity(
        optax.sgd, alpha=ALPHA, learning_rate=RATE, step=step, momentum=0.9
    )
    want = by_hand(step, optax.sgd(RATE, momentum=0.9), ALPHA)
    assert_close(run(tx, consolidated(tx)), run(want, consolidated(want)))


def test_alpha_of_a_state_can_be_set_and_mapped_over():
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=ALPHA, learning_rate=RATE)
    state = consolidated(tx)
    alphas = jnp.array([0.0, 1.0, 50.0])
    found = jax.jit(jax.vmap(lambda alpha: run(tx, wpl_jax.set_alpha(state, alpha))))(
        alphas
    )
    for i, alpha in enumerate(alphas):
        tx = by_hand("proximal", optax.sgd(RATE), float(alpha))
        want = run(tx, consolidated(tx))
        assert_close(jax.tree.map(lambda x, i=i: x[i], found), want)


@pytest.mark.parametrize("step", ["explicit", "proximal"])
def test_alpha_set_in_a_running_loop_compiles_nothing(step, caplog):
    tx = wpl_jax.with_plasticity(optax.adam, alpha=ALPHA, learning_rate=RATE, step=step)
    traces = []

    @jax.jit
    def update(params, state):
        traces.append(1)
        updates, state = tx.update(PARAMS, state, params)  # any gradients
        return optax.apply_updates(params, updates), state

    def loop(params, state, alphas):
        for alpha in alphas:
            state = wpl_jax.set_alpha(state, alpha)
            params, state = update(params, state)
        return params, state

    params, state = update(PARAMS, consolidated(tx))
    params, state = loop(params, state, [1.0])
    reached = []
    call = lambda: reached.extend(loop(params, state, [0.0, 20.0, 300.0]))  # noqa: E731
    assert not compilations(caplog, call)
    assert len(traces) == 1
    assert optax.tree.get(reached[1], "alpha") == 300.0


def test_alpha_of_an_nnx_optimizer_is_set_in_place(caplog):
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    tx = wpl_jax.with_plasticity(optax.adam, alpha=ALPHA, learning_rate=RATE)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    one = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    optimizer.opt_state = wpl_jax.consolidate(
        optimizer.opt_state, nnx.state(model, nnx.Param), one
    )

    @nnx.jit
    def update(model, optimizer):
        optimizer.update(model, nnx.grad(lambda m: jnp.sum(m(X) ** 2))(model))

    def loop(alphas):
        for alpha in alphas:
            wpl_jax.set_alpha(optimizer.opt_state, alpha)
            update(model, optimizer)

    before = jax.tree.structure(nnx.state(optimizer))
    loop([1.0, 2.0])
    assert not compilations(caplog, lambda: loop([0.0, 20.0, 300.0]))
    # The same state for a checkpoint, with another number in it.
    assert jax.tree.structure(nnx.state(optimizer)) == before
    found = nnx.state(optimizer)["opt_state"]["hyperparams"]["alpha"][...]
    assert found == 300.0
    assert found.dtype == jnp.float32


def test_setting_alpha_leaves_parameters_of_that_name_alone():
    params = {"alpha": jnp.arange(2.0), "block": {"alpha": {"w": jnp.ones(3)}}}
    tx = optax.MultiSteps(
        wpl_jax.with_plasticity(optax.adam, alpha=1, learning_rate=1), 2
    )
    state = wpl_jax.consolidate(tx.init(params), params, params)
    found = wpl_jax.set_alpha(state, 0.5)
    assert optax.tree.get(found, "hyperparams")["alpha"] == 0.5
    (was,), (now,) = map(wpl_jax.plasticity_states, (state, found))
    assert_close(now.anchor, was.anchor)
    assert_close(now.fisher, was.fisher)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    # An integer has become a float, so nothing compiles again.
    assert jax.tree.map(jnp.result_type, found) == jax.tree.map(jnp.result_type, state)


def test_an_integer_alpha_of_an_nnx_optimizer_takes_fractions():
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=0, learning_rate=1)
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    assert wpl_jax.set_alpha(optimizer.opt_state, 0.5) is not None
    hyperparams = optimizer.opt_state.hyperparams
    assert hyperparams["alpha"][...] == 0.5
    assert hyperparams["learning_rate"].dtype == jnp.float32


def test_alpha_that_cannot_be_set_is_named():
    scheduled = wpl_jax.with_plasticity(
        optax.sgd, alpha=lambda count: 1.0, learning_rate=0.1
    )
    plain = optax.chain(optax.sgd(0.1), wpl_jax.proximal_weight_plasticity(1.0, 0.1))
    other = optax.inject_hyperparams(lambda alpha: optax.scale(alpha))(alpha=2.0)
    for tx, words in (
        (scheduled, ["follows a schedule"]),
        (plain, ["no alpha that can be set", "with_plasticity"]),
        (other, ["no alpha that can be set"]),
    ):
        state = tx.init(PARAMS)
        assert_says(lambda state=state: wpl_jax.set_alpha(state, 1.0), words)
    state = wpl_jax.with_plasticity(optax.sgd, alpha=1.0, learning_rate=0.1)
    state = state.init(PARAMS)
    for wrong in (-1.0, np.nan, "1", jnp.float32(-1)):
        call = functools.partial(wpl_jax.set_alpha, state, wrong)
        assert_says(call, ["alpha"])


def test_schedules_are_those_of_both():
    schedule = lambda count: 0.1 / (1 + count)  # noqa: E731
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=ALPHA, learning_rate=schedule)
    want = optax.chain(
        optax.sgd(schedule), wpl_jax.proximal_weight_plasticity(ALPHA, schedule)
    )
    assert_close(run(tx, consolidated(tx)), run(want, consolidated(want)))


def test_masks_reach_the_penalty():
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=ALPHA, learning_rate=RATE)
    state = consolidated(tx)
    moved = jax.tree.map(lambda p: p + 1, PARAMS)
    zero = jax.tree.map(jnp.zeros_like, moved)
    mask = {"w": jnp.zeros(()), "b": jnp.ones(())}
    updates, _ = tx.update(zero, state, moved, mask=mask)
    assert not np.any(updates["w"])
    np.testing.assert_allclose(updates["b"], -0.6 / 1.6, rtol=1e-5)


# Remembering.


def fisher_by_hand(normalize=True):
    fisher = wpl_jax.per_example_fisher(loss, PARAMS, (X, Y))
    return wpl_jax.normalize(fisher) if normalize else fisher


def test_a_pair_of_parameters_and_state():
    tx = wpl_jax.with_plasticity(optax.adam, alpha=ALPHA, learning_rate=RATE)
    params, opt_state = wpl_jax.remember((PARAMS, tx.init(PARAMS)), loss, (X, Y))
    assert params is PARAMS
    (state,) = wpl_jax.plasticity_states(opt_state)
    assert_close(state.fisher, fisher_by_hand())
    assert_close(state.anchor, PARAMS)


def test_data_may_be_batches():
    tx = wpl_jax.weight_plasticity(1.0)
    batches = ((X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8))
    _, state = wpl_jax.remember(
        (PARAMS, tx.init(PARAMS)), loss, batches, normalize=None
    )
    assert_close(state.fisher, fisher_by_hand(normalize=False))


def test_tasks_in_a_row_are_remembered_in_one_program():
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=ALPHA, learning_rate=RATE)

    def two_tasks(shift):
        state = PARAMS, tx.init(PARAMS)
        for moved in (0.0, shift):
            params = jax.tree.map(lambda p, moved=moved: p + moved, PARAMS)
            state = wpl_jax.remember((params, state[1]), loss, (X, Y))
        return wpl_jax.plasticity_states(state[1])[0]

    shifts = jnp.array([0.5, 2.0])
    found = jax.jit(jax.vmap(two_tasks))(shifts)
    for i, shift in enumerate(shifts):
        assert_close(jax.tree.map(lambda x, i=i: x[i], found), two_tasks(shift))


def test_a_second_call_compiles_nothing_and_reads_the_new_weights(caplog):
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=ALPHA, learning_rate=RATE)
    moved = jax.tree.map(lambda p: p + 1, PARAMS)
    found = {}

    def call(params, chunk_size=5):
        _, opt_state = wpl_jax.remember(
            (params, tx.init(params)), loss, (X, Y), chunk_size=chunk_size
        )
        (found["state"],) = wpl_jax.plasticity_states(opt_state)

    assert compilations(caplog, lambda: call(PARAMS))
    assert not compilations(caplog, lambda: call(moved))
    want = wpl_jax.normalize(wpl_jax.per_example_fisher(loss, moved, (X, Y)))
    assert_close(found["state"].fisher, want)
    # Other settings are another program, and bring their errors.
    assert compilations(caplog, lambda: call(PARAMS, chunk_size=4))
    assert_says(lambda: call(PARAMS, chunk_size=0), ["chunk_size", "0"])


def test_a_model_of_nnx_compiles_once_and_reads_its_new_statistics(caplog):
    model = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    tx = wpl_jax.weight_plasticity(1.0)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    def of_example(model, x):
        return jnp.sum(model(x) ** 2) / 2  # at scale 1 and bias 0

    def call():
        wpl_jax.remember((model, optimizer), of_example, X, normalize=None)

    assert compilations(caplog, call)
    model.mean[...] = jnp.full(3, 0.5, jnp.float32)
    assert not compilations(caplog, call)
    (found,) = wpl_jax.plasticity_states(optimizer.opt_state)
    normal = (np.asarray(X) - 0.5) / np.sqrt(1 + model.epsilon)
    want = {"bias": np.mean(normal**2, 0), "scale": np.mean(normal**4, 0)}
    for name, fisher in want.items():
        np.testing.assert_allclose(found.fisher[name][...], fisher, rtol=1e-5)


@pytest.mark.slow
def test_estimators_and_rules_are_those_of_the_library():
    tx = wpl_jax.weight_plasticity(1.0)
    state = PARAMS, tx.init(PARAMS)
    options = {"estimator": wpl_jax.exact_fisher, "chunk_size": 5}
    for _ in range(2):
        state = wpl_jax.remember(state, logits, X, rule=wpl_jax.accumulate, **options)
    want = wpl_jax.normalize(wpl_jax.exact_fisher(logits, PARAMS, X))
    assert_close(state[1].fisher, jax.tree.map(lambda f: 2 * f, want))
    padded = X.at[6:].set(9.0)
    _, state = wpl_jax.remember(
        (PARAMS, tx.init(PARAMS)),
        logits,
        padded,
        weights=lambda batch: jnp.arange(12) < 6,
        key=jax.random.key(0),
        samples=300,
        estimator=wpl_jax.exact_fisher,
    )
    want = wpl_jax.normalize(wpl_jax.exact_fisher(logits, PARAMS, X[:6]))
    assert_close(state.fisher, want, rtol=0.3)


def test_a_train_state_of_linen():
    model = nn.Dense(4)
    params = model.init(jax.random.key(0), X[0])
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=ALPHA, learning_rate=RATE)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    def of_example(params, example):
        return -jax.nn.log_softmax(model.apply(params, example[0]))[example[1]]

    after = wpl_jax.remember(state, of_example, (X, Y))
    (found,) = wpl_jax.plasticity_states(after.opt_state)
    want = wpl_jax.normalize(wpl_jax.per_example_fisher(of_example, params, (X, Y)))
    assert_close(found.fisher, want)
    assert after.step == state.step
    assert after.params is state.params


class Noisy(nnx.Module):
    """Batch statistics and dropout: in training mode the loss is another."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(5, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.tanh(self.norm(self.first(x)))))


@pytest.mark.slow
def test_a_model_of_nnx_in_evaluation_mode():
    model = Noisy()
    model.norm.mean[...] = jnp.full(5, 0.3)
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=ALPHA, learning_rate=RATE)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = jax.tree.map(jnp.copy, nnx.state(model))

    def of_example(model, example):
        return -jax.nn.log_softmax(model(example[0]))[example[1]]

    pair = wpl_jax.remember((model, optimizer), of_example, (X, Y), normalize=None)
    assert pair[0] is model
    assert pair[1] is optimizer
    # The model stays as it was: its mode, its counts, its statistics.
    assert not model.dropout.deterministic
    assert_close(without_keys(nnx.state(model)), without_keys(before))
    (found,) = wpl_jax.plasticity_states(optimizer.opt_state)
    model.eval()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def by_hand(params, example):
        return of_example(nnx.merge(graph, params, rest, copy=True), example)

    each = jax.vmap(jax.grad(by_hand), (None, 0))(params, (X, Y))
    want = jax.tree.leaves(jax.tree.map(lambda g: jnp.mean(g**2, 0), each))
    for got, expected in zip(jax.tree.leaves(found.fisher), want, strict=True):
        np.testing.assert_allclose(got, expected, 1e-4, 1e-7)


# The choice of alpha.

ACCURACIES = {0.1: (0.5, 0.9), 1.0: (0.86, 0.7), 10.0: (0.87, 0.8), 100.0: (0.9, 0.2)}


# Grids that end where the rule is tried.
ANY_END = pytest.mark.filterwarnings("ignore:.*(alpha was chosen|No alpha):UserWarning")


@pytest.mark.parametrize(
    ("keep", "alpha", "within"),
    [(0.0, 0.1, True), (0.95, 10.0, True), (0.99, 100.0, True), (1.0, 100.0, True)],
)
@ANY_END
def test_alpha_keeps_enough_at_the_least_cost(keep, alpha, within):
    found = wpl_jax.calibrate(ACCURACIES.get, 0.9, keep=keep, alphas=list(ACCURACIES))
    assert found.alpha == alpha
    assert found.within is within
    np.testing.assert_allclose(found.old, [0.5, 0.86, 0.87, 0.9])
    np.testing.assert_allclose(found.new, [0.9, 0.7, 0.8, 0.2])


@ANY_END
def test_where_no_alpha_keeps_enough_it_is_the_one_that_keeps_most():
    found = wpl_jax.calibrate(ACCURACIES.get, 0.95, keep=1.0, alphas=[0.1, 10.0, 1.0])
    assert (found.alpha, found.within) == (10.0, False)


@ANY_END
def test_seeds_are_averaged_and_what_diverged_is_not_chosen():
    of_seeds = {
        1.0: (jnp.array([0.8, 1.0]), np.array([0.5, 0.7])),
        2.0: (np.array([0.9, 0.9]), np.array([0.5, np.nan])),
    }
    found = wpl_jax.calibrate(of_seeds.get, [0.8, 1.0], keep=1.0, alphas=[1.0, 2.0])
    assert found.alpha == 1.0
    np.testing.assert_allclose(found.new, [0.6, np.nan])
    # With the only one that keeps enough, the new task diverged.
    diverged = {1.0: (0.1, 0.5), 2.0: (0.2, 0.6), 3.0: (0.9, np.nan)}
    found = wpl_jax.calibrate(diverged.get, 0.9, alphas=list(diverged))
    assert not found.within
    # Nothing keeps enough, and what keeps most has not learned the new task.
    diverged = {0.1: (0.5, 0.9), 1.0: (0.8, np.nan), 10.0: (0.79, 0.6)}
    found = wpl_jax.calibrate(diverged.get, 0.9, alphas=list(diverged))
    assert (found.alpha, found.within) == (10.0, False)


def brute_force(values, before, keep, lower):
    """The rule word by word: what is kept, then what is learned."""
    better = (lambda a, b: a < b) if lower else (lambda a, b: a > b)
    fits = {}
    for alpha, (old, new) in values.items():
        limit = before / keep if lower else before * keep
        if old == limit or better(old, limit):
            fits[alpha] = new
    best = None
    of = fits or {alpha: old for alpha, (old, _) in values.items()}
    for alpha, value in of.items():
        if best is None or better(value, of[best]):
            best = alpha
    return best, bool(fits)


@ANY_END
@pytest.mark.parametrize("lower", [False, True])
def test_accuracies_and_losses_are_chosen_from_as_the_rule_says(lower):
    rng = np.random.default_rng(0)
    chosen = set()
    for _ in range(1000):
        alphas = [float(a) for a in 10.0 ** rng.choice(np.arange(-5, 6), 5, False)]
        values = {alpha: tuple(rng.random(2) * 3) for alpha in alphas}
        before, keep = float(rng.uniform(0.5, 3)), float(rng.uniform(0.3, 1))
        found = wpl_jax.calibrate(
            values.get, before, keep=keep, lower=lower, alphas=alphas
        )
        assert found[:2] == brute_force(values, before, keep, lower)
        chosen.add((found.within, alphas.index(found.alpha)))
    assert len(chosen) == 10  # each place, within the limit and not


@ANY_END
def test_perplexities_choose_what_geometric_means_of_probabilities_do():
    rng = np.random.default_rng(1)
    for _ in range(50):
        nats = {float(alpha): rng.random(2) * 3 for alpha in range(1, 6)}
        before, keep = float(rng.random()), float(rng.uniform(0.2, 1))
        shares = {alpha: np.exp(-each) for alpha, each in nats.items()}
        perplexities = {alpha: np.exp(each) for alpha, each in nats.items()}
        choose = functools.partial(wpl_jax.calibrate, keep=keep, alphas=list(nats))
        up = choose(shares.get, np.exp(-before))
        down = choose(perplexities.get, np.exp(before), lower=True)
        assert up[:2] == down[:2]


@ANY_END
def test_a_loss_that_diverged_is_not_chosen():
    losses = {
        1.0: (1.0, np.nan),
        2.0: (1.01, np.inf),
        3.0: (1.02, 5.0),
        4.0: (9.0, 1.0),
    }
    found = wpl_jax.calibrate(losses.get, 1.0, lower=True, alphas=list(losses))
    assert (found.alpha, found.within) == (3.0, True)
    diverged = {1.0: (np.nan, 1.0), 2.0: (np.inf, 1.0), 3.0: (9.0, 1.0)}
    for keep in (0.5, 0.0):
        found = wpl_jax.calibrate(
            diverged.get, 1.0, keep=keep, lower=True, alphas=list(diverged)
        )
        assert (found.alpha, found.within) == (3.0, keep == 0)


def test_it_chooses_for_quadratics_what_algebra_says():
    """Old loss (w - 1)^2, new (w + 1)^2: the penalty of strength a ends at
    w = (a - 2) / (a + 2), where the old accuracy 1 - (1 - w) / 2 is a / (a + 2)."""
    params = {"w": jnp.float32(1.0)}
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=1.0, learning_rate=0.05)
    state = wpl_jax.consolidate(tx.init(params), params, {"w": jnp.float32(1.0)})

    @jax.jit
    def train(alpha):
        def step(carry, _):
            p, state = carry
            slope = jax.tree.map(lambda w: 2 * (w + 1), p)
            updates, state = tx.update(slope, state, p)
            return (optax.apply_updates(p, updates), state), None

        start = params, wpl_jax.set_alpha(state, alpha)
        (p, _), _ = jax.lax.scan(step, start, None, 3000)
        return p["w"]

    def evaluate(alpha):
        w = train(jnp.float32(alpha))
        return (1 + w) / 2, (1 - w) / 2

    found = wpl_jax.calibrate(evaluate, 1.0, keep=0.8, alphas=[1, 4, 7.9, 8.1, 20, 100])
    np.testing.assert_allclose(found.old, found.alphas / (found.alphas + 2), atol=1e-3)
    assert found.alpha == 8.1  # a / (a + 2) >= 0.8 from a = 8 on


# What a loss reads besides its arguments.


_TASK = 0


def _head(params, example):
    return example @ params[("h", "k")[_TASK]]


def _logits_of_head(params, example):
    return _head(params, example)


def fisher_of(state, logits):
    _, found = wpl_jax.remember(
        state, logits, X, estimator=wpl_jax.exact_fisher, normalize=None
    )
    return wpl_jax.plasticity_states(found)[0].fisher


def test_a_loss_that_reads_another_value_is_compiled_again(caplog):
    global _TASK
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=1.0, learning_rate=0.1)
    params = {"h": PARAMS["w"], "k": PARAMS["w"]}
    state, scale = (params, tx.init(params)), 1.0

    def scaled(params, example):
        return scale * (example @ params["h"])

    first = fisher_of(state, _logits_of_head)
    once = fisher_of(state, scaled)
    _TASK, scale = 1, 2.0
    try:
        second = fisher_of(state, _logits_of_head)
        # Of softmax, the logits of twice the weights, and the gradient's factor.
        doubled = {"h": 2 * params["h"], "k": params["k"]}
        twice = fisher_of(state, scaled)
        nothing = compilations(caplog, lambda: fisher_of(state, scaled))
    finally:
        _TASK = 0
    assert not nothing
    for fisher, read, other in ((first, "h", "k"), (second, "k", "h")):
        assert np.any(fisher[read])
        assert not np.any(fisher[other])
    assert_close(second["k"], first["h"])
    scale = 1.0
    expected = fisher_of((doubled, tx.init(doubled)), scaled)
    np.testing.assert_allclose(twice["h"], 4 * expected["h"], rtol=1e-5)
    assert_close(fisher_of(state, scaled), once)


def test_methods_partials_and_inner_functions_are_read():
    class Model:
        head = 0

        def __init__(self, scale):
            self.scale = scale

        def loss(self, params, example):
            return self.scale

    model = Model(1)
    assert captured(model.loss) == captured(model.loss)
    before = captured(model.loss)
    model.scale = 2
    assert captured(model.loss) != before
    array = np.ones(2)
    assert captured(functools.partial(max, array)) == ()
    inner = lambda: [(lambda: _TASK)() for _ in range(2)]  # noqa: E731
    assert Same(_TASK) in captured(inner)
    # 1 is True, and yet another constant in a program.
    assert Same(1) != Same(True)
    assert Same(array) != Same(array.copy())


def test_what_the_library_makes_of_a_function_is_read():
    global _TASK
    of, _ = wpl_jax.trained_only(_head, {"h": X, "k": X}, {"h": True, "k": False})
    made = wpl_jax.sample_class(_head), wpl_jax.reversed_cross_entropy(_head), of
    before = [captured(each) for each in made]
    assert [captured(each) for each in made] == before
    _TASK = 1
    try:
        for each, was in zip(made, before, strict=True):
            assert captured(each) != was
    finally:
        _TASK = 0


def test_a_setting_that_reads_another_value_is_compiled_again():
    global _TASK
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=1.0, learning_rate=0.1)
    params = {"h": PARAMS["w"], "k": 3 * PARAMS["w"]}
    state = params, tx.init(params)
    resample = wpl_jax.sample_class(lambda p, x: _head(p, x))
    log_loss = lambda p, e: -jax.nn.log_softmax(e[0] @ p["h"])[e[1]]  # noqa: E731

    def fisher(resample):
        options = {"resample": resample, "key": jax.random.key(0), "normalize": None}
        _, found = wpl_jax.remember(state, log_loss, (X, Y), **options)
        return wpl_jax.plasticity_states(found)[0].fisher["h"]

    first = fisher(resample)
    _TASK = 1
    try:
        second = fisher(resample)
    finally:
        _TASK = 0
    assert np.any(first != second)
    of_other = wpl_jax.sample_class(lambda p, x: x @ p["k"])
    np.testing.assert_array_equal(second, fisher(of_other))


# Warnings.


def test_a_fisher_of_zeros_is_warned_of():
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=1.0, learning_rate=0.1)
    state = PARAMS, tx.init(PARAMS)
    constant = lambda params, example: jnp.sum(example[0])  # noqa: E731
    with pytest.warns(UserWarning, match="Fisher is 0 everywhere"):
        wpl_jax.remember(state, constant, (X, Y))


@pytest.mark.parametrize(
    ("found", "before", "said"),
    [
        ({0.1: (0.9, 0.8), 1.0: (0.9, 0.7)}, 0.9, "lowest alpha was chosen"),
        ({0.1: (0.1, 0.8), 1.0: (0.9, 0.7)}, 0.9, "highest alpha was chosen"),
        ({0.1: (0.9, 0.8), 1.0: (0.9, 0.7)}, 90.0, "same units"),
        ({0.1: (np.nan, 0.8), 1.0: (np.nan, 0.7)}, 0.9, "has diverged"),
    ],
)
def test_a_choice_at_the_end_of_the_grid_is_warned_of(found, before, said):
    with pytest.warns(UserWarning, match=said):
        wpl_jax.calibrate(found.get, before, alphas=list(found))


def test_a_choice_in_the_middle_or_of_no_penalty_is_not_warned_of():
    for found in (
        {0.1: (0.1, 0.8), 1.0: (0.9, 0.7), 10.0: (0.9, 0.6)},
        {0.0: (0.9, 0.8), 1.0: (0.9, 0.7)},
        {1.0: (0.9, 0.7)},
    ):
        wpl_jax.calibrate(found.get, 0.9, alphas=list(found))


# Errors.


def test_a_note_says_what_a_loss_gets():
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=1.0, learning_rate=0.1)
    state = PARAMS, tx.init(PARAMS)
    of_batch = lambda params, batch: jnp.mean(batch[0][:, 0])  # noqa: E731
    with pytest.raises(IndexError) as raised:
        wpl_jax.remember(state, of_batch, (X, Y))
    notes = "".join(raised.value.__notes__)
    assert "gets one example, here (" in notes
    with pytest.raises(TypeError) as raised:
        wpl_jax.remember(state, loss, [(X, Y), (X, Y)])
    assert "pass iter(data)" in "".join(raised.value.__notes__)


def test_what_does_not_fit_is_named():
    make = wpl_jax.with_plasticity
    for wrong, words in (
        ({"alpha": -1.0, "learning_rate": 0.1}, ["alpha", "-1.0"]),
        ({"alpha": 1.0, "learning_rate": -0.1}, ["learning_rate", "-0.1"]),
        ({"alpha": 1.0, "learning_rate": 0.1, "step": "x"}, ["step", "'x'"]),
    ):
        assert_says(lambda wrong=wrong: make(optax.sgd, **wrong), words)
    tx = optax.sgd(0.1)
    given = {"alpha": 1.0, "learning_rate": 0.1}
    assert_says(lambda: make(tx, **given), ["optimizer must be a function", "sgd"])
    state = PARAMS, tx.init(PARAMS)
    by_name = {"estimator": "exact_fisher"}
    assert_says(
        lambda: wpl_jax.remember(state, loss, (X, Y), **by_name), ["'exact_fisher'"]
    )
    assert_says(lambda: wpl_jax.remember(PARAMS, loss, (X, Y)), ["TrainState", "dict"])
    assert_says(
        lambda: wpl_jax.remember(state, loss, (X, Y)), ["holds no weight_plasticity"]
    )
    assert_says(lambda: wpl_jax.remember(state, loss, 3), ["data must be", "int"])
    keep = lambda keep: wpl_jax.calibrate(None, 1.0, keep=keep)  # noqa: E731
    assert_says(keep, ["keep", "95"], 95)
    assert_says(lambda: wpl_jax.calibrate(None, 1.0, alphas=[]), ["alphas is empty"])
    for alphas in ([1.0, -2.0], [np.nan], ["x"]):
        call = functools.partial(wpl_jax.calibrate, None, 1.0, alphas=alphas)
        assert_says(call, ["Each of alphas", repr(alphas[-1])])
    assert_says(lambda: wpl_jax.calibrate(None, [0.9, np.nan]), ["before", "nan"])
    assert_says(lambda: wpl_jax.calibrate(None, -1.3), ["before", "-1.3", "exp(loss)"])
    losses = functools.partial(wpl_jax.calibrate, None, lower=True)
    assert_says(losses, ["before must be a finite loss above 0", "0.0"], 0.0)
    assert_says(lambda: wpl_jax.calibrate(None, 1.0, lower="yes"), ["lower", "'yes'"])
    for pair in (0.9, (1, 2, 3)):
        call = functools.partial(wpl_jax.calibrate, lambda _, p=pair: p, 1.0)
        assert_says(call, ["evaluate must return a pair"])
    tx = wpl_jax.with_plasticity(optax.sgd, alpha=1.0, learning_rate=0.1)
    state = PARAMS, tx.init(PARAMS)
    for wrong, words in (
        ({"normalize": False}, ["normalize must be 'unit', 'loss' or None", "False"]),
        ({"rule": wpl_jax.online}, ["online itself", "online(0.9)"]),
        ({"weights": np.ones(len(X))}, ["weights must be a function of a batch"]),
        ({"weights": lambda b: jnp.full(len(b[0]), 0.5)}, ["1 for each", "other"]),
    ):
        call = functools.partial(wpl_jax.remember, state, loss, (X, Y), **wrong)
        assert_says(call, words)
