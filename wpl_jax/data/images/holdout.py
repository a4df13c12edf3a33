"""Holding out a share of the training examples, each class by its part."""

import numpy as np

from wpl_jax.data.errors import DataError
from wpl_jax.data.images.source import Split
from wpl_jax.data.repeats import hash_rows


def check_share(share: object, argument: str) -> int | float:
    """A share of examples: a number of them, or a fraction of them.

    Args:
      share: What the caller gave.
      argument: The argument's name, for the message.

    Returns:
      A positive int, or a float in (0, 1).

    Raises:
      DataError: It is something else.
    """
    if (
        isinstance(share, int | np.integer)
        and not isinstance(share, bool)
        and share > 0
    ):
        return int(share)
    if isinstance(share, float | np.floating) and 0 < share < 1:
        return float(share)
    raise DataError(
        f"argument {argument}",
        repr(share),
        "a positive number of examples (int) or a fraction between 0 and 1 (float)",
        f"set for instance {argument}=0.1 or {argument}=5000",
        argument,
    )


def hold_out(
    split: Split,
    share: int | float,
    *,
    seed: int,
    argument: str,
    source: str,
    otherwise: str = "add examples",
) -> tuple[Split, Split]:
    """Divides a split into what stays and what is held out.

    Stratified: each class gives in proportion to its size, up to rounding, and
    keeps at least one example. Random but for the seed, and both parts keep the
    order of the examples. Copies of one image are not divided: they stay, and other
    examples are held out for them, or fewer where there are none. Images in files are
    read for that, some at a time.

    Args:
      split: n examples with labels in [0, num_classes), none of the classes empty.
      share: How many to hold out (int), or which fraction of n (float).
      seed: A non-negative int; the same seed holds out the same examples.
      argument: The name of the share's argument, for messages; it also tells the
        random numbers of one hold-out from another's.
      source: Where the examples are from, for messages.
      otherwise: What the message advises beside another share.

    Returns:
      The rest, and the examples held out. They are disjoint and together ``split``.

    Raises:
      DataError: The share comes to no example, or to so many that a class would
        have no example left, or all examples are copies of each other; or an image
        is broken.

    Examples:
      >>> labels = np.array([0, 0, 0, 0, 1, 1], np.int32)
      >>> images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
      >>> split = Split(images, labels)
      >>> rest, held = hold_out(split, 3, seed=0, argument="valid", source="six")
      >>> rest.labels, held.labels
      (array([0, 0, 1], dtype=int32), array([0, 0, 1], dtype=int32))
    """
    counts = np.bincount(split.labels)
    total = share if isinstance(share, int) else round(share * len(split.labels))
    limit = len(split.labels) - len(counts)
    if limit == 0:
        raise DataError(
            source,
            f"one training example of each of {len(counts)} classes, so that none can"
            f" be held out for {argument}",
            "a class with two training examples or more",
            f"add examples, or give {argument} a split of its own",
        )
    if not 0 < total <= limit:
        raise DataError(
            source,
            f"{argument}={share}, which is {total} of the {len(split.labels)} training"
            f" examples, and {len(counts)} classes",
            f"1 to {limit}, so that every class keeps at least one training example",
            f"choose {argument} within that, or {otherwise}",
            argument,
        )
    rng = np.random.default_rng([seed, *argument.encode()])
    held = np.zeros(len(split.labels), bool)
    orders = []
    for label, take in enumerate(_quotas(counts, total)):
        members = np.flatnonzero(split.labels == label)
        orders.append(rng.permutation(members))
        held[orders[-1][:take]] = True
    _return_copies(held, hash_rows(split.images), orders)
    if not held.any():
        found = "only copies of the same images among the training examples"
        remedy = f"leave copies out, or give {argument} a split of its own"
        raise DataError(source, found, "different images", remedy)
    return (
        Split(split.images[~held], split.labels[~held]),
        Split(split.images[held], split.labels[held]),
    )


def _return_copies(
    held: np.ndarray, hashes: np.ndarray, orders: list[np.ndarray]
) -> None:
    """Gives back what is held out and has a copy in the rest; others take its place.

    Args:
      held: Which examples are held out, bool[n]; changed in place.
      hashes: The same number for the same images, int64[n].
      orders: The examples of each class, in the order in which they are held out.
    """
    back = held & np.isin(hashes, hashes[~held])
    if not back.any():
        return
    _, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    single = sizes[group] == 1
    for order in orders:
        others = order[single[order] & ~held[order]]
        held[others[: back[order].sum()]] = True
    held[back] = False


def _quotas(counts: np.ndarray, total: int) -> np.ndarray:
    """How many examples each class gives: largest remainders, one always left.

    Since total < sum(counts), rounding down leaves each class at least one
    example; only what rounding adds has to look at the room that is left.

    Args:
      counts: int[num_classes], each at least 1.
      total: At most ``sum(counts) - num_classes``.

    Returns:
      int[num_classes] with the sum ``total`` and each below its count.
    """
    shares, remainders = np.divmod(counts * total, counts.sum())
    order = np.argsort(-remainders, kind="stable")
    while (short := total - shares.sum()) > 0:
        roomy = order[shares[order] < counts[order] - 1]
        shares[roomy[:short]] += 1
    return shares
