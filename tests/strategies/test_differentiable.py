"""Differentiable strategies on the toy space, against the same written in numpy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import toy
from helpers.parts import make_protection
from helpers.written_search import (
    BATCHES,
    CHILDREN,
    DECAY,
    EVALUATED,
    RATE,
    WEIGHT_DECAY,
    make_search,
    run_epoch,
)

from wpl_jax import penalty
from wpl_jax.common.settings import SettingError
from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.slope import Slope, SlopeOfPass
from wpl_jax.engine.training import Batch, stepped_by
from wpl_jax.errors import UserError
from wpl_jax.strategies.architecture_optimizers import (
    AdamOnConcentrations,
    AdamOnLogits,
    ExponentiatedGradient,
)
from wpl_jax.strategies.differentiable import Differentiable
from wpl_jax.supernet import Architecture, Decision, gather, num_choices

SPACE = toy.ToySpace()
ADAM = AdamOnLogits(0.1, 0.5, 0.999, weight_decay=0.01, scale=0.5)
EXPONENTIATED = ExponentiatedGradient(0.3, floor=1e-5)
EPOCHS = 3
SGD = optax.sgd(0.1)


def strategy_of(**settings):
    settings = {"optimizer": EXPONENTIATED, "temperature": 2.0} | settings
    return Differentiable(SPACE, **settings)


class Written:
    """DARTS and GAEA on the toy task in float64: one step of each in turn."""

    def __init__(self, state, data, strategy):
        params, theta = jax.device_get((state.shared.params, state.strategy.theta))
        self.params = {k: np.asarray(v, np.float64) for k, v in params.items()}
        self.theta = np.asarray(theta, np.float64)
        self.data = [np.asarray(split, np.float64) for split in data]
        self.strategy = strategy
        self.moments, self.count = np.zeros((2, *self.theta.shape)), 0

    def weights(self):
        if self.strategy.optimizer is EXPONENTIATED:
            return self.theta
        raised = np.exp(self.theta)
        return raised / raised.sum(-1, keepdims=True)

    def error(self, batch):
        """Prediction minus the mean example: the gradient in the prediction."""
        p, w = self.params, self.weights()
        y = p["shared"] + 2 * w[0] @ p["a"] + 3 * w[1] @ p["b"]
        return y - batch.mean(0)

    def loss(self, batches):
        totals = []
        for batch in batches:
            y = self.error(batch) + batch.mean(0)
            totals.append(0.5 * np.sum((y - batch) ** 2, -1).mean())
        return np.mean(totals)

    def train_weights(self, batch):
        e = self.error(batch)
        gradient = np.stack([2 * self.params["a"] @ e, 3 * self.params["b"] @ e])
        if self.strategy.optimizer is EXPONENTIATED:
            moved = self.theta * np.exp(-EXPONENTIATED.learning_rate * gradient)
            moved = np.maximum(moved / moved.sum(-1, keepdims=True), 1e-5)
            self.theta = moved / moved.sum(-1, keepdims=True)
            return
        w = self.weights()
        gradient = w * (gradient - np.sum(w * gradient, -1, keepdims=True))
        gradient += ADAM.weight_decay * self.theta
        self.count += 1
        decays = np.array([ADAM.b1, ADAM.b2]).reshape(2, 1, 1)
        new = np.stack([gradient, gradient**2])
        self.moments = decays * self.moments + (1 - decays) * new
        mean, square = self.moments / (1 - decays**self.count)
        self.theta = self.theta - ADAM.learning_rate * mean / (np.sqrt(square) + 1e-8)

    def train_both(self, batch, epoch):
        """From one pass: both gradients are taken before either step."""
        before = self.params
        self.params = {k: v.copy() for k, v in before.items()}
        self.train(batch, epoch)
        after, self.params = self.params, before
        if epoch >= 1:
            self.train_weights(batch)
        self.params = after

    def train(self, batch, epoch):
        e, w = self.error(batch), self.weights()
        gradient = {
            "shared": e,
            "a": 2 * np.outer(w[0], e),
            "b": 3 * np.outer(w[1], e),
        }
        rate = RATE * DECAY ** max(epoch - 1, 0)
        for name, g in gradient.items():
            self.params[name] -= rate * (g + WEIGHT_DECAY * self.params[name])


@pytest.mark.slow_except("optimizer0-valid", "optimizer1-train, one pass")
@pytest.mark.parametrize("split", ["valid", "train", "train, one pass"])
@pytest.mark.parametrize("optimizer", [ADAM, EXPONENTIATED])
def test_epochs_alternate_steps_of_both_weights(optimizer, split):
    split, _, one_pass = split.partition(", ")
    strategy = strategy_of(
        optimizer=optimizer, split=split, warmup=1, shared_pass=bool(one_pass)
    )
    search, data = make_search(strategy=strategy), toy.make_data()
    state = search.init(jax.random.key(1))
    written = Written(state, data, strategy)
    trained_on, of_weights = data.train, getattr(data, split)
    for epoch in range(EPOCHS):
        state = run_epoch(search, state, data, epoch)
        stored = []
        for index in range(CHILDREN):
            for i in range(BATCHES):
                number = (epoch * CHILDREN + index) * BATCHES + i
                batch = np.asarray(trained_on[number % 5], float)
                if one_pass:
                    written.train_both(batch, epoch)
                    continue
                if epoch >= 1:
                    written.train_weights(np.asarray(of_weights[number % 5], float))
                written.train(batch, epoch)
            stored.append(written.weights())
            err1 = written.loss(written.data[1][:EVALUATED])
            found = float(state.epoch.err1.loss[index])
            np.testing.assert_allclose(found, err1, rtol=1e-4)
        np.testing.assert_allclose(
            state.epoch.architectures.weights, stored, rtol=1e-4, atol=1e-6
        )
        for name, value in state.shared.params.items():
            np.testing.assert_allclose(
                value, written.params[name], rtol=1e-4, atol=1e-6
            )
    watched = search.measure(state, np.int32(0)).strategy
    w = written.weights()
    np.testing.assert_allclose(watched["weights"], w, rtol=1e-4, atol=1e-6)
    entropy = -np.mean(np.sum(w * np.log(w), -1))
    np.testing.assert_allclose(watched["entropy_of_weights"], entropy, rtol=1e-4)
    state = search.propose(state)
    choice = np.asarray(state.selection.architectures.choice)
    np.testing.assert_array_equal(choice, [np.argmax(w, -1)])
    assert state.selection.architectures.weights is None


def test_a_shared_pass_has_the_gradient_of_the_draw_that_was_trained():
    """Weights that are drawn differ from pass to pass (DrNAS)."""
    strategy = strategy_of(
        optimizer=AdamOnConcentrations(0.1, scale=0.5),
        split="train",
        shared_pass=True,
        warmup=1,
    )
    state, differences = strategy.init(jax.random.key(0)), []
    key = functools.partial(jax.random.fold_in, jax.random.key(1))
    for call in range(4):
        state = strategy.begin_epoch(state, jnp.int32(call // 2))
        trained = strategy.propose(state, key(call))
        for batch in range(3):

            def slope(of, theta, split, trained=trained, **options):
                differences.append(of(theta).weights - trained.weights)
                return jnp.float32(0), jnp.ones_like(theta)

            before = trained.weights
            own_key = key(10 * call + batch)
            state, trained = strategy.step(state, trained, slope, own_key)
            assert np.abs(trained.weights - before).max() > 0.01
    assert len(differences) == 12
    np.testing.assert_array_equal(differences, np.zeros((12, 2, 3)))


def slope_of(params, data, number, transform=SGD, opt_state=None):
    """The slope on a batch, whose child is cut out of the shared parameters."""

    def child_of(architecture):
        return gather(params, SPACE.rows(architecture))

    task = toy.ToyTask()
    stepped = stepped_by(transform, opt_state or transform.init(params))
    batch = Batch(data, number, jax.random.key(0))
    return Slope(task, child_of, batch, task.init_carry(), stepped)


def test_a_mixture_of_one_choice_is_the_child_with_its_gradients():
    params, data = SPACE.init(jax.random.key(0)), toy.make_data()
    task, step = toy.ToyTask(), jnp.int32(2)

    def loss(params, architecture):
        child = gather(params, SPACE.rows(architecture))
        return task.fisher_loss(child, architecture, data, "train", step)

    for choice in ([0, 2], [1, 1], [2, 0]):
        choice = jnp.array(choice)
        hot = jax.nn.one_hot(choice, 3)
        of = jax.value_and_grad(loss)
        child = of(params, Architecture(choice))
        mixture = of(params, Architecture(choice, weights=hot))
        gated = of(params, Architecture(choice, gates=hot))
        for other in (mixture, gated):
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=1e-6), other, child
            )
        unused = np.setdiff1d(range(3), choice[0])
        assert np.all(np.asarray(mixture[1]["a"])[unused] == 0)


def test_a_gate_has_the_published_gradient():
    """Dong and Yang: what is chosen by its operation, the rest by ones."""
    params, data = SPACE.init(jax.random.key(0)), toy.make_data()
    strategy = strategy_of(relaxation="gumbel", optimizer=ADAM)
    state = strategy.init(jax.random.key(3))
    key, seen = jax.random.key(4), set()

    @jax.jit
    def relaxed(number):
        own_key = jax.random.fold_in(key, number)
        of = strategy._relax(state, own_key)
        found = slope_of(params, data, number)(of, state.theta)
        return of(state.theta), jax.random.gumbel(own_key, (2, 3)), found

    for number in range(6):
        architecture, noise, (loss, gradient) = relaxed(jnp.int32(number))
        hard = np.eye(3)[np.asarray(architecture.choice)]
        np.testing.assert_array_equal(architecture.gates, hard)
        p = {k: np.asarray(v, float) for k, v in params.items()}
        batch = np.asarray(data.train[number % 5], float)
        a, b = np.asarray(architecture.choice)
        y = p["shared"] + 2 * p["a"][a] + 3 * p["b"][b]
        np.testing.assert_allclose(
            loss, 0.5 * np.sum((y - batch) ** 2, -1).mean(), rtol=1e-5
        )
        e = y - batch.mean(0)
        of_gates = np.full((2, 3), np.sum(e)) * np.array([[2], [3]])
        of_gates[0, a] = 2 * p["a"][a] @ e
        of_gates[1, b] = 3 * p["b"][b] @ e
        logits = np.asarray(state.theta, float)
        logits = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)) + noise) / 2
        soft = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        of_logits = soft * (of_gates - np.sum(soft * of_gates, -1, keepdims=True)) / 2
        # The normalization of the logits before the noise has no effect on them.
        np.testing.assert_allclose(gradient, of_logits, rtol=1e-4, atol=1e-5)
        seen.add((int(a), int(b)))
    assert len(seen) > 2


def test_choices_are_drawn_by_their_weights_and_colder_later():
    strategy = strategy_of(
        relaxation="gumbel", optimizer=ADAM, temperature=5.0, temperature_epochs=10
    )
    state = strategy.init(jax.random.key(0))
    state = state._replace(theta=jnp.log(jnp.array([[0.2, 0.3, 0.5]] * 2)))
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = jax.vmap(lambda key: strategy.propose(state, key).choice)(keys)
    shares = np.bincount(np.ravel(drawn), minlength=3) / 8000
    np.testing.assert_allclose(shares, [0.2, 0.3, 0.5], atol=0.02)
    found = [float(strategy._temperature(jnp.int32(e))) for e in (0, 5, 10, 20)]
    np.testing.assert_allclose(found, [5, 2.55, 0.1, 0.1], rtol=1e-6)


class UnrolledInNumpy:
    """The validation loss after a step of the toy's parameters, in float64."""

    def __init__(self, params, data, number, momentum, buffer):
        self.params = {k: np.asarray(v, float) for k, v in params.items()}
        self.buffer = {k: np.asarray(v, float) for k, v in buffer.items()}
        self.train, self.valid = (
            np.asarray(split[number % 5], float) for split in (data.train, data.valid)
        )
        self.momentum = momentum

    def __call__(self, theta):
        raised = np.exp(theta)
        w, p = raised / raised.sum(-1, keepdims=True), self.params
        e = self.predict(p, w) - self.train.mean(0)
        gradient = {
            "shared": e,
            "a": 2 * np.outer(w[0], e),
            "b": 3 * np.outer(w[1], e),
        }
        after = {
            k: v - 0.1 * (gradient[k] + self.momentum * self.buffer[k])
            for k, v in p.items()
        }
        y = self.predict(after, w)
        return 0.5 * np.sum((y - self.valid) ** 2, -1).mean()

    def predict(self, p, w):
        return p["shared"] + 2 * w[0] @ p["a"] + 3 * w[1] @ p["b"]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_second_order_is_the_slope_of_the_loss_after_a_step(momentum):
    """Liu et al., 2019, equation 6: with the step that the optimizer is to take."""
    params, data, number = SPACE.init(jax.random.key(0)), toy.make_data(), jnp.int32(3)
    transform = optax.sgd(0.1, momentum=momentum)
    buffer = jax.tree.map(jnp.cos, params)
    _, opt_state = transform.update(buffer, transform.init(params), params)
    strategy = strategy_of(optimizer=ADAM, order="second")
    state = strategy.init(jax.random.key(5))
    slope = slope_of(params, data, number, transform, opt_state)
    of = strategy._relax(state, jax.random.key(0))
    loss, gradient = slope(of, state.theta, "valid", unrolled=True)
    unrolled = UnrolledInNumpy(params, data, 3, momentum, buffer)
    theta = np.asarray(state.theta, float)
    np.testing.assert_allclose(loss, unrolled(theta), rtol=1e-5)
    expected, first = np.zeros((2, 3)), slope(of, state.theta, "valid")[1]
    for place in np.ndindex(2, 3):
        step = np.zeros((2, 3))
        step[place] = 1e-6
        expected[place] = (unrolled(theta + step) - unrolled(theta - step)) / 2e-6
    np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=1e-3)
    assert np.abs(first - expected).max() > 0.1  # the test can tell the two apart


def test_a_batch_of_its_own_is_one_of_the_next_pass():
    params, data = SPACE.init(jax.random.key(0)), toy.make_data()
    strategy = strategy_of()
    state = strategy.init(jax.random.key(5))
    of = strategy._relax(state, jax.random.key(0))
    own = slope_of(params, data, jnp.int32(2))
    losses = [
        float(slope_of(params, data, jnp.int32(i))(of, state.theta)[0])
        for i in range(5)
    ]
    found = set()
    for number in range(40):
        batch = own.batch._replace(key=jax.random.key(number))
        slope = dataclasses.replace(own, batch=batch)
        loss, _ = slope(of, state.theta, own_batch=True)
        found.add(int(np.argmin(np.abs(losses - np.asarray(loss)))))
        np.testing.assert_allclose(
            np.min(np.abs(losses - np.asarray(loss))), 0, atol=1e-6
        )
    assert found == set(range(5))
    with pytest.raises(ValueError, match="shares_pass"):
        SlopeOfPass(jnp.float32(0), state.theta)(of, state.theta, own_batch=True)


def run(search, data, seed=0, epochs=2):
    state = search.init(jax.random.key(seed))
    for epoch in range(epochs):
        state = run_epoch(search, state, data, epoch)
    return jax.device_get(state._replace(key=None))


@pytest.mark.slow_except("mixture")
@pytest.mark.parametrize("relaxation", ["mixture", "gumbel"])
def test_one_compilation_serves_all_epochs_and_devices_agree(relaxation):
    traces = []

    class Counting(toy.ToyTask):
        def train_loss(self, *args, **kwargs):
            traces.append(1)
            return super().train_loss(*args, **kwargs)

    strategy = strategy_of(relaxation=relaxation, warmup=1)
    search, data = make_search(Counting(), strategy=strategy), toy.make_data()
    one = run(search, data)
    assert len(traces) == 2  # for the slope and for the step
    again = run(search, data)
    assert len(traces) == 2
    jax.tree.map(np.testing.assert_array_equal, one, again)
    on_two = dataclasses.replace(search, devices=Devices(2))
    two = run(on_two, on_two.devices.replicate(data))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), two, one
    )


@pytest.mark.slow
def test_gumbel_trains_the_rows_it_draws_and_no_others():
    strategy = strategy_of(relaxation="gumbel", warmup=9)
    search, data = make_search(strategy=strategy), toy.make_data()
    state = search.begin_epoch(search.init(jax.random.key(0)), np.int32(0))
    before = jax.device_get(state.shared.params)
    state = search.train_child(state, data, np.int32(0), np.int32(0))
    moved = np.any(np.asarray(state.shared.params["a"]) != before["a"], -1)
    assert 1 <= moved.sum() <= BATCHES
    assert moved[int(state.epoch.architectures.choice[0, 0])]


def test_the_penalty_remembers_all_of_a_mixture():
    strategy = strategy_of()
    protection = make_protection(start_epoch=0, strength=2.0, protect="choices")
    search = make_search(strategy=strategy, protection=protection)
    data = toy.make_data()
    state = search.begin_epoch(search.init(jax.random.key(0)), np.int32(0))
    state = search.train_child(state, data, np.int32(0), np.int32(0))
    kept = penalty.plasticity_states(state.shared.opt_state)[0]
    jax.tree.map(np.testing.assert_array_equal, kept.anchor, state.shared.params)
    # The Fisher is that of the batch's gradient with the weights of the mixture.
    params, w = jax.device_get((state.shared.params, state.strategy.theta))
    batch = np.asarray(data.valid[0], float)
    y = params["shared"] + 2 * w[0] @ params["a"] + 3 * w[1] @ params["b"]
    e = y - batch.mean(0)
    np.testing.assert_allclose(kept.fisher["a"], (2 * np.outer(w[0], e)) ** 2, 1e-4)
    np.testing.assert_allclose(kept.fisher["b"], (3 * np.outer(w[1], e)) ** 2, 1e-4)
    np.testing.assert_array_equal(kept.fisher["shared"], 0)  # No choice of anything.


def test_a_slope_that_is_not_finite_changes_nothing():
    params, data = SPACE.init(jax.random.key(0)), toy.make_data()
    data = data._replace(train=data.train.at[1].set(jnp.nan))
    strategy = strategy_of()
    state = strategy.init(jax.random.key(0))
    of = strategy._relax(state, jax.random.key(0))
    loss, gradient = slope_of(params, data, jnp.int32(1))(of, state.theta)
    assert float(loss) == 0
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


def test_places_without_a_choice_have_no_weight():
    class Uneven(toy.ToySpace):
        decisions = (
            toy.ToySpace.decisions[0],
            toy.ToySpace.decisions[1]._replace(choices=("0",)),
        )

    assert num_choices(Uneven.decisions) == (3, 1)
    for optimizer in (ADAM, EXPONENTIATED):
        strategy = Differentiable(Uneven(), optimizer=optimizer)
        state = strategy.init(jax.random.key(0))
        weights = strategy.propose(state, jax.random.key(0)).weights
        np.testing.assert_array_equal(weights[1], [1, 0, 0])
        np.testing.assert_allclose(np.sum(weights, -1), 1, rtol=1e-6)


def test_what_cannot_be_mixed_or_trained_at_once_is_refused():
    class Plain(toy.ToySpace):
        mixes = False

    with pytest.raises(UserError, match="the space toy has no mixtures"):
        Differentiable(Plain())
    for wrong in ({"split": "valid"}, {"split": "train", "relaxation": "gumbel"}):
        with pytest.raises(SettingError, match="shared_pass"):
            strategy_of(shared_pass=True, **wrong)
    for name, wrong in (
        ("own_batch", {"own_batch": True, "split": "valid"}),
        ("order", {"order": "second", "relaxation": "gumbel"}),
        ("shared_pass", {"shared_pass": True, "split": "train", "order": "second"}),
    ):
        with pytest.raises(SettingError, match=name):
            strategy_of(**wrong)

    class Weighted(toy.ToySpace):
        groups = (*toy.ToySpace.decisions, Decision("inputs", ("0", "1")))

    assert Differentiable(Weighted()).init(jax.random.key(0)).theta.shape == (3, 3)
    with pytest.raises(SettingError, match="draws no single path"):
        Differentiable(Weighted(), relaxation="gumbel")
    with pytest.raises(SettingError, match="one architecture at a time"):
        dataclasses.replace(make_search(strategy=strategy_of()), children_per_step=2)
