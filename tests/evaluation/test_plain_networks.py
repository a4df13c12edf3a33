"""Baselines as large as what they are compared with."""

import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.common.settings import SettingError
from wpl_jax.errors import UserError
from wpl_jax.evaluation.plain_networks import (
    BASELINES,
    Baseline,
    Baselines,
    count_parameters,
    fit,
)
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.recurrent_cell import RecurrentCell

WORDS = RecurrentCell(vocabulary_size=50, hidden=9, num_nodes=4)
IMAGES = MicroCell((8, 8, 1), 10, filters=4, layers=3)
# The network of the baseline's article has so many parameters at a width.
COUNTS = {
    "lstm": lambda h: 50 * h + 50 + 8 * h * h + 4 * h,
    "gru": lambda h: 50 * h + 50 + 6 * h * h + 4 * h,
    "enas_cell": lambda h: 50 * h + 50 + 4 * h * h + 2 * h + 11 * 2 * h * h,
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("parameters", [1, 700, 2_345, 10_000])
def test_the_width_is_the_one_with_the_closest_number_of_parameters(name, parameters):
    found = fit(BASELINES[name], WORDS, parameters)
    widths = range(1, 60)
    best = min(widths, key=lambda h: abs(COUNTS[name](h) - parameters))
    assert found.width == f"hidden={best}"
    assert found.parameters == COUNTS[name](best)
    assert found.space.hidden == best
    assert found.space.vocabulary_size == 50


def test_a_residual_network_has_the_shapes_of_the_images():
    choice = np.zeros(len(IMAGES.decisions), np.int32)
    wanted = count_parameters(IMAGES, choice)
    found = fit(BASELINES["residual"], IMAGES, wanted)
    assert found.space.image_shape == (8, 8, 1)
    assert found.space.num_classes == 10
    around = [
        count_parameters(found.space.__class__((8, 8, 1), 10, channels), jnp.zeros(0))
        for channels in range(found.space.channels - 1, found.space.channels + 2)
    ]
    distances = np.abs(np.array(around) - wanted)
    assert distances.argmin() == 1
    assert found.parameters == around[1]


def test_an_architecture_of_a_space_is_a_baseline():
    """Here of all 3x3 convolutions, with channels in multiples of 2."""
    edges = [d.name for d in NasBench201((8, 8, 1), 10).decisions]
    settings = {"cells": 1, "channel_parts": 2}
    plain = Baseline(
        *("nasbench201", "channels", settings),
        dict.fromkeys(edges, "nor_conv_3x3"),
        step=2,
    )
    found = fit(plain, IMAGES, 20_000)
    assert found.space.channels % 2 == 0
    names = {found.space.decisions[0].choices[i] for i in found.choice}
    assert names == {"nor_conv_3x3"}
    assert found.parameters == count_parameters(found.space, found.choice)


def test_the_published_cell_is_that_of_the_code():
    """As the fixed architecture of the authors' script for Penn Treebank has it."""
    text = "0 0 0 1 1 2 1 2 0 2 0 5 1 1 0 6 1 8 1 8 1 8 1"
    found = fit(BASELINES["enas_cell"], WORDS, 10_000)
    assert found.choice.tolist() == [int(each) for each in text.split()]


def test_a_baseline_for_other_data_is_refused():
    with pytest.raises(UserError, match="residual needs image_shape, which the space"):
        fit(BASELINES["residual"], WORDS, 1_000)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"names": ("lstmm",)}, "some of .*'lstm'"),
        ({"names": "lstm"}, "some of .*'lstm'"),
        ({"names": ("lstm", "lstm")}, "each once"),
        ({"parameters": 0}, "at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(SettingError, match=said):
        Baselines(**settings)
