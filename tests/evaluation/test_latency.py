"""Latency by a clock that is not a clock."""

import dataclasses
import functools
import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.errors import UserError
from wpl_jax.evaluation import latency
from wpl_jax.evaluation.latency import (
    Child,
    LatencySettings,
    Measurements,
    Stopwatch,
    measure,
    relative_error,
)
from wpl_jax.spaces.costs import Costs, Latency
from wpl_jax.spaces.darts_cell import DartsCell
from wpl_jax.spaces.genotype_network import GenotypeNetwork
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.supernet import Architecture

SPACE = NasBench201((4, 4, 1), 2, channels=2, cells=1, exclude_none=True)
SHAPE = ((8, 8, 1), 3)
GENOTYPE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('conv_7x1_1x7', 1)], normal_concat=[2], "
    "reduce=[('skip_connect', 0), ('conv_7x1_1x7', 1)], reduce_concat=[2])"
)
SPACES = {
    "nasbench201": NasBench201(*SHAPE, channels=4, cells=1, channel_parts=2),
    "micro_cell": MicroCell(*SHAPE, num_nodes=2, filters=4, layers=3, auxiliary=True),
    "darts_cell": DartsCell(*SHAPE, channels=4, cells=3, num_nodes=2),
    "genotype": GenotypeNetwork(*SHAPE, channels=4, cells=3, cell=GENOTYPE),
    "recurrent_cell": RecurrentCell(5, 3, num_nodes=3),
}


class Clock:
    """A clock that goes as far as it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Numbered:
    """A timer that runs nothing: of the n-th loop n, of a call 1000."""

    def of_all(self, loops, calls):
        numbers = range(1, len(loops) + 1)
        return [float(n) for n in numbers], [1000.0] * len(calls)


def test_a_repetition_takes_the_difference_without_the_call():
    """A call takes 3 ms, and other programs half a second of two in three."""
    clock, disturbed = Clock(), itertools.cycle([0.0, 0.5, 0.5])

    def loop(each):
        def run(number):
            clock.now += 0.003 + each * number + next(disturbed)

        return run

    loops = [loop(each) for each in (0.002, 0.00025, 0.0)]
    of_loops, of_calls = Stopwatch(3, clock).of_all(loops, [lambda: loop(0.002)(4)])
    np.testing.assert_allclose(of_loops, [2, 0.25, 0], atol=1e-9)
    np.testing.assert_allclose(of_calls, [11.0])


def test_rounds_go_over_all_so_that_the_machine_is_equally_busy_for_each():
    clock, order = Clock(), []

    def run(name, number):
        order.append((name, number))
        clock.now += 1.0

    loops = [functools.partial(run, name) for name in "ab"]
    Stopwatch(2, clock).of_all(loops, [lambda: run("call", 1)])
    a_round = [*[("a", 0), ("a", 1)] * 20, *[("b", 0), ("b", 1)] * 20]
    a_round += [("call", 1)] * 20
    assert order[-2 * len(a_round) :] == 2 * a_round


@pytest.mark.slow
def test_the_table_has_every_part_and_sums_of_children():
    table = measure(SPACE, LatencySettings(children=2), Numbered())
    names = [part.name for part in SPACE.parts]
    assert list(table.parts.items()) == list(zip(names, range(1, 99), strict=False))
    assert table.call == 1000
    for child in table.children:
        uses = np.asarray(SPACE.uses(Architecture(jnp.asarray(child.choice))))
        expected = 1000 + np.sum(uses * np.arange(1, len(names) + 1))
        np.testing.assert_allclose([child.measured, child.summed], [1000, expected])


@pytest.mark.slow
def test_parts_are_multiplied_by_what_fits_every_second_child():
    class Whole(Numbered):
        def of_all(self, loops, calls):
            return super().of_all(loops, calls)[0], [1.0, 40.0, 50.0, 60.0]

    table = measure(SPACE, LatencySettings(children=3), Whole())
    sums = []
    for child in table.children:
        uses = np.asarray(SPACE.uses(Architecture(jnp.asarray(child.choice))))
        sums.append(np.sum(uses * np.arange(1, len(SPACE.parts) + 1)))
    factor = (50 - 1) / sums[1]
    np.testing.assert_allclose(table.factor, factor, rtol=1e-6)
    np.testing.assert_allclose(
        [*table.parts.values()], factor * np.arange(1, len(SPACE.parts) + 1), rtol=1e-6
    )
    expected = 1 + factor * np.array(sums)
    found = [child.summed for child in table.children]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert [child.measured for child in table.children] == [40, 50, 60]
    assert [child.fitted for child in table.children] == [False, True, False]
    said = Measurements("cpu", 1, [table]).describe()
    error = np.mean(np.abs(expected[[0, 2]] / [40, 60] - 1))
    assert f"fit 1 whole child, differ from 2 others by {error:.1%}" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_every_part_has_a_program_that_repeats(name):
    """The smallest numbers of repetitions compile and run."""

    class Once(Numbered):
        def of_all(self, loops, calls):
            for run in loops:
                run(2)
            for run in calls:
                run()
            return super().of_all(loops, calls)[0], [1.0] * len(calls)

    space = SPACES[name]
    table = measure(space, LatencySettings(batch_size=2, children=1), Once())
    parts = [p for p in space.parts if p.program is not None]
    assert {part.name for part in space.parts} - {p.name for p in parts} <= {
        "auxiliary"
    }
    assert list(table.parts.values())[: len(parts)] == list(range(1, len(parts) + 1))
    assert len(table.children) == 1


def test_a_loop_returns_what_its_program_does():
    def program(batch):
        return lambda x: x + 1, (jnp.zeros((batch, 2)),)

    part = SPACE.parts[0]._replace(program=program)
    compiled = latency._loop(part.program(3))
    first, output = compiled(4)
    np.testing.assert_array_equal(first, np.zeros((3, 2)))  # moved by 0 times it
    np.testing.assert_array_equal(output, np.ones((3, 2)))


@pytest.mark.slow
def test_measurements_are_read_as_they_are_written(tmp_path):
    assert latency.read(tmp_path) is None
    table = measure(SPACE, LatencySettings(children=2), Numbered())
    written = Measurements("a device", 1, [table])
    latency.write(tmp_path, written)
    found = latency.read(tmp_path)
    assert found == written
    numbers = range(1, len(SPACE.parts) + 1)
    assert found.of(SPACE) == Latency(1000.0, tuple(map(float, numbers)))
    assert found.of(dataclasses.replace(SPACE, channels=4)) is None
    content = json.loads((tmp_path / latency.LATENCY_FILE).read_text())
    content["tables"][0]["call"] = "much"
    (tmp_path / latency.LATENCY_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match="call"):
        latency.read(tmp_path)


@pytest.mark.slow
def test_the_error_of_sums_is_their_mean_relative_error():
    children = [Child([0], 2.0, 3.0), Child([1], 4.0, 3.0)]
    assert relative_error(children) == (0.5 + 0.25) / 2
    table = measure(SPACE, LatencySettings(children=0), Numbered())
    told = Measurements("cpu", 8, [table._replace(children=children)]).describe()
    assert "on cpu, 8 in a call" in told
    assert "2 whole children by 37.5% (mean relative error)" in told


def test_a_space_without_parts_cannot_be_measured():
    class Plain(NasBench201):
        parts = ()

    space = Plain((4, 4, 1), 2, channels=2, cells=1)
    with pytest.raises(UserError, match="does not list what its children consist of"):
        measure(space, LatencySettings(), Numbered())
    assert Costs(space).names == ("parameters",)
