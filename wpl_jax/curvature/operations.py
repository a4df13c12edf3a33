"""The operations of a loss that :mod:`wpl_jax.curvature.split` has divided."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

Arrays = dict[int, Any]  # values by their names


@dataclasses.dataclass(eq=False)
class Level:
    """The body of the loss, or of a loop in it.

    Attributes:
      parent: What the loop stands in; None for the loss itself.
      length: Number of the loop's steps.
      steps: Operations without examples.
      batched: Operations on examples.
      emitted: Names of the values of ``steps`` that are met, with the names of their
        stacks, which belong to levels further out.
      slices: Names of the loop's slices of arrays without examples.
      sites: The sites in it, those of inner loops included.
    """

    parent: "Level | None" = None
    length: int = 1
    steps: list["Step"] = dataclasses.field(default_factory=list)
    batched: list["Batched | Loop"] = dataclasses.field(default_factory=list)
    emitted: dict[int, int] = dataclasses.field(default_factory=dict)
    slices: dict[int, int] = dataclasses.field(default_factory=dict)
    sites: list["Site"] = dataclasses.field(default_factory=list)

    def path(self) -> list["Level"]:
        """The loops from the outermost to this one."""
        return [*self.parent.path(), self] if self.parent else []

    def depth(self) -> int:
        """How many loops it stands in."""
        return len(self.path())


class Step(NamedTuple):
    """An operation without examples."""

    equation: Any  # None for a loop of such operations
    function: Callable[..., Any]
    inputs: list[int]
    outputs: list[int]


class Batched(NamedTuple):
    """An operation on examples."""

    function: Callable[..., list[Any]]
    inputs: list[int]
    outputs: list[int]
    site: "Site | None"


class Site(NamedTuple):
    """An operation in which parameters meet examples."""

    number: int
    equation: Any  # None where a value of parameters alone is taken for every example
    function: Callable[..., list[Any]]
    inputs: list[int]
    positions: list[int]  # of the inputs that depend on parameters
    level: Level
    avals: list[Any]  # of the results

    @property
    def is_opaque(self) -> bool:
        """Whether its gradient is a rule of its owner's, to be taken as it is."""
        return self.equation is not None and "custom_vjp" in str(
            self.equation.primitive.name
        )


class Carry(NamedTuple):
    """What goes on from one step of a loop to the next."""

    before: int
    inside: int
    following: int
    after: int


class Loop(NamedTuple):
    """A loop on examples."""

    level: Level
    options: dict[str, Any]  # of ``lax.scan``
    carries: list[Carry]
    slices: list[tuple[int, int]]  # outside and inside
    stacks: list[tuple[int, int]]  # inside and outside


def run_steps(steps: list[Step], env: Arrays) -> None:
    """Runs operations without examples, and adds their results to ``env``."""
    for step in steps:
        outputs = step.function(*(env[v] for v in step.inputs))
        env.update(zip(step.outputs, outputs, strict=True))
