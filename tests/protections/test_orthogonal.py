"""Projected gradients, against least squares in float64 numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import toy
from helpers.written_search import (
    BATCHES,
    CHILDREN,
    DECAY,
    RATE,
    WEIGHT_DECAY,
    Written,
    make_search,
    run_epoch,
)

import wpl_jax
from wpl_jax.common.settings import SettingError
from wpl_jax.devices.parallel import Devices
from wpl_jax.jobs.memory import of_search
from wpl_jax.protections.orthogonal import Orthogonal

SHAPES = {"stack": (2, 3, 2), "array": (5,), "scalar": (), "other": (4,)}
SPACES = {"stack": "rows", "array": "array", "scalar": "array", "other": "none"}
DIRECTIONS = 3
RNG = np.random.default_rng(0)


def draw():
    return {k: np.float32(RNG.normal(size=s)) for k, s in SHAPES.items()}


def without_span(gradient, earlier):
    """What is left of a gradient by the method of least squares."""
    if not earlier:
        return gradient
    span = np.stack([np.ravel(g) for g in earlier], 1).astype(np.float64)
    flat = np.ravel(gradient).astype(np.float64)
    fit, *_ = np.linalg.lstsq(span, flat, rcond=1e-6)
    return (flat - span @ fit).reshape(np.shape(gradient))


class Earlier:
    """The newest gradients of one array, or row."""

    def __init__(self, directions):
        self.kept, self.directions = [], directions

    def add(self, gradient):
        if np.all(np.isfinite(gradient)) and np.any(gradient):
            self.kept = [*self.kept, gradient][-self.directions :]


def parts_of(tree):
    """The arrays with a basis of their own, by name."""
    rows = {f"row {i}": row for i, row in enumerate(tree["stack"])}
    return rows | {"array": tree["array"], "scalar": tree["scalar"]}


def test_what_is_left_of_a_gradient_is_orthogonal_to_the_newest_ones():
    tx = optax.chain(
        wpl_jax.orthogonal_gradients(DIRECTIONS, SPACES), optax.scale(-2.0)
    )
    gradients = [draw() for _ in range(5)]
    gradients[1]["stack"][0] = 0  # A model that does not use the row.
    gradients[2]["array"] = 3 * gradients[1]["array"]  # Of both, one is new.
    gradients[3]["stack"][1, 1, 1] = np.nan
    earlier = {name: Earlier(DIRECTIONS) for name in parts_of(gradients[0])}
    state = tx.init(jax.tree.map(jnp.asarray, draw()))
    step = jax.jit(lambda g, state: tx.update(g, state)[0])
    remember, new = jax.jit(wpl_jax.remember_gradients), draw()
    for number, gradient in enumerate(gradients):
        state = remember(state, gradient)
        for name, part in parts_of(gradient).items():
            earlier[name].add(part)
        left = jax.tree.map(lambda x: -x / 2, step(new, state))
        for name, part in parts_of(new).items():
            expected = without_span(part, earlier[name].kept)
            np.testing.assert_allclose(parts_of(left)[name], expected, atol=2e-6)
        np.testing.assert_array_equal(left["other"], new["other"])
        if number == 2:
            assert not np.any(state[0].basis[1]["array"])
    basis = np.stack([np.ravel(u["array"]) for u in state[0].basis])
    np.testing.assert_allclose(basis @ basis.T, np.eye(DIRECTIONS), atol=1e-6)
    assert np.all(left["scalar"] == 0)  # One direction is all of its space.
    assert np.min(np.abs(left["stack"])) > 1e-3


def test_gradients_keep_their_dtype_and_may_be_complex():
    tx = wpl_jax.orthogonal_gradients(1)
    params = {"z": jnp.ones(2, jnp.complex64), "h": jnp.ones(3, jnp.bfloat16)}
    state = tx.init(params)
    earlier = {"z": jnp.array([3.0, 4.0j]), "h": jnp.array([1.0, 0, 0], jnp.bfloat16)}
    state = wpl_jax.remember_gradients(state, earlier)
    new = {"z": jnp.array([1.0 + 0j, 1.0]), "h": jnp.ones(3, jnp.bfloat16)}
    left, _ = tx.update(new, state)
    assert left["z"].dtype == jnp.complex64
    assert left["h"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(left["h"], [0, 1, 1])
    np.testing.assert_allclose(np.vdot(earlier["z"], left["z"]), 0, atol=1e-6)
    u = np.array([0.6, 0.8j])
    np.testing.assert_allclose(left["z"], [1, 1] - u * (0.6 - 0.8j), rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: wpl_jax.orthogonal_gradients(0), "directions must be a whole number"),
        (lambda: wpl_jax.orthogonal_gradients(1, {"w": "row"}), "'row' at 'w'"),
        (
            lambda: wpl_jax.orthogonal_gradients(1, {"v": "rows"}).init({"w": 1.0}),
            "nothing at 'w'",
        ),
        (
            lambda: wpl_jax.orthogonal_gradients(1, "rows").init({"w": jnp.ones(())}),
            "scalar",
        ),
        (
            lambda: wpl_jax.remember_gradients(optax.EmptyState(), {}),
            "no orthogonal_gradients state",
        ),
    ],
)
def test_wrong_arguments_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()


# In a search.


class Projecting(Written):
    """Without a penalty, with a list of earlier gradients for each part of a child."""

    def __init__(self, params, data, protection):
        super().__init__(params, data, protection)
        self.earlier = {}

    def of(self, name, choice):
        """The earlier gradients of a child's part; None if it is not projected."""
        if name == "shared" and self.penalty.protect == "choices":
            return None
        row = {"shared": None, "a": choice[0], "b": choice[1]}[name]
        return self.earlier.setdefault((name, row), Earlier(self.penalty.directions))

    def train(self, choice, epoch, index):
        rate = RATE * DECAY ** max(epoch - 1, 0)
        for i in range(BATCHES):
            number = (epoch * CHILDREN + index) * BATCHES + i
            batch = self.data[0][number % len(self.data[0])]
            gradient = self.gradient(choice, batch)
            for k, part in self.parts(choice).items():
                earlier = self.of(k, choice)
                if earlier:
                    gradient[k] = without_span(gradient[k], earlier.kept)
                theta = self.params[k][part]
                step = gradient[k] + WEIGHT_DECAY * theta
                self.params[k][part] = theta - rate * step

    def protect(self, choice, epoch, index):
        if epoch < self.penalty.start_epoch:
            return
        number = epoch * CHILDREN + index
        batch = self.data[1][number % len(self.data[1])]
        for k, gradient in self.gradient(choice, batch).items():
            if earlier := self.of(k, choice):
                earlier.add(gradient)


@pytest.mark.slow_except("choices-1")
@pytest.mark.parametrize(("protect", "devices"), [("choices", 1), ("all", 2)])
def test_children_are_trained_orthogonally_to_earlier_ones(protect, devices):
    protection = Orthogonal(1, protect, split="valid", start_epoch=1)
    search = make_search(protection=protection)
    search = dataclasses.replace(search, devices=Devices(devices))
    state, data = search.init(jax.random.key(1)), toy.make_data()
    written = Projecting(state.shared.params, data, protection)
    on_devices = search.devices.replicate(data)
    for epoch in range(3):
        state = run_epoch(search, state, on_devices, epoch)
        for index, choice in enumerate(np.asarray(state.epoch.architectures.choice)):
            written.train(choice, epoch, index)
            written.protect(choice, epoch, index)
        for name, value in state.shared.params.items():
            np.testing.assert_allclose(value, written.params[name], rtol=2e-5)
    assert len(written.earlier) > 4


def test_the_estimate_of_memory_has_the_directions():
    data, found = toy.make_data(), []
    for protection in (None, Orthogonal(3)):
        search = make_search(protection=protection)
        found.append(of_search(search, data).memory.state)
    stacks = 2 * toy.ROWS * toy.SIZE * 4
    scalars = 4  # of what is not projected
    assert found[1] - found[0] == 3 * (stacks + scalars)


@pytest.mark.parametrize(
    "wrong",
    [
        {"directions": 0},
        {"directions": 65},
        {"protect": "none"},
        {"split": "test"},
        {"start_epoch": -1},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Orthogonal(**wrong)
