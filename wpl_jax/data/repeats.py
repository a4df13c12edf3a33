"""Examples of validation and test that training has as well.

A model may know them by heart: what is measured on them says little about others.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from wpl_jax.data.errors import DataError

_AT_ONCE = 1024  # images
_ALL = 0.99  # of a text; its ends may have changed


def hash_rows(images: Any) -> np.ndarray:
    """A number for each image, the same for the same pixels.

    Args:
      images: uint8[n, height, width, channels], or what ``np.asarray`` reads.

    Returns:
      int64[n]; two different images have the same with a probability of 2**-64.
    """
    hashes = np.empty(len(images), np.int64)
    for first in range(0, len(images), _AT_ONCE):
        some = np.ascontiguousarray(images[first : first + _AT_ONCE])
        for place, image in enumerate(some, first):
            digest = hashlib.blake2b(image, digest_size=8).digest()
            hashes[place] = int.from_bytes(digest, "little", signed=True)
    return hashes


def count_repeated(hashes: Mapping[str, np.ndarray], where: str) -> dict[str, int]:
    """How many images a split shares with those before it.

    Args:
      hashes: For "train", "valid" and "test", in this order, of :func:`hash_rows`.
      where: Where the images are from, for messages.

    Returns:
      For "valid" how many of its images are in train; for "test" how many of its are
      in either.

    Raises:
      DataError: All of a split are, which is therefore no split of its own.
    """
    counts, seen = {}, hashes["train"]
    for name in ("valid", "test"):
        found = np.isin(hashes[name], seen)
        counts[name] = int(found.sum())
        if found.size and found.all():
            raise DataError(
                where,
                f"all {found.size:,} {name} images also in "
                + ("train" if name == "valid" else "train or valid"),
                "splits of different images",
                f"give {name} images that are in no other split; where the source has"
                " none, a share of train is held out",
            )
        seen = np.concatenate([seen, hashes[name]])
    return counts


def describe_repeated(counts: Mapping[str, int], sizes: Mapping[str, int]) -> str:
    """A part of a sentence about repeated images, empty where there are none."""
    parts = [
        f"{count:,} of {sizes[name]:,} {name} images"
        for name, count in counts.items()
        if count
    ]
    return f"{' and '.join(parts)} are in an earlier split as well" if parts else ""


def check_text(shares: Mapping[str, float], places: Mapping[str, str]) -> None:
    """Checks that no split of a text is a part of the training text.

    Args:
      shares: Of "valid" and "test", of :func:`share_repeated`.
      places: Where each split is from, for messages.

    Raises:
      DataError: Nearly all of one is in training passages.
    """
    for name, share in shares.items():
        if share > _ALL:
            raise DataError(
                places[name],
                f"text of which {share:.0%} is in passages of {places['train']} too",
                "splits that are different parts of the text",
                f"cut what is for {name} out of the training text, or give other text",
            )


def share_repeated(tokens: np.ndarray, train: np.ndarray, length: int) -> float:
    """The share of a text that is in passages which the training text has as well.

    Args:
      tokens: A text in numbers, int[tokens].
      train: The training text in the same numbers, int[training tokens].
      length: Tokens of the shortest passage that counts.

    Returns:
      A share of ``tokens``, 0 to 1.
    """
    if min(tokens.size, train.size) < length:
        return 0.0
    # A random number for each token, and a polynomial of them modulo 2**64.
    highest = max(tokens.max(), train.max())
    numbers = np.random.default_rng(0).integers(2**64, size=highest + 1, dtype="uint64")
    found = _among(
        _hash_passages(numbers[tokens], length), _hash_passages(numbers[train], length)
    )
    # +1 where a passage begins and -1 after its end: the sum counts those around.
    edges = np.zeros(tokens.size + 1, np.int64)
    edges[: found.size] += found
    edges[length:] -= found
    return float(np.mean(np.cumsum(edges[:-1]) > 0))


def _among(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which hashes are among the known ones, int64[n] of 0 and 1."""
    # Most are not, by their first 24 bits alone, and are not sorted.
    bits = np.uint64(64 - 24)
    of_hashes, of_known = (np.zeros(2**24, bool) for _ in range(2))
    of_hashes[hashes >> bits] = True
    of_known[known >> bits] = True
    perhaps = np.flatnonzero(of_known[hashes >> bits])
    found = np.zeros(hashes.size, np.int64)
    found[perhaps] = np.isin(hashes[perhaps], known[of_hashes[known >> bits]])
    return found


def _hash_passages(numbers: np.ndarray, length: int) -> np.ndarray:
    """A number for each ``length`` numbers in a row, ``uint64[n - length + 1]``."""
    base = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
    # Sums of base**i * numbers[i] up to each place; all wraps around at 2**64.
    sums = np.zeros(numbers.size + 1, np.uint64)
    sums[1:] = np.cumsum(numbers * _powers(base, numbers.size))
    differences = sums[length:] - sums[:-length]
    return differences * _powers(pow(base, -1, 2**64), differences.size)


def _powers(base: int, count: int) -> np.ndarray:
    """``base**i`` modulo 2**64 for i below ``count``."""
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)
