"""Genotypes and choices: read, written, and refused."""

import jax
import numpy as np
import pytest
from helpers.genotypes import CELLS

from wpl_jax.common.settings import SettingError
from wpl_jax.errors import UserError
from wpl_jax.spaces.darts_cell import DartsCell
from wpl_jax.spaces.genotype_network import GenotypeNetwork
from wpl_jax.spaces.genotypes import PUBLISHED, parse

FOUR = DartsCell((8, 8, 2), 3, channels=4, cells=3)


def test_genotypes_and_choices_are_the_same_architectures():
    draws = jax.vmap(FOUR.sample)(jax.random.split(jax.random.key(0), 50))
    for choice in np.asarray(draws):
        genotype = FOUR.genotype(choice)
        assert parse(str(genotype)) == genotype
        states = [state for _, state in genotype.normal]
        pairs = zip(states[::2], states[1::2], strict=True)
        assert all(i < j < n for n, (i, j) in enumerate(pairs, 2))
        found = FOUR.from_notation(FOUR.to_notation(choice))
        np.testing.assert_array_equal(found, choice)


def of_nodes(cell):
    """The operations of each node, whose order does not matter."""
    return [sorted(pair) for pair in zip(cell[::2], cell[1::2], strict=True)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells_are_read_and_written(name):
    genotype = PUBLISHED[name]
    assert parse(str(genotype)) == parse(name) == genotype
    if name in ("NASNet", "AmoebaNet", "ENAS"):
        with pytest.raises(UserError, match="The space 'genotype'"):
            FOUR.from_notation(name)
        return
    found = FOUR.genotype(FOUR.from_notation(name))
    assert of_nodes(found.normal) == of_nodes(genotype.normal)
    assert of_nodes(found.reduce) == of_nodes(genotype.reduce)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("DARTS_V3", "DARTS_V2"),
        ("Genotype(normal=[], reduce=[])", "normal_concat"),
        (CELLS.replace("[2, 3]", "[2, 4]"), "expected nodes of 2 to 3"),
        (
            CELLS.replace("_5x5', 2)", "").replace('("max_pool_3x3", 1)', "3"),
            "genotype",
        ),
        (CELLS.replace('("max_pool_3x3", 1)', '("max_pool_3x3", 2)'), "before state 2"),
        (CELLS.replace('("skip_connect", 0)]', '("skip_connect", 0), ("a", 1)]'), "5"),
        ("__import__('os')", "Genotype"),
    ],
)
def test_what_is_no_genotype_is_refused(wrong, why):
    with pytest.raises(UserError, match=why):
        parse(wrong)


def test_cells_of_another_space_are_refused():
    for wrong in (
        CELLS,  # two nodes
        str(PUBLISHED["DARTS_V2"]).replace("dil_conv_3x3", "sep_conv_7x7"),
        str(PUBLISHED["DARTS_V2"]).replace("[2, 3, 4, 5]", "[3, 4, 5]"),
    ):
        with pytest.raises(UserError, match="darts_cell has 4 nodes"):
            FOUR.from_notation(wrong)
    with pytest.raises(SettingError, match="cell"):
        GenotypeNetwork((8, 8, 3), 10, cell=CELLS.replace("dil", "dill"))
    with pytest.raises(SettingError, match="cell"):
        GenotypeNetwork((8, 8, 3), 10, cell="DARTS_V3")
