"""Latency of children: a table of their parts, measured once on the device at hand.

A part is timed in a loop within one compiled program, so that what a call costs does
not count: the difference between two numbers of repetitions, divided by theirs. The
latency of a child is what a call costs and the sum over the parts that it uses. How far
such sums are from whole children is measured beside it.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.counted import counted
from wpl_jax.common.settings import check_int
from wpl_jax.errors import UserError
from wpl_jax.parts import Part, Program
from wpl_jax.runs.run_files import (
    NUMBER,
    OBJECT,
    TEXT,
    check_fields,
    list_of,
    read_json,
    to_json,
    write_atomically,
)
from wpl_jax.spaces.costs import LATENCY, Costs, Latency
from wpl_jax.supernet import Space

LATENCY_FILE = "latency.json"
_REMEDY = "Delete it; --mode=latency measures it again."
_SEED = 0  # of the whole children that are measured
_LEAST_CALLS = 20


class Timer(Protocol):
    """What times; both methods return milliseconds."""

    def of_loop(self, run: Callable[[int], Any]) -> float:
        """One repetition of a function of their number, without what a call costs."""

    def of_call(self, run: Callable[[], Any]) -> float:
        """One call of a function."""


@dataclasses.dataclass(frozen=True)
class LatencySettings:
    """How latency is measured.

    Attributes:
      batch_size: Images, or sequences of 32 words, of a call.
      rounds: How often each part is timed; the shortest time counts, as other programs
        on the machine can only add to it.
      children: Random children that are measured as a whole, to compare the sums with.
    """

    batch_size: int = 1
    rounds: int = 5
    children: int = 5

    def __post_init__(self) -> None:
        """Checks the settings."""
        for name in ("batch_size", "rounds"):
            check_int(self, name, 1)
        check_int(self, "children", 0)


class Stopwatch(Timer):
    """Times with a clock; the shortest time counts."""

    def __init__(
        self,
        rounds: int,
        clock: Callable[[], float] = time.perf_counter,
        least: float = 0.01,
    ):
        """Takes the clock.

        Args:
          rounds: How often each number of repetitions is timed; a call is timed 20
            times as often.
          clock: Seconds.
          least: Seconds that the repetitions are to take.
        """
        self._rounds, self._clock, self._least = rounds, clock, least

    def of_call(self, run: Callable[[], Any]) -> float:
        """The shortest of several calls."""
        run()  # It may compile.
        calls = range(_LEAST_CALLS * self._rounds)
        return 1000 * min(self._seconds(lambda _: run(), 1) for _ in calls)

    def of_loop(self, run: Callable[[int], Any]) -> float:
        """The difference between two numbers of repetitions, divided by theirs."""
        run(1)  # It may compile.
        number = 1
        while self._seconds(run, number) < self._least and number < 2**20:
            number *= 2
        few, many = np.inf, np.inf
        for _ in range(self._rounds):
            few = min(few, self._seconds(run, number))
            many = min(many, self._seconds(run, 2 * number))
        return 1000 * max(many - few, 0.0) / number

    def _seconds(self, run: Callable[[int], Any], number: int) -> float:
        start = self._clock()
        run(number)
        return self._clock() - start


class Child(NamedTuple):
    """A whole child that was measured."""

    choice: list[int]
    measured: float  # milliseconds
    summed: float  # milliseconds of its parts


class Table(NamedTuple):
    """Milliseconds of the parts of a space."""

    space: str  # its settings, as text
    call: float  # of a call that computes nothing
    parts: dict[str, float]  # by name
    children: list[Child]


class Measurements(NamedTuple):
    """What was measured on a device."""

    device: str
    batch_size: int
    tables: list[Table]

    def of(self, space: Space) -> Latency | None:
        """The latency of a space's parts; None if it has not been measured."""
        names = [part.name for part in space.parts]
        for table in self.tables:
            if table.space == repr(space) and set(names) == table.parts.keys():
                return Latency(table.call, tuple(table.parts[n] for n in names))
        return None

    def describe(self) -> str:
        """A sentence about the device, and one about the error of the sums."""
        said = f"Latency on {self.device}, {self.batch_size} in a call."
        children = [child for table in self.tables for child in table.children]
        if not children:
            return said
        error = relative_error(children)
        return (
            f"{said} The sums of parts differ from "
            f"{counted(len(children), 'whole child', 'whole children')} "
            f"by {error:.1%} (mean relative error)."
        )


def relative_error(children: Sequence[Child]) -> float:
    """The mean of ``|sum - measured| / measured`` over children."""
    return float(np.mean([abs(c.summed - c.measured) / c.measured for c in children]))


def measure(space: Space, settings: LatencySettings, timer: Timer) -> Table:
    """Times the parts of a space, and some whole children.

    Args:
      space: With parts.
      settings: How it is measured.
      timer: What times; :class:`Stopwatch`.

    Raises:
      UserError: If the space does not list its parts.
    """
    if not space.parts:
        raise UserError(
            f"The space {space.name} does not list what its children consist of "
            "(Space.parts), so there is nothing to be timed."
        )
    batch = settings.batch_size
    parts = {part.name: _time_part(part, batch, timer) for part in space.parts}
    choices = [
        np.asarray(space.sample(key))
        for key in jax.random.split(jax.random.key(_SEED), max(settings.children, 1))
    ]
    wholes = [space.program(choice, batch) for choice in choices]
    call = 0.0
    if wholes[0] is not None:
        call = timer.of_call(_call(lambda x, *_: jnp.ravel(x)[:1], wholes[0][1]))
    costs = Costs(space, Latency(call, tuple(parts.values())))
    children = []
    for choice, whole in zip(choices[: settings.children], wholes, strict=False):
        if whole is not None:
            summed = float(costs.of_choices(choice[None])[LATENCY][0])
            found = timer.of_call(_call(*whole))
            children.append(Child(choice.tolist(), found, summed))
    return Table(repr(space), call, parts, children)


def _time_part(part: Part, batch: int, timer: Timer) -> float:
    return 0.0 if part.program is None else timer.of_loop(_loop(part.program(batch)))


def _loop(program: Program) -> Callable[[int], Any]:
    """Repeats a program within one compiled call."""
    function, (first, *others) = program

    @jax.jit
    def repeat(number, first, others):
        def again(_, state):
            x, y = state
            # The next input depends on the last output, or XLA would compute it once;
            # the state holds the outputs, or it would not compute all of them.
            last = jnp.ravel(jax.tree.leaves(y)[0])[0].astype(x.dtype)
            x = x.at[(0,) * x.ndim].add(0 * last)
            return x, function(x, *others)

        outputs = jax.eval_shape(function, first, *others)
        zeros = jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), outputs)
        return jax.lax.fori_loop(0, number, again, (first, zeros))

    return lambda number: jax.block_until_ready(repeat(number, first, others))


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Calls a compiled function."""
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arguments))


def device_name() -> str:
    """The device that measurements are made on."""
    device = jax.devices()[0]
    return f"{device.platform} ({device.device_kind}), jax {jax.__version__}"


def write(folder: Path, found: Measurements) -> None:
    """Writes ``latency.json``."""
    tables = [
        {**table._asdict(), "children": [child._asdict() for child in table.children]}
        for table in found.tables
    ]
    content = {**found._asdict(), "tables": tables}
    write_atomically(folder / LATENCY_FILE, to_json(content))


def read(folder: Path) -> Measurements | None:
    """What :func:`write` has written; None if there is nothing.

    Raises:
      UserError: If the file is something else.
    """
    path = folder / LATENCY_FILE
    if not path.exists():
        return None
    fields = {"device": TEXT, "batch_size": NUMBER, "tables": list_of(OBJECT)}
    found = read_json(path, fields, _REMEDY)
    tables = []
    of_table = {"space": TEXT, "call": NUMBER, "parts": OBJECT}
    of_child = {"measured": NUMBER, "summed": NUMBER}
    for one in found["tables"]:
        check_fields(one, {**of_table, "children": list_of(OBJECT)}, path, _REMEDY)
        check_fields(one["parts"], dict.fromkeys(one["parts"], NUMBER), path, _REMEDY)
        for child in one["children"]:
            check_fields(child, of_child, path, _REMEDY)
        children = [
            Child(child.get("choice", []), child["measured"], child["summed"])
            for child in one["children"]
        ]
        tables.append(Table(one["space"], one["call"], one["parts"], children))
    return Measurements(found["device"], int(found["batch_size"]), tables)
