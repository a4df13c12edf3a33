"""Sets of architectures: how many, which, and always the same."""

import dataclasses

import numpy as np
import pytest
from helpers import outside, toy

from wpl_jax.errors import UserError
from wpl_jax.evaluation import architectures
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.nasbench201_architectures import all_architectures, canonical_form
from wpl_jax.spaces.recurrent_cell import RecurrentCell


def test_samples_are_distinct_uniform_and_always_the_same():
    space = NasBench201((8, 8, 3), 10)
    found = architectures.sample(space, 2000, 3)
    assert len(np.unique(found, axis=0)) == 2000
    np.testing.assert_array_equal(found[:70], architectures.sample(space, 70, 3))
    assert np.any(found != architectures.sample(space, 2000, 4))
    for column in found.T:
        counts = np.bincount(column, minlength=5)
        assert np.all(abs(counts - 400) < 90)  # Five standard deviations.
    # Every one of a small space is drawn in the end.
    few = architectures.sample(toy.ToySpace(), 9)
    assert sorted(few.tolist()) == architectures.every(toy.ToySpace()).tolist()


def test_a_space_that_is_too_small_for_a_sample_is_named():
    with pytest.raises(UserError, match=r"space toy gave 9 distinct .* expected 10"):
        architectures.sample(toy.ToySpace(), 10)


def test_all_architectures_are_those_of_the_benchmark():
    space = NasBench201((8, 8, 3), 10)
    np.testing.assert_array_equal(architectures.every(space), all_architectures())
    small = NasBench201((8, 8, 3), 10, exclude_none=True)
    assert architectures.every(small).shape == (4096, 6)


def test_a_space_that_is_too_large_is_refused_with_advice():
    space = RecurrentCell(10, hidden=4, num_nodes=12)
    assert architectures.count(space) > 1e14
    for enumerate_all in (architectures.every, architectures.one_of_each_class):
        with pytest.raises(UserError, match=r'recurrent_cell has .*which="sample"'):
            enumerate_all(space)
    ranking = Ranking(which="all", truth=outside.Table())
    with pytest.raises(UserError, match="for all of them to be ranked"):
        ranking.check(space)
    ranking.check(toy.ToySpace())


def test_classes_are_those_that_were_published():
    found = architectures.one_of_each_class(NasBench201((8, 8, 3), 10))
    assert len(found) == 6466
    small = NasBench201((8, 8, 3), 10, exclude_none=True)
    # The first of each class may have `none`, so the classes are counted.
    every = architectures.every(small)
    forms = {canonical_form(choice + 1) for choice in every}
    assert len(architectures.one_of_each_class(small)) == len(forms) < 4096


def test_without_isomorphisms_each_is_a_class():
    @dataclasses.dataclass(frozen=True)
    class Symmetric(toy.ToySpace):
        def canonical_form(self, choice):
            return tuple(sorted(choice.tolist()))

    assert len(architectures.one_of_each_class(toy.ToySpace())) == 9
    found = architectures.one_of_each_class(Symmetric())
    assert found.tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]]
    assert found.dtype == np.int32
