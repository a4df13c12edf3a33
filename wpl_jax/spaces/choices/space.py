"""Search spaces of networks with choices."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.parts import Part, Program
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.errors import UserError
from wpl_jax.spaces.choices.branches import choose, gated, mix, trace
from wpl_jax.spaces.choices.context import Call, running
from wpl_jax.spaces.choices.discovery import Discovered, discover
from wpl_jax.spaces.choices.layout import Layout, is_run, lay_out
from wpl_jax.spaces.choices.networks import (
    FunctionNetwork,
    Mode,
    ModuleNetwork,
    Network,
)
from wpl_jax.spaces.choices.parts import Piece, find, uses
from wpl_jax.spaces.choices.pictures import graph
from wpl_jax.spaces.choices.timing import programs, whole
from wpl_jax.spaces.choices.uses import Chain
from wpl_jax.supernet import Architecture, Decision, Graph, Space


class Derived(NamedTuple):
    """What a space takes from its network.

    Attributes:
      network: The network.
      found: Its choices.
      layout: Where its parameters are.
    """

    network: Network
    found: Discovered
    layout: Layout


class ChoiceSpace(Space):
    """A space whose decisions are the choices of a network.

    A class that inherits from it has :meth:`make_network` and :meth:`inputs_of`.

    Attributes:
      traced: Number of examples that the network is traced with.
    """

    mixes = True
    traced = 1

    def make_network(self) -> Network:
        """The network, with the settings of the space."""
        raise NotImplementedError

    def inputs_of(self, batch: int) -> tuple[Any, ...]:
        """Shapes of the network's inputs for a number of examples."""
        raise NotImplementedError

    @functools.cached_property
    def derived(self) -> Derived:
        """What tracing the network finds.

        Raises:
          UserError: If one of its choices is wrong.
        """
        network = self.make_network()
        found = discover(network, self.inputs_of(self.traced))
        return Derived(network, found, lay_out(found))

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The choices of the network, in the order of their first calls."""
        return self.derived.found.decisions

    def init(self, key: jax.Array) -> Any:
        """The shared parameters.

        Args:
          key: PRNG key.

        Returns:
          ``shared``, parameters outside of choices by name; ``choices``, for each
          decision its stacks. A row of a stack is the parameter of one branch.
        """
        params = self.derived.network.init(key)
        return self.derived.layout.stack(jax.tree.leaves(params))

    def rows(self, architecture: Architecture) -> Any:
        """The row of the chosen branch in each stack."""
        return self.derived.layout.rows(architecture)

    def run(
        self, child: Any, architecture: Architecture, *inputs: Any, mode: Mode
    ) -> tuple[Any, Any]:
        """Runs a child.

        Args:
          child: Its parameters.
          architecture: The child, a child with gates, or a mixture.
          *inputs: Of the network.
          mode: Training or evaluation.

        Returns:
          What the network returns, and its batch statistics.
        """
        with running(_Child(self.decisions, architecture)):
            params = self.params_of(child, architecture.weights is not None)
            return self.derived.network.run(params, inputs, mode)

    def params_of(self, child: Any, whole: bool = False) -> Any:
        """Parameters of a child as the network takes them.

        Args:
          child: As :func:`wpl_jax.common.rows.gather` takes them out.
          whole: Whether these are all rows, as those of a mixture.

        Returns:
          The tree of the network. A branch that the child does not run has zeros, or
          parameters of the branch that it runs.
        """
        leaves = self.derived.layout.unstack(child, whole)
        return jax.tree.unflatten(self.derived.found.tree, leaves)

    def module(self, child: Any, batch_stats: Any = None) -> Any:
        """The network of a child as an ordinary NNX module.

        It runs inside of ``wpl_jax.fixed_choices``, with the names of the child's
        choices.

        Args:
          child: Parameters of the child, such as those of a trained model.
          batch_stats: Its batch statistics; None for those that a module starts with.

        Raises:
          UserError: If the network is no module.
        """
        network = self.derived.network
        if not isinstance(network, ModuleNetwork):
            raise UserError(
                f"The network of {self.name} is a function. Call it with the "
                "parameters that params_of returns."
            )
        return network.module(self.params_of(child), batch_stats)

    def canonical_form(self, choice: Any) -> Hashable:
        """The choice; those inside of branches that do not run are left out."""
        choice = np.asarray(choice)
        return tuple(
            int(number) if bool(is_run(choice, places)) else -1
            for number, places in zip(choice, self.derived.found.places, strict=True)
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """Each branch, and what is outside of choices."""
        return tuple(piece.part for piece in self._pieces)

    @functools.cached_property
    def _pieces(self) -> tuple[Piece, ...]:
        timed: dict[int, dict[Chain, Program]] = {}

        def program_of(chain: Chain, batch: int) -> Program:
            if batch not in timed:
                network, found, _ = self.derived
                timed[batch] = programs(network, self.inputs_of(batch), found)
            return timed[batch][chain]

        return find(self.derived.found, self.derived.layout, self.traced, program_of)

    def uses(self, architecture: Architecture) -> jax.Array:
        """Whether each part is used; of a mixture, with which probability."""
        return uses(self._pieces, self.decisions, architecture)

    def program(self, choice: Any, batch: int) -> Program:
        """The network with fixed choices, in evaluation."""
        network, found, _ = self.derived
        params = self.params_of(self.init(jax.random.key(0)), whole=True)
        names = {
            decision.name: decision.choices[int(number)]
            for decision, number in zip(found.decisions, choice, strict=True)
        }
        return whole(network, self.inputs_of(batch), found, names, params)

    def graphs(self, choice: Any) -> dict[str, Graph]:
        """The chosen branches, in the order in which they feed each other."""
        return {"network": graph(self.derived.found, np.asarray(choice))}


class _Child:
    """The pass that runs a child, or a mixture."""

    def __init__(self, decisions: tuple[Decision, ...], architecture: Architecture):
        self._decisions = {d.name: (i, d) for i, d in enumerate(decisions)}
        self._architecture = architecture

    def choose(self, call: Call) -> Any:
        number, decision = self._decisions.get(call.name, (0, None))
        if decision is None or decision.choices != tuple(call.branches):
            raise UserError(
                f"The choice {call.name!r} among {list(call.branches)} was not made "
                "when the space was derived. Choices may depend on settings of the "
                "network, and neither on its inputs nor on whether it is trained."
            )
        choice, weights, gates = self._architecture
        branches = trace(call)
        if weights is not None:
            return mix(branches, weights[number, : len(call.branches)])
        found = choose(branches, choice[number])
        if gates is None:
            return found
        return gated(found, gates[number, : len(call.branches)], choice[number])


@dataclasses.dataclass(frozen=True)
class FunctionSpace(ChoiceSpace):
    """The space that :func:`wpl_jax.space_of` returns.

    Attributes:
      function: The network, or what makes a module.
      initializer: What draws the parameters; None of a module.
      inputs: Shapes of the network's inputs.
      batched: Whether the first axis of each input is that of examples.
    """

    function: Callable[..., Any]
    initializer: Callable[[jax.Array], Any] | None
    inputs: tuple[Any, ...] = dataclasses.field(hash=False)
    batched: bool = False

    def __post_init__(self) -> None:
        """Derives the space."""
        counts = {x.shape[:1] for x in jax.tree.leaves(self.inputs)}
        if self.batched and (len(counts) != 1 or () in counts or (0,) in counts):
            shapes = [x.shape for x in jax.tree.leaves(self.inputs)]
            raise UserError(
                f"The inputs of {self!r} have the shapes {shapes}, expected the same "
                "number of examples along the first axis of each (batched=True)."
            )
        _ = self.derived

    def __repr__(self) -> str:
        """Names of the functions and shapes of inputs, the same in each process."""
        made_of = [f for f in (self.function, self.initializer) if f is not None]
        names = [f"{f.__module__}.{_name(f)}" for f in made_of]
        shapes = [f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(self.inputs)]
        return f"space_of({', '.join(names + shapes)})"

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the function."""
        return _name(self.function).rpartition(".")[2]

    @property
    def traced(self) -> int:  # type: ignore[override]
        """The number of examples that the inputs have; 1 if they are not batches."""
        return jax.tree.leaves(self.inputs)[0].shape[0] if self.batched else 1

    def inputs_of(self, batch: int) -> tuple[Any, ...]:
        """Shapes of the inputs for a number of examples.

        Args:
          batch: The number; 1 if the inputs are not batches.

        Raises:
          UserError: If it is another number, and they are not.
        """
        if not self.batched:
            if batch != 1:
                raise UserError(
                    f"{self!r} has fixed inputs, so it cannot be timed for {batch} "
                    "examples. Set batch_size to 1: one call with these inputs. Or "
                    "pass batched=True to wpl_jax.space_of, if the first axis of each "
                    "input is that of examples."
                )
            return self.inputs
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), self.inputs
        )

    def make_network(self) -> Network:
        """The function, or the module."""
        if self.initializer is None:
            return ModuleNetwork(self.function)
        return FunctionNetwork(self.function, self.initializer)

    def apply(
        self,
        child: Any,
        architecture: Architecture,
        *args: Any,
        key: jax.Array | None = None,
        batch_stats: Any = None,
        axis: Axis = NO_AXIS,
    ) -> Any:
        """What the network returns.

        Args:
          child: Parameters of the child.
          architecture: The child or the mixture.
          *args: Inputs of the network.
          key: PRNG key of a training step; None in evaluation.
          batch_stats: Batch statistics to normalize with; None for those of the batch.
          axis: Devices that divide the batch.
        """
        mode = Mode(key, batch_stats, axis)
        found, _ = self.run(child, architecture, *args, mode=mode)
        return found


def _name(function: Callable[..., Any]) -> str:
    """The name of a function, of an object that of its class."""
    return getattr(function, "__qualname__", type(function).__qualname__)


def space_of(
    network: Callable[..., Any],
    *inputs: Any,
    init: Callable[[jax.Array], Any] | None = None,
    batched: bool = False,
) -> FunctionSpace:
    """The search space of a network that calls :func:`wpl_jax.choice`.

    ``space.apply(child, architecture, *inputs)`` returns what the network returns. A
    network for batches of examples whose sizes the data gives is made a space by
    :func:`wpl_jax.space`.

    Args:
      network: A function of parameters and inputs; without ``init``, a function of
        ``flax.nnx.Rngs`` that makes an NNX module.
      *inputs: Examples of the inputs, or their ``jax.ShapeDtypeStruct``.
      init: Draws the parameters of all branches from a PRNG key.
      batched: Whether the first axis of each input is that of examples. Then costs
        are those of one example, and latency is measured for any number of them.
        Otherwise both are those of one call with the inputs.

    Returns:
      The space.

    Raises:
      UserError: If a choice is wrong, with its name. Nothing is compiled.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> import wpl_jax
      >>> def network(params, x):
      ...     branches = {"wide": lambda x: x @ params["w"], "double": lambda x: 2 * x}
      ...     return wpl_jax.choice("layer", branches, x)
      >>> init = lambda key: {"w": jax.random.normal(key, (3, 3))}
      >>> space = wpl_jax.space_of(network, jnp.ones((1, 3)), init=init)
      >>> space.decisions
      (Decision(name='layer', choices=('wide', 'double'), ordered=False),)
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), inputs)
    return FunctionSpace(network, init, shapes, batched)
