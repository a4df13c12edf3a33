"""What a search and a retraining will need of a device, before anything is compiled."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.devices import capacity
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.devices.capacity import bytes_of_each, bytes_of_exchange
from wpl_jax.devices.parallel import Devices
from wpl_jax.devices.sharded import unsharded
from wpl_jax.evaluation.retraining import Retraining
from wpl_jax.search import Search
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks import Data, Task, memory_advice, rows_setting


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


class Need(NamedTuple):
    """What a search, or a retraining, needs of the devices it runs on."""

    what: str
    devices: Devices
    data: Data
    memory: Estimate
    advice: Mapping[str, str]  # how to reduce each part of the memory


def of_search(search: Search, data: Data) -> Need:
    """Adds up arrays by their shapes; what XLA fuses away or needs besides is unknown.

    Args:
      search: The search.
      data: Of its task.
    """
    key = _key()
    state = jax.eval_shape(search.init, key)
    rows = search.task.space.rows
    architecture = jax.tree.map(
        lambda x: x.update(shape=x.shape[1:]), state.epoch.architectures
    )
    child = jax.eval_shape(
        lambda params, a: gather(params, rows(a)), state.shared.params, architecture
    )
    whole, own = bytes_of_each(state.shared.params), bytes_of_each(child)
    copies = bytes_of_each(state.shared) / whole
    found = Estimate(
        data=bytes_of_each(data),
        state=bytes_of_each(state),
        child=int(own * (copies + 2))
        + int(whole * search.update_rule.copies(search.children_per_step, copies)),
        activations=_activations(
            search.task, child, architecture, data, search.devices
        ),
    )
    advice = advice_for(search.task, search.devices, "config")
    advice["state"] += ", or fewer search.children or candidates"
    return Need("search", search.devices, data, found, advice)


def of_retraining(retraining: Retraining, data: Data) -> Need:
    """The same of a training from scratch, whose child is all that there is.

    Args:
      retraining: The training.
      data: Of its task.
    """
    task = retraining.task
    choice: Any = jax.ShapeDtypeStruct((len(task.space.decisions),), jnp.int32)
    state = jax.eval_shape(retraining.init, _key(), choice)
    found = Estimate(
        data=bytes_of_each(data),
        state=bytes_of_each(state),
        child=2 * bytes_of_each(state.params),
        activations=_activations(
            task, state.params, Architecture(choice), data, retraining.devices
        ),
    )
    advice = advice_for(task, retraining.devices, "config.retrain")
    return Need("retraining", retraining.devices, data, found, advice)


def advice_for(task: Task, devices: Devices, settings: str) -> dict[str, str]:
    """How to reduce each part of the memory.

    Args:
      task: What is trained on.
      devices: What it runs on.
      settings: Where the configuration has the space and the task.
    """
    of_task = {name: f", or {x}" for name, x in memory_advice(task).items()}
    smaller = f"Take a smaller space ({settings}.space)"
    data, less = (
        f"Take {what}{of_task.get(part, '')} ({settings}.task)"
        for part, what in (
            ("data", "less data"),
            ("activations", f"a smaller {rows_setting(task)}"),
        )
    )
    of_child, of_activations = {
        "batch": (smaller, f"{less}, or more devices, which share a batch"),
        "children": (
            f"{smaller}, or fewer search.children_per_step, 1 at best",
            f"{less}, or search.children_per_step=1, with which devices share a batch",
        ),
    }[devices.mode]
    return {
        "data": data,
        "state": smaller,
        "child": of_child,
        "activations": of_activations,
    }


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _activations(
    task: Task, child: Any, architecture: Any, data: Data, devices: Devices
) -> int:
    """Of a device in a training step."""
    kept = _kept(task, child, architecture, data, _key())
    exchanged = bytes_of_exchange(data, task.predictions_per_batch)
    return kept // devices.batch.size + exchanged


def _kept(task: Task, child: Any, architecture: Any, data: Data, key: Any) -> int:
    """What differentiation keeps: the arrays that the backward pass closes over."""
    data = unsharded(data)

    def backward(child, architecture, data, key):
        def loss(child):
            return task.train_loss(child, architecture, data, carry, step, key, NO_AXIS)

        carry, step = task.init_carry(), jnp.int32(0)
        _, pull, _ = jax.vjp(loss, child, has_aux=True)
        return pull

    return bytes_of_each(jax.eval_shape(backward, child, architecture, data, key))


def check_all(needs: Sequence[Need]) -> str:
    """Lines about what will run one after the other, with all data there all along.

    Raises:
      UserError: If it is more than there is, with what to reduce.
    """
    data = bytes_of_each([need.data for need in needs])
    lines = []
    for what in dict.fromkeys(need.what for need in needs):
        alike = [
            need._replace(memory=need.memory._replace(data=data))
            for need in needs
            if need.what == what
        ]
        lines.append(check(max(alike, key=lambda need: need.memory.total)))
    return "\n".join(lines)


def check(need: Need) -> str:
    """A line about one of them.

    Raises:
      UserError: If it is more than there is, with what to reduce.
    """
    parts, count = need.memory._asdict(), need.devices.count
    return capacity.check(f"the {need.what}", parts, count, need.advice)
