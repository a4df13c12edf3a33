"""Functions compiled for several devices, and arrays placed on them.

A compiled function runs on all devices at once, each with the same arguments; which
device it is decides what share of the work it does (:mod:`wpl_jax.devices.axis`). The
result is the same on all devices, so a state on eight of them is the state on one, and
so are its checkpoints. Data may be an exception: of a
:class:`wpl_jax.devices.sharded.Sharded` array each device has a part.

This is the only module with ``jax.pmap``; ``jax.shard_map`` would take its place here.
"""

import collections
import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import check_choice, check_int
from wpl_jax.devices.axis import NAME, NO_AXIS, Axis
from wpl_jax.devices.sharded import Sharded, is_sharded

Mode = Literal["batch", "children"]


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a search, and what they divide among each other.

    Attributes:
      count: How many; of each process as many, where there are several.
      mode: What they divide in training: the ``"batch"`` of one child after the
        other, or the ``"children"`` that are trained together.
    """

    count: int = 1
    mode: Mode = "batch"

    def __post_init__(self) -> None:
        """Checks the fields; whether there are so many devices is not known yet."""
        check_int(self, "count", 1)
        check_choice(self, "mode", get_args(Mode))

    @property
    def every(self) -> Axis:
        """All devices."""
        return Axis(self.count)

    @property
    def batch(self) -> Axis:
        """Those that share a batch."""
        return self.every if self.mode == "batch" else NO_AXIS

    @property
    def children(self) -> Axis:
        """Those that share the children that are trained together."""
        return self.every if self.mode == "children" else NO_AXIS

    def compile(
        self,
        function: Callable[..., Any],
        *,
        static_argnames: str | Sequence[str] = (),
        donate_argnames: str | Sequence[str] = (),
    ) -> Callable[..., Any]:
        """A function as one program on all devices, compiled when it is first called.

        Args:
          function: Of arguments that are the same on all devices, but for those that
            are :class:`Sharded`; what it returns must be the same.
          static_argnames: As in :func:`jax.jit`.
          donate_argnames: As in :func:`jax.jit`.

        Returns:
          The function of arrays that :meth:`replicate` or :meth:`shard` has placed.
        """
        if self.count == 1:
            return jax.jit(
                function,
                static_argnames=static_argnames,
                donate_argnames=donate_argnames,
            )
        signature = inspect.signature(function)
        names = list(signature.parameters)

        def places(chosen: str | Sequence[str]) -> tuple[int, ...]:
            chosen = (chosen,) if isinstance(chosen, str) else chosen
            return tuple(names.index(name) + 1 for name in chosen)

        # One more array: pmap over several processes fails where there is none.
        def run(index, *args):
            del index
            return jnp.zeros(()), function(*args)

        @functools.cache
        def mapped(form: Any, axes: tuple[int | None, ...]) -> Callable[..., Any]:
            return jax.pmap(
                run,
                axis_name=NAME,
                in_axes=(0, *jax.tree.unflatten(form, axes)),
                out_axes=None,  # pyright: ignore
                devices=self._chosen(),
                static_broadcasted_argnums=places(static_argnames),
                donate_argnums=places(donate_argnames),
            )

        # pmap takes the number of devices from an argument that differs among them, and
        # most functions have none.
        index = np.arange(self.count // jax.process_count())

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            args = signature.bind(*args, **kwargs).args
            leaves, form = jax.tree.flatten(args, is_leaf=is_sharded)
            axes = tuple(0 if is_sharded(x) else None for x in leaves)
            return mapped(form, axes)(index, *args)[1]

        return call

    def replicate(self, tree: Any) -> Any:
        """Arrays, placed on all devices; those that are sharded stay so."""
        if self.count == 1:
            return tree
        leaves, form = jax.tree.flatten(tree, is_leaf=is_sharded)
        placed = iter(_replicate(self)([x for x in leaves if not is_sharded(x)]))
        leaves = [x if is_sharded(x) else next(placed) for x in leaves]
        return jax.tree.unflatten(form, leaves)

    def rows_here(self, count: int) -> np.ndarray:
        """Which rows of an array to divide this process has to give.

        Args:
          count: How many rows there are.

        Returns:
          Their numbers, without a gap; of several processes the last ones may have
          fewer to give, or none.
        """
        if self.count == 1:
            return np.arange(count)
        each = -(-count // self.count) * (self.count // jax.process_count())
        first = jax.process_index() * each
        return np.arange(min(first, count), min(first + each, count))

    def shard(self, rows: np.ndarray, count: int) -> jax.Array | Sharded:
        """Places an array so that each device holds some of its rows.

        Args:
          rows: Those that :meth:`rows_here` names.
          count: How many there are in all.

        Returns:
          The array; on one device as it is.
        """
        if self.count == 1:
            return jnp.asarray(rows)
        each, here = -(-count // self.count), self.count // jax.process_count()
        part = np.zeros((here * each, *rows.shape[1:]), rows.dtype)
        part[: len(rows)] = rows
        part = part.reshape(here, each, *rows.shape[1:])
        first = (jax.process_index() * here + np.arange(here)) * each
        place = jax.pmap(lambda x: x, devices=self._chosen())
        return Sharded(
            place(part), place(first.astype(np.int32)), (count, *rows.shape[1:])
        )

    def _chosen(self) -> list[jax.Device] | None:
        """The first ones of each process; all need not be named."""
        if self.count == jax.device_count():
            return None
        each = self.count // jax.process_count()
        return [device for own in by_process() for device in own[:each]]


ONE_DEVICE = Devices()


def by_process() -> list[list[jax.Device]]:
    """The devices of each process."""
    found = collections.defaultdict(list)
    for device in jax.devices():
        found[device.process_index].append(device)
    return [found[index] for index in sorted(found)]


@functools.cache
def _replicate(devices: Devices) -> Callable[[Any], Any]:
    return devices.compile(lambda tree: tree)
