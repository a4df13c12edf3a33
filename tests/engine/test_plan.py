"""The length of a search: training batches have numbers that int32 holds."""

import numpy as np
import pytest

from wpl_jax.common.settings import SettingError
from wpl_jax.engine.plan import SearchSettings, most_epochs


@pytest.mark.parametrize(("children", "batches"), [(10, 214_748), (1, 3000), (50, 400)])
def test_the_last_batch_has_a_number_that_int32_holds(children, batches):
    most = most_epochs(children, batches)

    def last(epochs):
        """As a search counts: epoch, child and batch, each from 0."""
        child = np.int64(epochs - 1) * children + children - 1
        return child * batches + batches - 1

    assert last(most) < np.iinfo(np.int32).max
    assert last(most + 1) >= np.iinfo(np.int32).max
    SearchSettings(epochs=most, children=children, batches=batches)


@pytest.mark.parametrize(
    ("name", "settings", "most"),
    [
        ("epochs", {"epochs": 107_375, "children": 50, "batches": 400}, 107_374),
        ("epochs", {"epochs": 1001, "children": 10, "batches": 214_748}, 1000),
        ("children", {"children": 3000, "batches": 1_000_000}, 2147),
    ],
)
def test_more_than_int32_can_count_is_an_error_of_the_field(name, settings, most):
    with pytest.raises(SettingError, match=f"{name} is .*at most {most}: ") as caught:
        SearchSettings(**settings)
    assert caught.value.name == name


def test_the_last_epochs_are_averaged():
    found = [SearchSettings(epochs=5, average_epochs=n).average_from for n in (1, 2, 5)]
    assert found == [None, 3, 0]
    with pytest.raises(SettingError, match=r"average_epochs is 6.* at most 5"):
        SearchSettings(epochs=5, average_epochs=6)
