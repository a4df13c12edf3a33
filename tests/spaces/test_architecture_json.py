"""Architectures as JSON and as pictures."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.errors import UserError
from wpl_jax.spaces.architecture_json import (
    architecture_from_json,
    architecture_to_json,
)
from wpl_jax.spaces.recurrent_cell import RecurrentCell

NODES = 4
SPACE = RecurrentCell(vocabulary_size=7, hidden=3, num_nodes=NODES)


@functools.cache
def draws():
    """Random architectures, ``int32[50, decisions]``."""
    keys = jax.random.split(jax.random.key(0), 50)
    return np.asarray(jax.jit(jax.vmap(SPACE.sample))(keys))


def test_an_architecture_comes_back_from_json():
    for architecture in draws():
        text = architecture_to_json(SPACE, architecture)
        found = architecture_from_json(SPACE, text)
        np.testing.assert_array_equal(found, architecture)
        assert found.dtype == np.int32


def test_json_tells_choices_by_name_whatever_their_order():
    names = {
        "activation_0": "identity",
        "parent_1": "node_0",
        "activation_1": "tanh",
        "parent_2": "node_1",
        "activation_2": "sigmoid",
        "parent_3": "node_2",
        "activation_3": "relu",
    }
    architecture = jnp.array([2, 0, 0, 1, 3, 2, 1])
    content = json.loads(architecture_to_json(SPACE, architecture))
    assert content == {"space": "recurrent_cell", "decisions": names}
    content["decisions"] = dict(sorted(names.items()))
    found = architecture_from_json(SPACE, json.dumps(content))
    np.testing.assert_array_equal(found, architecture)


def edited(space="recurrent_cell", without=None, **decisions):
    """The JSON of an architecture with some decisions changed."""
    chosen = {f"activation_{i}": "tanh" for i in range(NODES)}
    chosen |= {f"parent_{i}": "node_0" for i in range(1, NODES)}
    chosen |= decisions
    chosen.pop(without, None)
    return json.dumps({"space": space, "decisions": chosen})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'space'", "not JSON"),
        ("", "not JSON"),
        ("[]", "of the space [], expected 'recurrent_cell'"),
        ('"recurrent_cell"', "expected 'recurrent_cell'"),
        ("{}", "of the space None"),
        ('{"space": "recurrent_cell"}', "has None for activation_0"),
        (edited(space="convolutional"), "of the space 'convolutional'"),
        (edited(activation_9="tanh"), "decides ['activation_9']"),
        (edited(without="parent_2"), "has None for parent_2"),
        (edited(parent_2="node_2"), "has 'node_2' for parent_2, expected one of"),
        (
            edited(activation_1="gelu"),
            "has 'gelu' for activation_1, expected one of "
            "['tanh', 'relu', 'identity', 'sigmoid']",
        ),
        (edited(activation_1=0), "has 0 for activation_1"),
        (edited(activation_1=["tanh"]), "has ['tanh'] for activation_1"),
    ],
)
def test_json_that_is_no_architecture_of_the_space_is_refused(text, message):
    with pytest.raises(UserError) as error:
        architecture_from_json(SPACE, text)
    assert message in str(error.value)


def test_the_unchanged_json_is_accepted():
    expected = np.zeros(len(SPACE.decisions))
    np.testing.assert_array_equal(architecture_from_json(SPACE, edited()), expected)


@pytest.mark.parametrize("output", ["leaves", "all"])
def test_a_graph_has_one_parent_for_each_node_and_the_leaves_lead_out(output):
    space = RecurrentCell(7, 3, NODES, output=output)
    for architecture in draws()[:30]:
        names = json.loads(architecture_to_json(space, architecture))["decisions"]
        nodes, edges = space.graphs(architecture)["cell"]
        assert list(nodes) == ["in", *map(str, range(NODES)), "out"]
        assert all(
            names[f"activation_{i}"] in nodes[str(i)].split() for i in range(NODES)
        )
        assert len(set(edges)) == len(edges)
        into = {name: {a for a, b, _ in edges if b == name} for name in nodes}
        assert into["in"] == set()
        assert into["0"] == {"in"}
        parents = {str(i): names[f"parent_{i}"][5:] for i in range(1, NODES)}
        assert all(into[i] == {parent} for i, parent in parents.items())
        leaves = {str(i) for i in range(NODES)}
        if output == "leaves":
            leaves -= set(parents.values())
        assert into["out"] == leaves
