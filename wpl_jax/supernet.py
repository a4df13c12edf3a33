"""What a search space is: decisions, shared parameters, and the part a child uses.

An :class:`Architecture` is a choice of each decision, or a mixture of all choices.
Strategies know a space by its decisions, so that each works on every space.

A child is a set of rows of the shared parameters. The functions that take them out and
put them back are those of :mod:`wpl_jax.common.rows`, and are names of this module,
too. The rows are data: every child runs in the compilation of the first.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.parts import Part, Program, sum_of_uses
from wpl_jax.common.rows import ALL as ALL
from wpl_jax.common.rows import EVERY_ROW as EVERY_ROW
from wpl_jax.common.rows import PAD as PAD
from wpl_jax.common.rows import add_rows as add_rows
from wpl_jax.common.rows import count_parameters as count_parameters
from wpl_jax.common.rows import gather as gather
from wpl_jax.common.rows import is_all as is_all
from wpl_jax.common.rows import is_whole
from wpl_jax.common.rows import mask as mask
from wpl_jax.common.rows import real_rows as real_rows
from wpl_jax.common.rows import scatter as scatter
from wpl_jax.errors import UserError, shorten


class Decision(NamedTuple):
    """One choice that a space leaves open."""

    name: str
    choices: tuple[str, ...]
    ordered: bool = False  # nodes, say, the nearest one last


class Architecture(NamedTuple):
    """One child of a supernet, or a mixture of all of them; arrays may be traced.

    Files, tables, retraining and pictures use ``choice`` alone.

    Attributes:
      choice: For each decision the index of what is chosen. Of a mixture, what it is
        discretized to.
      weights: Of a mixture: the forward pass computes every choice of a decision and
        takes their sum, weighted by these, a row for each of :attr:`Space.groups`.
        None where choices are made.
      gates: Of a single path that its weights are to have gradients through (GDAS;
        Dong and Yang, 2019), a row for each of :attr:`Space.groups`: 1 for what is
        chosen and 0 for the rest, in value. The forward pass multiplies what is chosen
        by its gate and adds the gates of the rest. None for no gradients.
    """

    choice: jax.Array  # int32[num_decisions]
    weights: jax.Array | None = None  # float32[num_groups, max_choices]
    gates: jax.Array | None = None  # float32[num_groups, max_choices]


# Two groups of decisions, by their numbers; the choices of the first of one group are
# those of the first of the other, and so on.
Exchange = tuple[tuple[int, ...], tuple[int, ...]]


class Space(Protocol):
    """A supernet: every method is pure and takes the architecture as data.

    A space is hashable, and equal to another with the same settings. A class that
    inherits from this one has the defaults of its methods.

    Attributes:
      word_rows: Paths of parameters with a row for each word of the vocabulary.
      mixes: Whether :meth:`apply` knows what to do with the weights of an
        architecture. If not, strategies that need them refuse the space.
    """

    name: str
    word_rows: tuple[str, ...] = ()
    mixes: bool = False

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What a child chooses."""

    @property
    def draws(self) -> bool:
        """Whether :meth:`apply` knows what to do with the gates of an architecture.

        By default, if it mixes and has no groups beside the decisions.
        """
        return self.mixes and len(self.groups) == len(self.decisions)

    @property
    def groups(self) -> tuple[Decision, ...]:
        """The sets of choices over which a mixture has a distribution of weights.

        The decisions by default. They may be others, such as the operations of all
        edges of which a child keeps some, or the inputs of a node.
        """
        return self.decisions

    def init(self, key: jax.Array) -> Any:
        """The shared parameters of all children."""

    def rows(self, architecture: Architecture) -> Any:
        """Which rows of each shared parameter a child uses.

        Returns:
          A tree like the parameters; each leaf the distinct indices of the rows,
          ``int32[n]``, or ``ALL`` where every child uses the whole parameter. Where
          children differ in how many rows they use, ``PAD + i`` fills up. Of a
          mixture, ``EVERY_ROW`` of each stack.
        """

    def apply(
        self, child: Any, architecture: Architecture, *args: Any, **kwargs: Any
    ) -> Any:
        """The forward pass of one child.

        Args:
          child: Its parameters, as :func:`wpl_jax.common.rows.gather` takes them out.
          architecture: The child.
          *args: What the task feeds it.
          **kwargs: What the task passes besides.
        """

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws each decision uniformly, ``int32[num_decisions]``."""
        return random_choice(key, self.decisions)

    def discretize(self, weights: jax.Array) -> jax.Array:
        """The architecture with the largest weight of each decision.

        Args:
          weights: ``float32[num_groups, max_choices]``.

        Returns:
          ``int32[num_decisions]``.
        """
        return largest_weights(weights, self.groups)[: len(self.decisions)]

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Groups of decisions whose choices can be exchanged; by default none.

        The architecture with exchanged choices is isomorphic. No decision is in two of
        the pairs.
        """
        return ()

    def canonical_form(self, choice: Any) -> Hashable:
        """A value that only isomorphic architectures share.

        Isomorphic architectures compute the same function after the same training. By
        default it is the choice, with all :attr:`exchanges` in order.

        Args:
          choice: ``int[num_decisions]``.
        """
        ordered = in_order(self, np.asarray(choice)[None], np)
        return tuple(ordered[0].tolist())

    def classes(self) -> np.ndarray | None:
        """One architecture of each isomorphism class; by default, None: not listed.

        Returns:
          ``int32[classes, num_decisions]``.
        """
        return None

    @property
    def parts(self) -> tuple[Part, ...]:
        """What children consist of; by default (), the space does not list it."""
        return ()

    def uses(self, architecture: Architecture) -> jax.Array:
        """How often each of the :attr:`parts` is used, ``float32[parts]``.

        Of a mixture the expected numbers for a child that is drawn by its weights. They
        are differentiable in the weights.

        Args:
          architecture: The child or the mixture.
        """
        del architecture
        return jnp.zeros(len(self.parts))

    def program(self, choice: Any, batch: int) -> Program | None:
        """A whole child in evaluation, to be timed; by default None: it cannot be.

        Args:
          choice: ``int32[num_decisions]``, a constant of the program.
          batch: Number of images, or of sequences of words.
        """
        del choice, batch
        return None

    def costs(self, architecture: Architecture) -> dict[str, jax.Array]:
        """Costs by name: ``"parameters"``, and with parts ``"multiply_adds"``.

        Args:
          architecture: A child, or a mixture with :attr:`parts`, whose costs are
            expected ones.

        Returns:
          ``float32[]``; the parameters of a child are ``int32[]``.
        """
        found, parts = {}, self.parts
        if architecture.weights is None:
            key = jax.eval_shape(lambda: jax.random.key(0))
            shapes = jax.eval_shape(self.init, key)
            found["parameters"] = count_parameters(shapes, self.rows(architecture))
        if parts:
            uses = self.uses(architecture)
            for name in ("parameters", "multiply_adds"):
                of_parts = [getattr(part, name) for part in parts]
                found.setdefault(name, sum_of_uses(uses, of_parts))
        return found

    def network(self, choice: Any, child: Any, statistics: Any) -> Any:
        """One child to be written out as Flax source; by default, None: it cannot be.

        Args:
          choice: ``int32[num_decisions]``.
          child: Its parameters, as :func:`wpl_jax.common.rows.gather` returns them.
          statistics: Batch statistics that it is normalized with.

        Returns:
          A :class:`wpl_jax.spaces.network.Network`.
        """
        del choice, child, statistics
        return None

    def to_notation(self, choice: Any) -> str | None:
        """A child as published code writes it; by default, None: there is no notation.

        Args:
          choice: ``int[num_decisions]``.
        """
        del choice
        return None

    def from_notation(self, text: str) -> np.ndarray:
        """The choice of a child that :meth:`to_notation` wrote, or a published name.

        Args:
          text: The child in the notation.

        Returns:
          ``int32[num_decisions]``.

        Raises:
          UserError: If the text is not of a child of this space; by default, always.
        """
        raise UserError(f"The space {self.name} reads {shorten(text)} as no child.")

    def graphs(self, choice: Any) -> dict[str, "Graph"]:
        """One child as pictures have it: its cells by their names.

        Args:
          choice: ``int32[num_decisions]``.
        """


class Graph(NamedTuple):
    """A child for people to look at: nodes by name, from inputs to outputs."""

    nodes: dict[str, str]  # name to label, each after those that feed it
    edges: tuple[tuple[str, str, str], ...]  # from, to, label


def stacks(space: Space, architecture: Architecture) -> Any:
    """A tree of bool like the parameters: which are stacks with rows of choices.

    Args:
      space: The space.
      architecture: The shapes of a child; all children have the same stacks.
    """
    found: list[Any] = []

    def trace(architecture):
        rows = space.rows(architecture)
        found.append(jax.tree.map(lambda index: not is_all(index), rows))

    jax.eval_shape(trace, architecture)
    return found[0]


def norms_of_choices(space: Space, choice: jax.Array, child: Any) -> jax.Array:
    """What each choice of a child contributes to a tree, such as its gradient.

    The rows of a choice are those that the child would not use with any other choice in
    this decision.

    Args:
      space: The space.
      choice: The child, ``int32[num_decisions]``.
      child: A tree like the child's parameters.

    Returns:
      The sum of the Euclidean norms of each choice's rows, ``float32[num_decisions]``;
      0 for a choice without rows of its own, or without an alternative.
    """

    def rows_of(choice):
        rows = jax.tree.leaves(space.rows(Architecture(choice)))
        return [None if is_whole(index) else index for index in rows]

    counts = jnp.asarray(num_choices(space.decisions))
    decisions = jnp.arange(len(counts))
    steps = jnp.arange(1, max(num_choices(space.decisions)))

    def with_another(decision, step):
        other = (choice[decision] + step) % counts[decision]
        return rows_of(choice.at[decision].set(other))

    of_steps = jax.vmap(with_another, (None, 0))
    others = jax.vmap(of_steps, (0, None))(decisions, steps)
    exists = steps < counts[:, None]  # [decisions, steps]
    total = jnp.zeros(len(counts))
    for index, of_others, leaf in zip(
        rows_of(choice), others, jax.tree.leaves(child), strict=True
    ):
        if index is None:
            continue
        squares = jnp.abs(leaf.astype(jnp.float32)) ** 2
        norms = jnp.sqrt(jnp.sum(squares.reshape(len(leaf), -1), 1))
        # Of each decision and row, whether any other choice uses the row.
        used = jnp.any(index[:, None] == of_others[:, :, None], -1)
        kept = jnp.any(used & exists[:, :, None], 1)
        own = ~kept & (index < PAD) & (counts[:, None] > 1)
        total += jnp.sum(jnp.where(own, norms, 0), 1)
    return total


def num_choices(decisions: Sequence[Decision]) -> tuple[int, ...]:
    """The number of choices of each decision."""
    return tuple(len(decision.choices) for decision in decisions)


def random_choice(key: jax.Array, decisions: Sequence[Decision]) -> jax.Array:
    """Draws every decision uniformly, ``int32[num_decisions]``."""
    bounds = jnp.asarray(num_choices(decisions))
    return jax.random.randint(key, bounds.shape, 0, bounds, jnp.int32)


def in_order(space: Space, choices: Any, xp: Any = jnp) -> Any:
    """Architectures with the choices of each exchange in order, the smaller first.

    Args:
      space: The space.
      choices: ``int[n, num_decisions]``.
      xp: ``numpy``, or ``jax.numpy`` for traced choices.

    Returns:
      Isomorphic architectures, like ``choices``.
    """
    counts, columns = num_choices(space.decisions), list(choices.T)
    for first, second in space.exchanges:
        numbers = [0, 0]  # of the choices of a group, the first of them weighs most
        for pair in zip(first, second, strict=True):
            sizes = counts[pair[0]]
            numbers = [
                n * sizes + columns[i] for n, i in zip(numbers, pair, strict=True)
            ]
        swap = numbers[1] < numbers[0]
        for i, j in zip(first, second, strict=True):
            a, b = columns[i], columns[j]
            columns[i], columns[j] = xp.where(swap, b, a), xp.where(swap, a, b)
    return xp.stack(columns, axis=1)


def is_choice(decisions: Sequence[Decision]) -> np.ndarray:
    """False where weights are padded, ``bool[num_decisions, max_choices]``.

    Decisions with fewer choices than others are padded.
    """
    counts = np.asarray(num_choices(decisions))
    return np.arange(counts.max())[None] < counts[:, None]


def largest_weights(weights: jax.Array, decisions: Sequence[Decision]) -> jax.Array:
    """The index of each decision's largest weight, ``int32[num_decisions]``."""
    weights = jnp.where(is_choice(decisions), weights, -jnp.inf)
    return jnp.argmax(weights, axis=1).astype(jnp.int32)


def first_of_each_class(space: Space, choices: np.ndarray) -> np.ndarray:
    """The first of those with equal :meth:`Space.canonical_form`.

    Args:
      space: The space.
      choices: Architectures, ``int32[n, num_decisions]``.

    Returns:
      ``int32[classes, num_decisions]``.
    """
    found: dict[Hashable, np.ndarray] = {}
    for choice in choices:
        found.setdefault(space.canonical_form(choice), choice)
    return np.stack(list(found.values()))
