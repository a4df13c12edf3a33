"""The recurrent cell against numpy, finite differences and plain autodiff."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.spaces.highway_scan import ACTIVATIONS, Wiring, _forward, highway_scan
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.spaces.words import Dropout
from wpl_jax.supernet import Architecture, gather, mask, random_choice, scatter

VOCABULARY, HIDDEN, NODES, BATCH, TIME = 7, 6, 5, 3, 4
VARIANTS = [
    {"output": output, "carry": carry, "max_norm": max_norm}
    for output in ("leaves", "all")
    for carry in ("output", "last")
    for max_norm in (None, 0.3)
]


def make_space(**options):
    return RecurrentCell(VOCABULARY, HIDDEN, NODES, init_scale=0.6, **options)


def random_inputs(space, seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    params = space.init(keys[0])
    params["bias"] = jax.random.normal(keys[3], params["bias"].shape)
    tokens = jax.random.randint(keys[1], (BATCH, TIME), 0, VOCABULARY)
    state = 0.3 * jax.random.normal(keys[2], (BATCH, HIDDEN))
    return params, tokens, state, random_choice(keys[3], space.decisions)


def numpy_cell(space, params, choice, tokens, state):
    """The cell as in the paper, one example and one node at a time, in float64."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    functions = {
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "identity": lambda x: x,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    }
    chosen = [d.choices[i] for d, i in zip(space.decisions, choice, strict=True)]
    activations, parents = chosen[0::2], [int(c.split("_")[1]) for c in chosen[1::2]]
    outputs = np.zeros((BATCH, TIME, HIDDEN))
    last = np.zeros((BATCH, HIDDEN))
    for b in range(BATCH):
        h = np.asarray(state[b], np.float64)
        for t in range(TIME):
            nodes = []
            for j in range(NODES):
                if j == 0:
                    before = h
                    word = p["embedding"][tokens[b, t]]
                    pre = p["input"] @ word + p["bias"] + p["recurrent"] @ h
                else:
                    i = parents[j - 1]
                    before = nodes[i]
                    pre = p["edges"][j * (j - 1) // 2 + i] @ before
                gate = functions["sigmoid"](pre[:HIDDEN])
                value = functions[activations[j]](pre[HIDDEN:])
                nodes.append(gate * value + (1 - gate) * before)
            leaves = [j for j in range(NODES) if j not in parents]
            of = leaves if space.output == "leaves" else range(NODES)
            outputs[b, t] = np.mean([nodes[j] for j in of], axis=0)
            h = outputs[b, t] if space.carry == "output" else nodes[-1]
            norm = np.linalg.norm(h)
            if space.max_norm is not None and norm > space.max_norm:
                h = h * space.max_norm / norm
        last[b] = h
    return outputs, last


def run(space, params, choice, tokens, **kwargs):
    architecture = Architecture(choice)
    child = gather(params, space.rows(architecture))
    return space.apply(child, architecture, tokens, **kwargs)


@functools.lru_cache
def jitted_apply(**options):
    return jax.jit(functools.partial(run, make_space(**options)))


@pytest.mark.slow_except("*leaves*output*", "*all*last*")
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_forward_pass_is_the_papers(options):
    space, apply = make_space(**options), jitted_apply(**options)
    for seed in range(4):
        params, tokens, state, choice = random_inputs(space, seed)
        found = apply(params, choice, tokens, state=state)
        outputs, last = numpy_cell(space, params, choice, tokens, state)
        np.testing.assert_allclose(found.raw, outputs, atol=2e-6)
        np.testing.assert_allclose(found.dropped, outputs, atol=2e-6)
        np.testing.assert_allclose(found.state, last, atol=2e-6)


@pytest.mark.slow_except("output")
@pytest.mark.parametrize("carry", ["output", "last"])
def test_the_backward_pass_is_autodiffs_of_the_forward_pass(carry):
    space = make_space(carry=carry)
    *_, choice = random_inputs(space, 0)
    keys = jax.random.split(jax.random.key(1), 4)
    arguments = (
        jax.random.normal(keys[0], (TIME, BATCH, 2 * HIDDEN)),
        jax.random.normal(keys[1], (BATCH, HIDDEN)),
        jax.random.normal(keys[2], (2 * HIDDEN, HIDDEN)),
        jax.random.normal(keys[3], (NODES - 1, 2 * HIDDEN, HIDDEN)),
    )

    def plain(*arguments):
        return _forward(*arguments)[:2]

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(function, arguments, choice):
        wiring = space.wiring(choice)

        def total(arguments):
            outputs, state = function(*arguments, wiring, carry, None)
            return jnp.sum(jnp.sin(outputs)) + jnp.sum(jnp.cos(state))

        return jax.grad(total)(arguments)

    for seed in range(4):
        choice = random_choice(jax.random.key(seed), space.decisions)
        found = gradients(highway_scan, arguments, choice)
        wanted = gradients(plain, arguments, choice)
        for x, y in zip(found, wanted, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_work_grows_with_the_nodes_and_not_with_their_square():
    """Operations of the compiled pass and gradient: each state is computed once."""

    def operations(nodes):
        float32, int32 = (
            functools.partial(jax.ShapeDtypeStruct, dtype=d) for d in ("f4", "i4")
        )
        wiring = Wiring(int32((nodes - 1,)), int32((nodes,)), float32((nodes,)))
        shapes = (
            float32((TIME, BATCH, 2 * HIDDEN)),
            float32((BATCH, HIDDEN)),
            float32((2 * HIDDEN, HIDDEN)),
            float32((nodes - 1, 2 * HIDDEN, HIDDEN)),
        )

        def gradient(arguments, wiring):
            return jax.grad(lambda a: jnp.sum(highway_scan(*a, wiring)[0]))(arguments)

        program = jax.jit(gradient).lower(shapes, wiring).compile()
        return program.cost_analysis()["flops"]

    assert operations(12) < 2.5 * operations(6)


def test_unused_edges_have_no_gradient_and_no_mask():
    space = make_space()

    @jax.jit
    def gradient(params, choice, tokens, state):
        def loss(params):
            hidden = run(space, params, choice, tokens, state=state)
            return jnp.sum(space.logits(params, hidden.raw) ** 2)

        return jax.grad(loss)(params), mask(params, space.rows(Architecture(choice)))

    for seed in range(5):
        params, tokens, state, choice = random_inputs(space, seed)
        found, used_mask = gradient(params, choice, tokens, state)
        chosen = np.asarray(choice)[1::2]
        used = {(j + 1) * j // 2 + i for j, i in enumerate(chosen)}
        for edge in range(NODES * (NODES - 1) // 2):
            assert np.any(found["edges"][edge] != 0) == (edge in used)
            assert float(used_mask["edges"][edge, 0, 0]) == (edge in used)
        assert all(
            np.all(used_mask[name] == 1) for name in used_mask if name != "edges"
        )


def test_a_child_goes_back_to_where_it_was_taken():
    space = make_space()
    params, _, _, choice = random_inputs(space, 2)
    rows = space.rows(Architecture(choice))
    child = gather(params, rows)
    assert child["edges"].shape[0] == NODES - 1
    assert child["embedding"].shape == params["embedding"].shape
    changed = scatter(params, rows, jax.tree.map(lambda x: x + 1, child))
    for name, used in mask(params, rows).items():
        expected = params[name] + used * jnp.ones_like(params[name])
        np.testing.assert_array_equal(changed[name], expected)


@pytest.mark.slow
def test_all_architectures_share_one_compilation():
    space, traces = make_space(), []
    params, tokens, state, _ = random_inputs(space, 0)

    @jax.jit
    def step(params, choice):
        traces.append(1)

        def loss(params):
            return jnp.sum(run(space, params, choice, tokens, state=state).raw)

        return jax.grad(loss)(params)

    keys = jax.random.split(jax.random.key(0), 500)
    draw = jax.jit(jax.vmap(lambda key: random_choice(key, space.decisions)))
    for choice in np.asarray(draw(keys)):
        step(params, choice)
    assert len(traces) == 1


def test_decisions_are_readable():
    decisions = make_space().decisions
    assert [len(d.choices) for d in decisions] == [4, 1, 4, 2, 4, 3, 4, 4, 4]
    assert decisions[0].choices == ACTIVATIONS
    assert decisions[5].name == "parent_3"
    assert decisions[5].choices == ("node_0", "node_1", "node_2")


def test_dropout_needs_a_key_and_keeps_the_mean():
    space = make_space()
    params, tokens, state, choice = random_inputs(space, 0)
    rates = Dropout(output=0.5)
    with pytest.raises(ValueError, match="key"):
        run(space, params, choice, tokens, state=state, dropout=rates)

    @jax.jit
    @jax.vmap
    def dropped(key):
        return run(space, params, choice, tokens, state=state, dropout=rates, key=key)

    n = 4000
    found = dropped(jax.random.split(jax.random.key(0), n))
    raw = np.asarray(found.raw[0])
    # One mask for all time steps, and what is kept is doubled.
    ratio = np.asarray(found.dropped) / raw
    assert set(np.unique(ratio.round(3))) <= {0.0, 2.0}
    assert np.all(ratio == ratio[:, :, :1])
    np.testing.assert_allclose(
        np.mean(found.dropped, 0), raw, atol=5 * np.abs(raw).max() / np.sqrt(n)
    )


@pytest.mark.slow_except("recurrent")
@pytest.mark.parametrize("place", ["embedding", "input", "recurrent"])
def test_each_dropout_acts_where_it_says(place):
    space = make_space()
    params, tokens, state, choice = random_inputs(space, 0)
    tokens = tokens.at[:, 2].set(tokens[:, 0])  # A word that comes twice.
    apply = functools.partial(
        run,
        space,
        params,
        choice,
        tokens,
        key=jax.random.key(3),
        dropout=Dropout(**{place: 0.9}),
    )
    zero = jnp.zeros_like(state)
    first = run(space, params, choice, tokens[:, :1], state=zero).raw[:, 0]
    with_dropout = apply(state=zero).raw[:, 0]
    # From a zero state the recurrent kernel has nothing to act on in the first step.
    assert np.allclose(first, with_dropout) == (place == "recurrent")
    plain = run(space, params, choice, tokens, state=state).raw
    assert not np.allclose(apply(state=state).raw, plain)
