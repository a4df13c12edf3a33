"""Latency of children: a table of their parts, measured once on the device at hand.

A part is timed in a loop within one compiled program, so that what a call costs does
not count: the difference between repetitions and none, divided by their number. The
latency of a child is what a call costs and the sum over the parts that it uses.

Other programs on the machine can only add to a time, so the shortest of many short
measurements counts. Rounds go over all parts and whole children, so that the machine is
equally busy for each. What XLA does across parts is not in their sum: some whole
children are measured, and all parts are multiplied by the factor that fits half of
them. How far sums are from the other half is written beside the table.
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
from wpl_jax.common.parts import Program
from wpl_jax.common.settings import check_int
from wpl_jax.errors import UserError
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
_SHOTS = 20  # measurements of each loop in a round
_CALLS = 20  # of each function in a round, at least
_CALLS_SECONDS = 0.05  # that these take, at least
_LEAST_SECONDS = 0.001  # of the repetitions: less than a scheduler's time slice

Loop = Callable[[int], Any]  # runs something so many times
Call = Callable[[], Any]


class Timer(Protocol):
    """What times."""

    def of_all(
        self, loops: Sequence[Loop], calls: Sequence[Call]
    ) -> tuple[list[float], list[float]]:
        """Milliseconds of each.

        Args:
          loops: Functions of a number of repetitions. The time is that of one
            repetition, without what a call costs.
          calls: Functions of nothing. The time is that of a call.
        """


@dataclasses.dataclass(frozen=True)
class LatencySettings:
    """How latency is measured.

    Attributes:
      batch_size: Images, or sequences of 32 words, of a call.
      rounds: Over all parts and whole children, with several measurements of each. The
        shortest time counts, as other programs on the machine can only add to it.
      children: Random children that are measured as a whole. The second, fourth, ...
        fit the sums, the others are compared with them.
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

    def __init__(self, rounds: int, clock: Callable[[], float] = time.perf_counter):
        """Takes the clock.

        Args:
          rounds: In each, a loop is timed 20 times with repetitions and without, and a
            call at least 20 times.
          clock: Seconds.
        """
        self._rounds, self._clock = rounds, clock

    def of_all(self, loops, calls):
        """The shortest times of rounds over all loops and calls."""
        numbers = [self._number(run) for run in loops]
        for call in calls:
            call()  # It may compile.
        none, many = np.full((2, len(loops)), np.inf)
        single = np.full(len(calls), np.inf)
        for _ in range(self._rounds):
            for i, (run, number) in enumerate(zip(loops, numbers, strict=True)):
                for _ in range(_SHOTS):
                    none[i] = min(none[i], self._seconds(run, 0))
                    many[i] = min(many[i], self._seconds(run, number))
            for i, call in enumerate(calls):
                single[i] = min(single[i], self._shortest(call))
        of_loops = 1000 * np.maximum(many - none, 0.0) / np.array(numbers, float)
        return of_loops.tolist(), (1000 * single).tolist()

    def _number(self, run: Loop) -> int:
        """How many repetitions take long enough."""
        run(1)  # It may compile.
        number = 1
        # Several times, as other programs may have slowed some of them down.
        while (
            number < 2**20
            and min(self._seconds(run, number) for _ in range(_SHOTS)) < _LEAST_SECONDS
        ):
            number *= 2
        return number

    def _shortest(self, call: Call) -> float:
        """The shortest of the calls of a round, in seconds."""
        found: list[float] = []
        while len(found) < _CALLS or sum(found) < _CALLS_SECONDS:
            found.append(self._seconds(lambda _: call(), 1))
        return min(found)

    def _seconds(self, run: Loop, number: int) -> float:
        start = self._clock()
        run(number)
        return self._clock() - start


class Child(NamedTuple):
    """A whole child that was measured."""

    choice: list[int]
    measured: float  # milliseconds
    summed: float  # milliseconds of a call and of its parts
    fitted: bool = False  # whether the factor of the parts fits it


class Table(NamedTuple):
    """Milliseconds of the parts of a space."""

    space: str  # its settings, as text
    call: float  # of a call that computes nothing
    parts: dict[str, float]  # by name, times the factor
    children: list[Child]
    factor: float = 1.0  # by which what was measured of the parts is multiplied


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
        others = [child for child in children if not child.fitted]
        if not others:
            return said
        error = f"by {relative_error(others):.1%} (mean relative error)"
        if len(others) == len(children):
            return (
                f"{said} The sums of parts differ from {_wholes(len(others))} {error}."
            )
        return (
            f"{said} The sums of parts, which fit "
            f"{_wholes(len(children) - len(others))}, differ from "
            f"{counted(len(others), 'other')} {error}."
        )


def _wholes(number: int) -> str:
    return counted(number, "whole child", "whole children")


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
    loops = {
        part.name: _loop(part.program(batch)) for part in space.parts if part.program
    }
    choices = [
        np.asarray(space.sample(key))
        for key in jax.random.split(jax.random.key(_SEED), max(settings.children, 1))
    ]
    wholes = [space.program(choice, batch) for choice in choices]
    calls = []
    if wholes[0] is not None:
        # A call costs more the more arrays it takes, so the empty one takes all.
        calls.append(_call(lambda x, *_: jnp.ravel(x)[:1], wholes[0][1]))
        calls += [_call(*whole) for whole in wholes[: settings.children] if whole]
    of_loops, of_calls = timer.of_all(list(loops.values()), calls)
    timed = dict(zip(loops, of_loops, strict=True))
    parts = {part.name: timed.get(part.name, 0.0) for part in space.parts}
    call, *measured = of_calls or [0.0]
    summed: Any = np.zeros(0)
    if measured:
        costs = Costs(space, Latency(call, tuple(parts.values())))
        summed = costs.of_choices(np.stack(choices[: len(measured)]))[LATENCY]
    factor = _factor(call, np.array(measured[1::2]), summed[1::2])
    children = [
        Child(choice.tolist(), whole, float(call + factor * (sum_ - call)), i % 2 == 1)
        for i, (choice, whole, sum_) in enumerate(
            zip(choices, measured, summed, strict=False)
        )
    ]
    parts = {name: factor * value for name, value in parts.items()}
    return Table(repr(space), call, parts, children, factor)


def _factor(call: float, measured: np.ndarray, summed: np.ndarray) -> float:
    """By what parts are to be multiplied for their sums to fit whole children."""
    of_parts, of_sums = float(np.sum(measured - call)), float(np.sum(summed - call))
    return of_parts / of_sums if of_parts > 0 and of_sums > 0 else 1.0


def _loop(program: Program) -> Loop:
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
    compiled = jax.jit(function, keep_unused=True)
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
        # Files of earlier versions have no factor, and no fitted children.
        children = [
            Child(
                child.get("choice", []),
                child["measured"],
                child["summed"],
                bool(child.get("fitted", False)),
            )
            for child in one["children"]
        ]
        factor = one.get("factor", 1.0)
        tables.append(Table(one["space"], one["call"], one["parts"], children, factor))
    return Measurements(found["device"], int(found["batch_size"]), tables)
