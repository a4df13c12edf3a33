"""The memory of a device: what arrays take of it, and whether it has enough."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from wpl_jax.common.host_memory import free_memory
from wpl_jax.devices.sharded import Sharded, is_sharded
from wpl_jax.errors import UserError, in_bytes


def bytes_of_each(tree: Any) -> int:
    """Bytes that the arrays take on a device; what is there twice counts once."""

    def of(x):
        if isinstance(x, Sharded):
            return of(x.part) // len(x.part)
        return int(np.prod(x.shape)) * x.dtype.itemsize

    leaves = {id(x): x for x in jax.tree.leaves(tree, is_leaf=is_sharded)}
    return sum(map(of, leaves.values()))


def bytes_of_exchange(tree: Any, rows: int) -> int:
    """Bytes that a device needs while each takes so many rows of a sharded array."""
    sizes = (
        len(x.first)
        * jax.process_count()
        * rows
        * np.prod(x.shape[1:], dtype=int)
        * x.part.dtype.itemsize
        for x in jax.tree.leaves(tree, is_leaf=is_sharded)
        if isinstance(x, Sharded)
    )
    return max(sizes, default=0)


def memory_of_each(count: int, there: int = 0) -> int | None:
    """Bytes of each device that a run may use; None if JAX and the system report none.

    On a CPU this is the memory of the machine that is free now, without that of other
    programs, and without that of the files that were read to make the data.

    Args:
      count: Number of devices in use; on a CPU they share the memory of the machine.
      there: Bytes of a device that the run uses already.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None and on_host():
        free = free_memory()
        if free is None and hasattr(os, "sysconf"):
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if free is not None:
            limit = there + free // max(count // jax.process_count(), 1)
    return limit


def on_host() -> bool:
    """Whether the devices' memory is that of the machine."""
    return bool(jax.local_devices()[0].platform == "cpu")


def check(
    what: str, parts: Mapping[str, int], devices: int, advice: Mapping[str, str]
) -> str:
    """A line about what will be needed of each device.

    Args:
      what: What needs it, for the line.
      parts: Bytes of a device, by name; those of "data" are there already.
      devices: How many are used.
      advice: How to reduce each of the parts.

    Raises:
      UserError: If it is more than there is, with what to reduce.
    """
    total = sum(parts.values())
    limit = memory_of_each(devices, there=parts["data"])
    told = ", ".join(f"{name} {in_bytes(count)}" for name, count in parts.items())
    line = f"Memory of a device for {what}, estimated: {in_bytes(total)} ({told})"
    if limit is None or total <= limit:
        return line
    largest = max(parts, key=lambda name: parts[name])
    raise UserError(
        f"{line}, but it has {in_bytes(limit)}. Most is of the {largest}. "
        f"{advice[largest]}."
    )
