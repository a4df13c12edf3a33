"""The memory of accelerators, by statistics as JAX reports them."""

import jax
import pytest

from wpl_jax.devices import capacity
from wpl_jax.errors import UserError

GIB = 2**30
ADVICE = {"data": "Take less data", "state": "Take a smaller space"}


class Accelerator:
    """A device with the statistics of its allocator."""

    def __init__(self, stats, platform="gpu"):
        self._stats, self.platform = stats, platform

    def memory_stats(self):
        return self._stats


def have(monkeypatch, stats, platform="gpu"):
    """Two devices with their own memory, in a machine with little of it."""
    devices = [Accelerator(stats, platform)] * 2
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    monkeypatch.setattr(capacity, "free_memory", lambda: 1000)


# Statistics of allocators, of which the limit alone counts.
GPU = {"bytes_in_use": 5 * GIB, "bytes_limit": 30 * GIB, "num_allocs": 7}
TPU = {"bytes_limit": 30 * GIB, "bytes_reserved": GIB, "largest_free_block_bytes": 8}


@pytest.mark.parametrize(("stats", "platform"), [(GPU, "gpu"), (TPU, "tpu")])
@pytest.mark.parametrize("count", [1, 2])
def test_an_accelerator_has_all_of_its_limit(stats, platform, count, monkeypatch):
    """Whatever others have, and what of it the data takes: estimates have the data."""
    have(monkeypatch, stats, platform)
    assert capacity.memory_of_each(count) == 30 * GIB
    assert capacity.memory_of_each(count, there=7 * GIB) == 30 * GIB
    assert not capacity.on_host()


@pytest.mark.parametrize("stats", [None, {}, {"bytes_in_use": GIB}])
def test_an_accelerator_without_a_limit_refuses_nothing(stats, monkeypatch):
    have(monkeypatch, stats)
    assert capacity.memory_of_each(1) is None
    parts = {"data": 2**50, "state": 1}
    line = capacity.check("the search", parts, 1, ADVICE)
    assert "for the search, estimated: 1,024.0 TiB (data 1,024.0 TiB" in line


def test_an_estimate_may_take_the_limit_and_no_byte_more(monkeypatch):
    have(monkeypatch, GPU)
    parts = {"data": 10 * GIB, "state": 20 * GIB}
    line = capacity.check("the search", parts, 2, ADVICE)
    assert line.endswith("estimated: 30.0 GiB (data 10.0 GiB, state 20.0 GiB)")
    parts["data"] += 1
    expected = r"but it has 30\.0 GiB\. Most is of the state\. Take a smaller space\.$"
    with pytest.raises(UserError, match=expected):
        capacity.check("the search", parts, 2, ADVICE)
    parts["data"] = 40 * GIB
    with pytest.raises(UserError, match=r"Most is of the data\. Take less data\."):
        capacity.check("the search", parts, 2, ADVICE)
