"""What a search will need of a device's memory, before anything is compiled."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.errors import UserError
from wpl_jax.parallel import ALONE, bytes_of_each, bytes_of_exchange, undivided
from wpl_jax.search import Search
from wpl_jax.supernet import gather
from wpl_jax.tasks import Data, Task


class Estimate(NamedTuple):
    """Bytes of a device."""

    data: int
    state: int  # parameters, what the optimizer and the penalty keep of them
    child: int  # a child's share of that, its gradient and its new parameters
    activations: int  # what a training step keeps for its backward pass, and a batch
    # of every device while they exchange them

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
    whole, own = bytes_of_each(state.shared.params), bytes_of_each(child)
    copies = bytes_of_each(state.shared) / whole
    devices = search.devices
    return Estimate(
        data=bytes_of_each(data),
        state=bytes_of_each(state),
        # Of several that are trained together, a sum of gradients of all parameters.
        child=int(own * (copies + 2)) + (search.together > 1) * 2 * whole,
        activations=kept // devices.batch.size
        + bytes_of_exchange(data, search.task.predictions_per_batch),
    )


def _kept(task: Task, child: Any, architecture: Any, data: Data, key: Any) -> int:
    """What differentiation keeps: the arrays that the backward pass closes over."""
    data = undivided(data)

    def backward(child, architecture, data, key):
        def loss(child):
            return task.train_loss(child, architecture, data, stream, step, key, ALONE)

        stream, step = task.init_stream(), jnp.int32(0)
        _, pull, _ = jax.vjp(loss, child, has_aux=True)
        return pull

    return bytes_of_each(jax.eval_shape(backward, child, architecture, data, key))


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
        "data": "Take less data, or smaller images (config.task.shrink), or more "
        "devices that divide them (config.task.divide_images).",
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
