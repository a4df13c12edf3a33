"""A recurrent cell of ENAS and its language model, written out as blocks."""

from typing import Any

import numpy as np

from wpl_jax.spaces.highway_scan import ACTIVATIONS
from wpl_jax.spaces.network import Block, Layer, Network, Parameter, Use

# Of activations, as Python expressions.
_FUNCTIONS = {
    "tanh": "jnp.tanh",
    "relu": "jax.nn.relu",
    "identity": "lambda x: x",
    "sigmoid": "jax.nn.sigmoid",
}


def network(space: Any, choice: Any, child: Any, statistics: Any) -> Network:
    """The language model of a child: words to scores of the next words, and a state.

    Args:
      space: A :class:`wpl_jax.spaces.recurrent_cell.RecurrentCell`.
      choice: ``int32[num_decisions]``.
      child: Parameters of the child.
      statistics: None: there are none.
    """
    del statistics
    choice = np.asarray(choice)
    hidden, words = space.hidden, space.vocabulary_size
    kernel = Parameter("($hidden, 2 * $hidden)")
    cell_layers: dict[str, Layer] = {
        "input": kernel,
        "bias": Parameter("(2 * $hidden,)", zeros=True),
        "recurrent": kernel,
    }
    cell_layers |= {f"node_{i}": kernel for i in range(1, space.num_nodes)}
    cell = Block(
        "Cell",
        "The recurrent cell that was found, over time.",
        cell_layers,
        "x, state",
        _body(space, choice),
        {"hidden": ""},
    )
    scale = space.init_scale
    whole = Block(
        "Network",
        "The language model: numbers of words to scores of the next words.",
        {
            "embedding": Parameter(f"({words}, {hidden})"),
            "output_bias": Parameter(f"({words},)", zeros=True),
            "cell": Use("Cell", (hidden,)),
        },
        "words, state=None",
        f"""if state is None:
    state = jnp.zeros((words.shape[0], {hidden}))
embedding = self.embedding[...]
outputs, state = self.cell(embedding[words], state@train)
return outputs @ embedding.T + self.output_bias[...], state""",
    )
    start = (
        "lambda key, shape, dtype=jnp.float32: "
        f"jax.random.uniform(key, shape, dtype, -{scale!r}, {scale!r})"
    )
    return Network((cell, whole), start, (), _weights(space, child))


def _body(space: Any, choice: np.ndarray) -> str:
    """The cell: its nodes in their order, in a loop over time."""
    functions = [_FUNCTIONS[ACTIVATIONS[index]] for index in choice[0::2]]
    parents = choice[1::2].tolist()
    steps = [f"node_0 = node(state, state @ recurrent + x, {functions[0]})"]
    for i, (parent, function) in enumerate(zip(parents, functions[1:], strict=True), 1):
        x = f"node_{parent}"
        steps.append(f"node_{i} = node({x}, {x} @ kernel_{i}, {function})")
    last = [
        i for i in range(space.num_nodes) if space.output == "all" or i not in parents
    ]
    total = " + ".join(f"node_{i}" for i in last)
    steps.append(
        f"output = ({total}) / {len(last)}" if last[1:] else f"output = {total}"
    )
    following = "output" if space.carry == "output" else f"node_{space.num_nodes - 1}"
    if space.max_norm is None:
        steps.append(f"return {following}, output")
    else:
        steps += [
            f"norm = jnp.linalg.norm({following}, axis=-1, keepdims=True)",
            f"scale = jnp.minimum(1.0, {space.max_norm!r} / jnp.maximum(norm, 1e-12))",
            f"return {following} * jax.lax.stop_gradient(scale), output",
        ]
    lines = [
        "def node(parent, activations, function):",
        "    gate, value = jnp.split(activations, 2, -1)",
        "    return parent + jax.nn.sigmoid(gate) * (function(value) - parent)",
        "",
        "recurrent = self.recurrent[...]",
        *(f"kernel_{i} = self.node_{i}[...]" for i in range(1, space.num_nodes)),
        "",
        "def step(state, x):",
        *(f"    {line}" for line in steps),
        "",
        "x = x @ self.input[...] + self.bias[...]",
        "state, outputs = jax.lax.scan(step, state, x.swapaxes(0, 1))",
        "return outputs.swapaxes(0, 1), state",
    ]
    return "\n".join(lines)


def _weights(space: Any, child: Any) -> dict[str, np.ndarray]:
    """Kernels as Flax has them, ``[inputs, outputs]``."""
    found = {
        "embedding": child["embedding"],
        "output_bias": child["output_bias"],
        "cell.input": np.transpose(child["input"]),
        "cell.bias": child["bias"],
        "cell.recurrent": np.transpose(child["recurrent"]),
    }
    for i in range(1, space.num_nodes):
        found[f"cell.node_{i}"] = np.transpose(child["edges"][i - 1])
    return {name: np.ascontiguousarray(value) for name, value in found.items()}
