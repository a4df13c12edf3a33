"""Latency by a clock that is not a clock."""

import dataclasses
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

    def __init__(self):
        self.loops = 0

    def of_loop(self, run):
        self.loops += 1
        return float(self.loops)

    def of_call(self, run):
        return 1000.0


def test_a_repetition_takes_the_difference_without_the_call():
    clock, disturbed = Clock(), iter([0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.25, 0.0, 0.0])

    def run(number):
        """A call takes 3 ms, a repetition 2 ms, and other programs something."""
        clock.now += 0.003 + 0.002 * number + next(disturbed, 0.0)

    found = Stopwatch(3, clock).of_loop(run)
    np.testing.assert_allclose(found, 2.0)
    found = Stopwatch(2, clock).of_call(lambda: run(4))
    np.testing.assert_allclose(found, 11.0)


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
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n == "recurrent_cell" else pytest.mark.slow)
        for n in SPACES
    ],
)
def test_every_part_has_a_program_that_repeats(name):
    """The smallest numbers of repetitions compile and run."""

    class Once(Numbered):
        def of_loop(self, run):
            run(2)
            return super().of_loop(run)

        def of_call(self, run):
            run()
            return 1.0

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


def test_the_error_of_sums_is_their_mean_relative_error():
    children = [Child([0], 2.0, 3.0), Child([1], 4.0, 3.0)]
    assert relative_error(children) == (0.5 + 0.25) / 2
    table = measure(SPACE, LatencySettings(children=0), Numbered())
    told = Measurements("cpu", 8, [table._replace(children=children)]).describe()
    assert "on cpu, 8 in a call" in told
    assert "differ from 2 whole children by 37.5%" in told


def test_a_space_without_parts_cannot_be_measured():
    class Plain(NasBench201):
        parts = ()

    space = Plain((4, 4, 1), 2, channels=2, cells=1)
    with pytest.raises(UserError, match="does not list what its children consist of"):
        measure(space, LatencySettings(), Numbered())
    assert Costs(space).names == ("parameters",)
