"""Devices: the only module that knows how many there are.

A compiled function runs on all of them at once, each with the same arguments; which
device it is decides what share of the work it does, and what the shares give is
averaged, added up or put together over an :class:`Axis`. What comes out is the same on
all devices, so that a state on eight of them is the state on one, and so are its
checkpoints. Data may be an exception: of a :class:`Sharded` array each device has a
part, and all of it by asking the others.

There is ``jax.pmap`` in :class:`Devices` alone; ``jax.shard_map`` would take its place
there.
"""

import collections
import dataclasses
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.host_memory import free_memory
from wpl_jax.common.settings import SettingError
from wpl_jax.errors import UserError

Mode = Literal["batch", "children"]

_NAME = "devices"


@dataclasses.dataclass(frozen=True)
class Axis:
    """Devices that share some work; its methods are for functions that run on them.

    Attributes:
      size: How many devices; of one alone nothing is shared.
    """

    size: int = 1

    def shard(self, tree: Any, axis: int = 0) -> Any:
        """This device's part of arrays that every device has whole.

        Args:
          tree: Arrays whose ``axis`` the number of devices divides.
          axis: Which.

        Returns:
          The arrays, each cut down to the part.

        Raises:
          ValueError: If an array cannot be sharded equally.
        """
        if self.size == 1:
            return tree

        def part(x):
            if x.shape[axis] % self.size:
                raise ValueError(
                    f"{x.shape[axis]} rows cannot be shared equally by {self.size} "
                    "devices."
                )
            each = x.shape[axis] // self.size
            first = self._index() * each
            return jax.lax.dynamic_slice_in_dim(x, first, each, axis)

        return jax.tree.map(part, tree)

    def all_gather(self, tree: Any) -> Any:
        """The arrays that the devices have parts of, along the leading axis."""
        if self.size == 1:
            return tree
        return jax.tree.map(lambda x: jax.lax.all_gather(x, _NAME, tiled=True), tree)

    def first(self, tree: Any) -> Any:
        """What the first device has, on all."""
        if self.size == 1:
            return tree

        def of_first(x):
            mine = jnp.where(self._index() == 0, x, jnp.zeros_like(x))
            return jax.lax.psum(mine, _NAME).astype(x.dtype)

        return jax.tree.map(of_first, tree)

    def mean(self, tree: Any) -> Any:
        """The mean over the devices; its gradient is that of all devices' losses."""
        return tree if self.size == 1 else jax.lax.pmean(tree, _NAME)

    def sum(self, tree: Any) -> Any:
        """The sum over the devices."""
        return tree if self.size == 1 else jax.lax.psum(tree, _NAME)

    def accumulate(
        self, add: Callable[[Any, Any], tuple[Any, Any]], nothing: Any, items: Any
    ) -> tuple[Any, Any]:
        """Adds up over items, which the devices divide among each other.

        Args:
          add: Of a sum so far and an item: the sum with it, and anything beside it.
          nothing: Zeros, what each device starts from.
          items: A tree of arrays with a leading axis, which the number of devices
            divides.

        Returns:
          The sum over all, and what there was beside of each, stacked.
        """
        total, beside = jax.lax.scan(add, nothing, self.shard(items))
        return self.sum(total), self.all_gather(beside)

    def map(self, function: Callable[[Any], Any], items: Any) -> Any:
        """Maps a function over items, which the devices divide among each other.

        One after the other on each device: mapped at once, a choice between
        operations would become all of the operations.

        Args:
          function: Of one item.
          items: A tree of arrays with a leading axis of the same length.

        Returns:
          What the function returns, stacked, for all items, on every device.
        """
        count = len(jax.tree.leaves(items)[0])
        each = -(-count // self.size)
        if self.size > 1:
            # The last devices do again what would be beyond the end.
            mine = self._index() * each + jnp.arange(each)
            items = jax.tree.map(lambda x: x[jnp.minimum(mine, count - 1)], items)
        if each == 1:  # A loop of one would be a loop to the compiler.
            found = function(jax.tree.map(lambda x: x[0], items))
            found = jax.tree.map(lambda x: x[None], found)
        else:
            found = jax.lax.map(function, items)
        return jax.tree.map(lambda x: x[:count], self.all_gather(found))

    def _index(self) -> jax.Array:
        return jax.lax.axis_index(_NAME)


NO_AXIS = Axis()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sharded:
    """An array of which each device holds some of the rows.

    :meth:`Devices.shard` makes it; functions that run on the devices take rows of it
    by their numbers as of the whole array.

    Attributes:
      part: Of every device its rows, ``[devices, rows_of_each, ...]``; in a function,
        those of its device, ``[rows_of_each, ...]``.
      first: Of every device the number of its first row, ``int32[devices]``; in a
        function, of its device, ``int32[]``.
      shape: Of the whole array.
    """

    part: jax.Array
    first: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def __getitem__(self, places: jax.Array) -> jax.Array:
        """Rows from whoever holds them.

        Every device may ask for others, but all must ask at once, and for as many. Each
        needs memory for as many rows as all ask for together.

        Args:
          places: Their numbers, ``int32[...]``, from 0 to the last row's; elsewhere are
            zeros.

        Returns:
          ``[..., *shape[1:]]``.
        """
        asked = jax.lax.all_gather(places, _NAME) - self.first
        held = (asked >= 0) & (asked < len(self.part))
        rows = self.part[jnp.where(held, asked, 0)]
        held = held.reshape(held.shape + (1,) * (rows.ndim - held.ndim))
        return jax.lax.psum_scatter(jnp.where(held, rows, 0), _NAME)

    def __iter__(self) -> Iterator[Any]:
        """Not possible."""
        raise TypeError("An array that devices divide has no rows in order.")


def unsharded(tree: Any) -> Any:
    """The tree with the forms of whole arrays in the place of sharded ones."""

    def form(x):
        if isinstance(x, Sharded):
            return jax.ShapeDtypeStruct(x.shape, x.part.dtype)
        return x

    return jax.tree.map(form, tree, is_leaf=_is_sharded)


def bytes_of_each(tree: Any) -> int:
    """Bytes that the arrays take on a device; what is there twice counts once."""

    def of(x):
        if isinstance(x, Sharded):
            return of(x.part) // len(x.part)
        return int(np.prod(x.shape)) * x.dtype.itemsize

    leaves = {id(x): x for x in jax.tree.leaves(tree, is_leaf=_is_sharded)}
    return sum(map(of, leaves.values()))


def bytes_of_exchange(tree: Any, rows: int) -> int:
    """Bytes that a device needs while each takes so many rows of a sharded array."""
    sizes = (
        len(x.first)
        * jax.process_count()
        * rows
        * np.prod(x.shape[1:], dtype=int)
        * x.part.dtype.itemsize
        for x in jax.tree.leaves(tree, is_leaf=_is_sharded)
        if isinstance(x, Sharded)
    )
    return max(sizes, default=0)


def _is_sharded(x: Any) -> bool:
    return isinstance(x, Sharded)


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

        def run(index, *args):
            del index
            return function(*args)

        @functools.cache
        def mapped(form: Any, axes: tuple[int | None, ...]) -> Callable[..., Any]:
            return jax.pmap(
                run,
                axis_name=_NAME,
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
            leaves, form = jax.tree.flatten(args, is_leaf=_is_sharded)
            axes = tuple(0 if _is_sharded(x) else None for x in leaves)
            return mapped(form, axes)(index, *args)

        return call

    def replicate(self, tree: Any) -> Any:
        """Arrays, placed on all devices; those that are sharded stay so."""
        if self.count == 1:
            return tree
        leaves, form = jax.tree.flatten(tree, is_leaf=_is_sharded)
        placed = iter(_replicate(self)([x for x in leaves if not _is_sharded(x)]))
        leaves = [x if _is_sharded(x) else next(placed) for x in leaves]
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
        return [device for own in _by_process() for device in own[:each]]


ONE_DEVICE = Devices()


def check_count(count: int | None) -> None:
    """Checks that there are so many devices, of several processes as many of each.

    Args:
      count: Number of devices; None for as many as divide the work equally.

    Raises:
      UserError: If there are fewer, or the processes do not divide the number.
    """
    found, processes = jax.device_count(), jax.process_count()
    if count is not None and not (1 <= count <= found and count % processes == 0):
        several = f" that is a multiple of the {processes} processes"
        raise UserError(
            f"--devices is {count}, expected 1 to {found}, the number of "
            f"{jax.devices()[0].platform} devices that JAX finds"
            f"{', one' + several if processes > 1 else ' here'}."
        )


def told(used: Iterable[Devices], asked: int | None) -> str:
    """A line about the devices that are used, and why not all that there are.

    Args:
      used: The devices of each search and training.
      asked: Number of devices, as of :func:`choose`.
    """
    counts, found = sorted({devices.count for devices in used}), jax.device_count()
    platform = jax.devices()[0].platform
    if counts == [found]:
        return f"Devices: {found} ({platform})"
    line = f"Devices: {' and '.join(map(str, counts))} of {found} ({platform})"
    if asked is not None:
        return line
    return (
        f"{line}: more cannot divide the batch_size in config.task, or "
        "config.search.children_per_step, equally."
    )


def memory_of_each(count: int, there: int = 0) -> int | None:
    """Bytes of a device that a run may fill, None if nobody says.

    A CPU has what the machine has free now: not that of other programs, nor that of the
    files that were read to make the data.

    Args:
      count: How many are used; on a CPU they divide the machine's.
      there: Bytes of a device that the run has filled.
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


def choose(
    count: int | None, rows_per_batch: int, children_per_step: int = 1
) -> Devices:
    """The devices for a search that trains so many children together.

    Args:
      count: Number of devices: the first ones, of several processes the first ones of
        each. None for the most that divide the batches, and the children that are
        trained together, equally.
      rows_per_batch: Rows of a batch.
      children_per_step: Children that are trained together.

    Raises:
      UserError: If there are not so many devices, or processes have different numbers
        of them.
      SettingError: If they cannot divide the batches, or the children, equally.
    """
    of_each = [len(own) for own in _by_process()]
    if len(set(of_each)) > 1:
        raise UserError(
            f"The processes have {', '.join(map(str, of_each))} devices, "
            "expected as many each. Show them as many, as CUDA_VISIBLE_DEVICES does."
        )
    processes = len(of_each)
    check_count(count)
    if count is None:
        sharded = math.gcd(
            rows_per_batch, children_per_step if children_per_step > 1 else 0
        )
        numbers = range(processes, sum(of_each) + 1, processes)
        count = max((n for n in numbers if sharded % n == 0), default=processes)
    fewer = (
        "start fewer processes" if count == processes > 1 else "--devices takes fewer"
    )
    if rows_per_batch % count:
        raise SettingError(
            "batch_size",
            rows_per_batch,
            f"a multiple of {count}, the devices that share a batch; {fewer}",
        )
    if children_per_step == 1:
        return Devices(count)
    if children_per_step % count:
        raise SettingError(
            "children_per_step",
            children_per_step,
            f"1 or a multiple of {count}, the devices that divide the children; "
            f"{fewer}",
        )
    return Devices(count, "children")


def _by_process() -> list[list[jax.Device]]:
    """The devices of each process."""
    found = collections.defaultdict(list)
    for device in jax.devices():
        found[device.process_index].append(device)
    return [found[index] for index in sorted(found)]


@functools.cache
def _replicate(devices: Devices) -> Callable[[Any], Any]:
    return devices.compile(lambda tree: tree)
