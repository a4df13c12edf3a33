"""What a search will need of a device's memory, before anything is compiled."""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax import parallel
from wpl_jax.errors import UserError
from wpl_jax.parallel import ALONE
from wpl_jax.search import Search
from wpl_jax.supernet import gather
from wpl_jax.tasks import Data, Task


class Estimate(NamedTuple):
    """Bytes of a device."""

    data: int
    state: int  # parameters, what the optimizer and the penalty keep of them
    child: int  # a child's share of that, its gradient and its new parameters
    activations: int  # what a training step keeps for its backward pass

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def estimate(search: Search, data: Data) -> Estimate:
    """Adds up arrays by their shapes; what XLA fuses away or needs besides is unknown.

    Args:
      search: The search.
      data: Of its task.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(search.init, key)
    rows = search.task.space.rows
    architecture = state.epoch.architectures.update(
        shape=state.epoch.architectures.shape[1:]
    )
    child = jax.eval_shape(
        lambda params, a: gather(params, rows(a)), state.shared.params, architecture
    )
    kept = _kept(search.task, child, architecture, data, key)
    whole, own = size(state.shared.params), size(child)
    copies = size(state.shared) / whole
    devices = search.devices
    return Estimate(
        data=size(data),
        state=size(state),
        # Of several that are trained together, a sum of gradients of all parameters.
        child=int(own * (copies + 2)) + (search.together > 1) * 2 * whole,
        activations=kept // devices.batch.size,
    )


def _kept(task: Task, child: Any, architecture: Any, data: Data, key: Any) -> int:
    """What differentiation keeps: the arrays that the backward pass closes over."""

    def backward(child, architecture, data, key):
        def loss(child):
            return task.train_loss(child, architecture, data, stream, step, key, ALONE)

        stream, step = task.init_stream(), jnp.int32(0)
        _, pull, _ = jax.vjp(loss, child, has_aux=True)
        return pull

    return size(jax.eval_shape(backward, child, architecture, data, key))


def size(tree: Any) -> int:
    """Bytes of the arrays."""
    return sum(
        int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


def available() -> int | None:
    """Bytes of a device, on a CPU its part of the machine's; None if nobody says."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None and device.platform == "cpu" and hasattr(os, "sysconf"):
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit //= max(parallel.in_use() // jax.process_count(), 1)
    return limit


def check(found: Estimate, limit: int | None) -> str:
    """A line about the estimate.

    Raises:
      UserError: If it is more than there is, with what to reduce.
    """
    parts = ", ".join(f"{name} {_told(n)}" for name, n in found._asdict().items())
    line = f"Memory of a device, estimated: {_told(found.total)} ({parts})"
    if limit is None or found.total <= limit:
        return line
    largest = max(found._asdict(), key=lambda name: getattr(found, name))
    advice = {
        "data": "Take less data, or smaller images (config.task.shrink).",
        "state": "Take a smaller space (config.space).",
        "child": "Take a smaller space (config.space).",
        "activations": "Take a smaller config.task.batch_size, or more devices, which "
        "share a batch.",
    }
    raise UserError(
        f"{line}, but it has {_told(limit)}. Most is of the {largest}. "
        f"{advice[largest]}"
    )


def _told(count: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 2**power:
            return f"{count / 2**power:.1f} {unit}"
    return f"{count} bytes"
