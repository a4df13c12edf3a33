"""Which axis of an array of images is what: examples, rows, columns, channels."""

import math

import numpy as np

from wpl_jax.data.errors import DataError

_EXPECTED = "images [n, height, width] or [n, height, width, channels]"


def check_layout(images: np.ndarray, where: str, channels_last: bool = False) -> None:
    """Checks that an array is of images, with their channels at the end.

    Args:
      images: An array as it is in a file.
      where: The file, for messages.
      channels_last: Whether the channels are known to be there.

    Raises:
      DataError: It has another rank, no pixels, or its channels before its rows.
    """
    shape = images.shape
    if images.ndim not in (3, 4) or 0 in shape:
        remedy = _reshape(shape) if len(shape) == 2 else "reshape the array"
        raise DataError(where, f"an array of shape {shape}", _EXPECTED, remedy)
    if not channels_last and _has_channels_first(shape):
        found = f"shape {shape}, which looks like channels first"
        remedy = (
            "move the channels to the end, images.transpose(0, 2, 3, 1), or, where they"
            " are there already, set channels_last=True"
        )
        raise DataError(where, found, _EXPECTED, remedy)


def check_examples_first(images: np.ndarray, labels: np.ndarray, where: str) -> None:
    """Checks that the first axis of images counts the examples, not the last.

    Args:
      images: An array as it is in a file.
      labels: The labels of the same examples.
      where: The file of the images, for messages.

    Raises:
      DataError: There are as many labels as the last axis is long, as in the Matlab
        files of SVHN.
    """
    shape, count = images.shape, labels.size
    if len(shape) in (2, 3, 4) and shape[-1] == count and shape[0] != count:
        found = f"shape {shape}, and {count} labels: the examples are its last axis"
        remedy = "move them to the front: numpy.moveaxis(images, -1, 0)"
        raise DataError(where, found, _EXPECTED, remedy)


def _has_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether the axis after the examples is more like channels than the last one."""
    if len(shape) != 4:
        return False
    _, first, second, last = shape
    if last > 4:  # More than grey, colour and transparency: rather columns.
        return first != second and (first <= 4 or first < min(second, last))
    return first in (1, 3) and first < second == last


def _reshape(shape: tuple[int, ...]) -> str:
    """How rows of pixels become images, where their number tells."""
    for channels in (1, 3):
        side = math.isqrt(shape[1] // channels)
        if shape[1] and side * side * channels == shape[1]:
            if channels == 1:
                return f"reshape it: images.reshape(-1, {side}, {side})"
            return (
                f"reshape it: images.reshape(-1, {side}, {side}, 3), or where all of"
                " red comes first, as in CIFAR,"
                f" images.reshape(-1, 3, {side}, {side}).transpose(0, 2, 3, 1)"
            )
    return "reshape the array"
