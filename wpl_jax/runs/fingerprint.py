"""Fingerprints of data: the same for the same content, wherever it lies."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from wpl_jax.devices import processes
from wpl_jax.devices.sharded import Sharded


def fingerprint(data: Any) -> str:
    """A checksum of all arrays of some data.

    It depends on the arrays' values, dtypes, shapes and places in the tree, and on
    nothing else: an array whose rows are divided among devices, or processes, has the
    fingerprint of the whole array. Of several processes all have to call it.

    Args:
      data: A tree of arrays, and of :class:`wpl_jax.devices.sharded.Sharded`.

    Returns:
      16 hexadecimal digits.
    """
    leaves = jax.tree_util.tree_leaves_with_path(
        data, is_leaf=lambda x: isinstance(x, Sharded)
    )
    whole = hashlib.blake2b(digest_size=8)
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path)
        dtype = leaf.part.dtype if isinstance(leaf, Sharded) else leaf.dtype
        whole.update(f"{name} {dtype} {list(leaf.shape)} {_sum(leaf)} ".encode())
    return whole.hexdigest()


def of_each(data: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints by name; what several names share is read once."""
    found: dict[int, str] = {}
    for tree in data.values():
        if id(tree) not in found:
            found[id(tree)] = fingerprint(tree)
    return {name: found[id(tree)] for name, tree in data.items()}


def _sum(leaf: Any) -> int:
    """The sum of the hashes of an array's rows, each with its number.

    A sum does not depend on the order, nor on who holds which rows.
    """
    if not isinstance(leaf, Sharded):
        array = np.asarray(leaf)
        rows = array if array.ndim > 1 else array[None]  # Numbers are no rows.
        return _sum_of_rows(enumerate(rows))
    here = _sum_of_rows(_rows_here(leaf))
    of_all = processes.total(np.array([here], np.uint64).view(np.int64))
    return int(of_all[0]) % 2**64


def _sum_of_rows(rows: Iterable[tuple[int, np.ndarray]]) -> int:
    total = 0
    for number, row in rows:
        hashed = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8)
        hashed.update(row.tobytes())
        total += int.from_bytes(hashed.digest(), "little")
    return total % 2**64


def _rows_here(divided: Sharded) -> Iterator[tuple[int, np.ndarray]]:
    """The rows that this process's devices hold, with their numbers."""
    starts = {
        shard.device: int(np.asarray(shard.data).reshape(()))
        for shard in divided.first.addressable_shards
    }
    for shard in divided.part.addressable_shards:
        first = starts[shard.device]
        part = np.asarray(shard.data)
        part = part.reshape(-1, *divided.shape[1:])
        for place, row in enumerate(part[: max(divided.shape[0] - first, 0)]):
            yield first + place, row
