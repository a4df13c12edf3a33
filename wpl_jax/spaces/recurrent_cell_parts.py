"""The parts of a recurrent cell's language model: all children have the same."""

from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.parts import TIMED_WORDS, Part, Program, example
from wpl_jax.spaces.highway_scan import highway_scan
from wpl_jax.spaces.words import linear
from wpl_jax.supernet import Architecture, gather


def parts(space: Any) -> tuple[Part, Part]:
    """Embedding and softmax, and the cell.

    Args:
      space: A :class:`wpl_jax.spaces.recurrent_cell.RecurrentCell`.
    """
    hidden, words, nodes = space.hidden, space.vocabulary_size, space.num_nodes

    def softmax(batch: int) -> Program:
        def run(x, tokens, embedding, bias):
            hidden = x + jnp.take(embedding, tokens, axis=0)
            return linear(hidden, embedding, bias)

        tokens = jnp.zeros((batch, TIMED_WORDS), jnp.int32)
        x = example(batch, TIMED_WORDS, hidden)
        return run, (x, tokens, example(words, hidden), example(words))

    def cell(batch: int) -> Program:
        wiring = space.wiring(jnp.zeros(len(space.decisions), jnp.int32))

        def run(x, state, child):
            inputs = linear(x, child["input"], child["bias"])
            return highway_scan(
                *(inputs, state, child["recurrent"], child["edges"], wiring),
                *(space.carry, space.max_norm),
            )[0]

        kernel = example(2 * hidden, hidden)
        child = {
            "input": kernel,
            "recurrent": kernel,
            "bias": example(2 * hidden),
            "edges": jnp.stack([kernel] * (nodes - 1)),
        }
        x = example(TIMED_WORDS, batch, hidden)
        return run, (x, jnp.zeros((batch, hidden)), child)

    # Of the input, the first node and the other nodes.
    products = (nodes + 1) * 2 * hidden**2
    return (
        Part("embedding and softmax", words * (hidden + 1), words * hidden, softmax),
        Part("cell", products + 2 * hidden, products, cell),
    )


def uses(space: Any) -> jax.Array:
    """Each part is used once, ``float32[parts]``."""
    return jnp.ones(len(space.parts))


def program(space: Any, choice: Any, batch: int) -> Program:
    """A whole child on sequences of words; the choice is a constant of the program."""
    architecture = Architecture(jnp.asarray(choice))
    params = gather(space.init(jax.random.key(0)), space.rows(architecture))

    def run(state, child, tokens):
        hidden = space.apply(child, architecture, tokens, state=state)
        return space.logits(child, hidden.raw)

    tokens = jnp.zeros((batch, TIMED_WORDS), jnp.int32)
    return run, (space.initial_state(batch), params, tokens)
