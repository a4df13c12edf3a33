"""Classes of images that no data set holds: the images of a model's user."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.data.arguments import require_array
from wpl_jax.data.images.files import find_images
from wpl_jax.data.images.pixels import read_pixels
from wpl_jax.errors import UserError, printable
from wpl_jax.tasks.example_predictor import ExamplePredictor
from wpl_jax.tasks.image_data import shrunk
from wpl_jax.tasks.network_call import standardized
from wpl_jax.tasks.predictor import Table

_AT_ONCE = 64  # images of a compiled call


@dataclasses.dataclass(frozen=True)
class ImagePredictor(ExamplePredictor):
    """How images are prepared for a model.

    Attributes:
      classes: Name of each class.
      image_shape: Height, width and channels of the images, before ``shrink``.
      mean: Mean of each channel over the training images, in 0 to 255.
      deviation: Standard deviation of each channel, the same.
      shrink: Squares of so many pixels a side become one pixel, their mean.
      resize: Whether image files of other sizes are resized, as the training images
        were.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    shrink: int = 1
    resize: bool = False

    name = "images"

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    def prepare(self, inputs: Any) -> np.ndarray:
        """Images as a batch, ``uint8[batch, height, width, channels]``.

        Args:
          inputs: The same, or one image; the axis of channels may be missing if there
            is one channel.

        Raises:
          UserError: If they have another size or dtype.
        """
        images = require_array(inputs, "images")
        height, width, channels = self.image_shape
        if images.dtype != np.uint8:
            raise UserError(
                f"The images are {images.dtype}, expected uint8 from 0 to 255, which "
                "the model normalizes itself."
            )
        if channels == 1 and images.shape[-2:] == (height, width):
            images = images[..., None]
        if images.ndim == 3:
            images = images[None]
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise UserError(
                f"The images have shape {images.shape}, expected "
                f"[n, {height}, {width}, {channels}], the size of the training images."
            )
        return images

    def to_network(self, inputs: jax.Array) -> jax.Array:
        """Images as the network takes them.

        Args:
          inputs: ``uint8[batch, height, width, channels]``.

        Returns:
          ``float32``, of smaller images with ``shrink``.
        """
        mean, deviation = jnp.float32(self.mean), jnp.float32(self.deviation)
        return standardized(shrunk(inputs, self.shrink), mean, deviation)

    def predictions(self, outputs: jax.Array) -> jax.Array:
        """Log-probabilities, from scores of the classes."""
        return jax.nn.log_softmax(outputs.astype(jnp.float32))

    def form(self) -> tuple[tuple[int | str, ...], np.dtype]:
        """Any number of images."""
        return ("batch", *self.image_shape), np.dtype(np.uint8)

    def source(self) -> tuple[str, str]:
        """As :meth:`to_network`."""
        lines = ["images = jnp.asarray(images)"]
        if self.shrink > 1:
            lines += [
                f"by = {self.shrink}  # Squares of pixels become one, their mean.",
                "n, height, width, channels = images.shape",
                "images = images[:, : height // by * by, : width // by * by]",
                "shape = n, height // by, by, width // by, by, channels",
                "images = jnp.mean(images.reshape(shape), (2, 4)).round()",
            ]
        body = "".join(f"    {line}\n" for line in lines)
        height, width, channels = self.image_shape
        return "images", (
            'SETTINGS = ABOUT["predictor"]["settings"]\n'
            'LABELS = SETTINGS["classes"]\n\n\n'
            "def prepare(images):\n"
            f'    """Images, uint8[n, {height}, {width}, {channels}], normalized."""\n'
            f"{body}"
            '    mean, deviation = SETTINGS["mean"], SETTINGS["deviation"]\n'
            "    return (images - jnp.array(mean)) / jnp.array(deviation)\n"
        )

    def table(self, path: Path, predict: Callable[[np.ndarray], np.ndarray]) -> Table:
        """A row for each image file, or image of a ``.npy`` file.

        The columns are the file, the class, its probability, and the probabilities of
        all classes.
        """
        columns = ("image", "class", "probability", *self.classes)
        if path.suffix.lower() == ".npy":
            read = self._read_array(path)
        else:
            read = self._read_files(find_images(path))
        return Table(columns, self._rows(read, predict))

    def _rows(self, read, predict) -> Iterator[tuple[Any, ...]]:
        for names, images in read:
            count = len(images)
            padding = np.zeros((_AT_ONCE - count, *images.shape[1:]), np.uint8)
            found = predict(np.concatenate([images, padding]))[:count]
            for name, probabilities in zip(names, np.exp(found), strict=True):
                best = int(np.argmax(probabilities))
                each = (f"{p:.6g}" for p in probabilities)
                yield (
                    printable(name),
                    self.classes[best],
                    f"{probabilities[best]:.6g}",
                    *each,
                )

    def _read_array(self, path: Path) -> Iterator[tuple[list[str], np.ndarray]]:
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path} cannot be read as an array of images: {error}."
            ) from error
        try:
            images = self.prepare(images)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

        def read():
            for first in range(0, len(images), _AT_ONCE):
                some = images[first : first + _AT_ONCE]
                names = [f"{path}[{first + i}]" for i in range(len(some))]
                yield names, np.asarray(some)

        return read()

    def _read_files(self, files: list[Path]) -> Iterator[tuple[list[str], np.ndarray]]:
        for first in range(0, len(files), _AT_ONCE):
            some = files[first : first + _AT_ONCE]
            yield [str(file) for file in some], np.stack([*map(self._read, some)])

    def _read(self, file: Path) -> np.ndarray:
        height, width, channels = self.image_shape
        size = (height, width) if self.resize else None
        pixels = read_pixels(file, size, channels)
        if pixels.shape[:2] != (height, width):
            raise UserError(
                f"{file} has {pixels.shape[0]} x {pixels.shape[1]} pixels (height x "
                f"width), expected {height} x {width}, the size of the training images."
            )
        return pixels.reshape(self.image_shape)
