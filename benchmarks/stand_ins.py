"""Noise and zeros of the shapes of data that a configuration reads from files.

What is compiled depends on the shapes of the data alone, so a program of the paper's
size can be made where Penn Treebank, CIFAR-10 and MNIST are not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wpl_jax.data import ImageDataset, Split, TextDataset
from wpl_jax.tasks import DataCache

TOKENS = {"train": 929_589, "valid": 73_760, "test": 82_430}  # of Penn Treebank
VOCABULARY = 10_000
# By format: an image's shape, the number of images for training and validation, and
# the number for testing.
IMAGES = {
    "folder": ((32, 32, 3), 50_000, 10_000),  # CIFAR-10
    "npz": ((28, 28, 1), 60_000, 10_000),  # MNIST
}


class StandIns(DataCache):
    """Hands out stand-ins for the data that is read from files."""

    def get(self, settings: Mapping[str, Any], load: Callable[[], Any]) -> Any:
        """What was loaded before, or a stand-in, or what is loaded now."""
        if "on" in settings:  # The data on devices is made of the data that was opened.
            return super().get(settings, load)
        return super().get(settings, lambda: find(**settings) or load())


def find(task: str, data: Mapping[str, Any]) -> TextDataset | ImageDataset | None:
    """The stand-in for the data of a task; None where no files are needed."""
    if data["format"] not in IMAGES:
        return None
    return text() if task == "language_model" else images(data)


def text() -> TextDataset:
    """A text as long as Penn Treebank, of one word, with its vocabulary."""
    return TextDataset(
        **{name: np.zeros(size, np.int32) for name, size in TOKENS.items()},
        vocabulary=tuple(map(str, range(VOCABULARY))),
        source="zeros",
        unknown=dict.fromkeys(TOKENS, 0),
        level="word",
    )


def images(data: Mapping[str, Any]) -> ImageDataset:
    """Noise of the shape of CIFAR-10 or MNIST.

    Args:
      data: ``config.task.data`` or ``config.data``, with the format and the number of
        images that are held out.
    """
    shape, train, test = IMAGES[data["format"]]
    valid = data["valid"]
    rng = np.random.default_rng(0)
    splits = (
        Split(
            rng.integers(0, 256, (count, *shape), np.uint8),
            np.arange(count, dtype=np.int32) % 10,
        )
        for count in (train - valid, valid, test)
    )
    repeated = {"valid": 0, "test": 0}
    return ImageDataset(*splits, tuple("0123456789"), "noise", repeated)
