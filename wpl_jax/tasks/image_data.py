"""Images on devices: put there, made smaller, and normalized.

All images are on the devices, as bytes; each has some of them, or all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.data import ImageDataset
from wpl_jax.data.host_memory import require_memory
from wpl_jax.data.images.contrast import require_contrast
from wpl_jax.data.repeats import count_repeated, describe_repeated, hash_rows
from wpl_jax.devices import capacity, processes
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.devices.sharded import Sharded
from wpl_jax.errors import UserError, for_caller, in_bytes

SPLITS = ("train", "valid", "test")


class Images(NamedTuple):
    """A split on the devices."""

    images: jax.Array | Sharded  # uint8[n, height, width, channels]
    labels: jax.Array  # int32[n]


class Data(NamedTuple):
    """The images, and what they are normalized with."""

    train: Images
    valid: Images
    test: Images
    mean: jax.Array  # float32[channels]; of the training images
    deviation: jax.Array  # float32[channels]


def prepare(
    dataset: ImageDataset, shrink: int = 1, devices: Devices = ONE_DEVICE
) -> Data:
    """Puts images on devices; of several processes each reads those of its devices.

    Args:
      dataset: The images.
      shrink: Squares of so many pixels become one, their mean; what is left over at
        the right and the bottom is cut off.
      devices: Those that divide the images among each other.

    Returns:
      The images, each split in a random order of its own: in files classes often come
      one after the other, and a batch of one class has batch statistics of its own.

    Raises:
      DataError: If an image is broken, all training images are of one colour, or all
        images of a split are in an earlier one.
    """
    hashes = {}

    def moved(name: str) -> tuple[Images, np.ndarray]:
        split = getattr(dataset, name)
        count = len(split.labels)
        order = np.random.default_rng(0).permutation(count)
        rows = devices.rows_here(count)
        images = np.asarray(split.images[order[rows]])
        if dataset.repeated is None:
            hashes[name] = np.zeros(count, np.int64)
            hashes[name][rows] = hash_rows(images)
            if devices.count > 1:  # Each process has other rows.
                hashes[name] = processes.total(hashes[name])
        images = shrunk(images, shrink)
        whole = Images(devices.shard(images, count), jnp.asarray(split.labels[order]))
        return whole, images

    train, pixels = moved("train")
    mean, deviation = _mean_and_deviation(pixels, dataset.source)
    (valid, _), (test, _) = moved("valid"), moved("test")
    if hashes:
        repeated = count_repeated(hashes, dataset.source)
        if said := describe_repeated(repeated, sizes(dataset)):
            print(f"{dataset.source}: {said}.")
    return Data(train, valid, test, mean, deviation)


def _mean_and_deviation(images: np.ndarray, where: str) -> tuple[jax.Array, jax.Array]:
    """Of each channel, over the images of all processes, by sums that are exact."""
    sums = np.zeros((3, images.shape[-1]), np.int64)
    for image in images:
        pixels = image.reshape(-1, image.shape[-1]).astype(np.int64)
        sums += [
            np.ones_like(pixels[0]) * len(pixels),
            pixels.sum(0),
            (pixels**2).sum(0),
        ]
    count, total, squares = processes.total(sums).astype(np.float64)
    mean = total / count
    variance = squares / count - mean**2
    largest = np.sqrt(max(variance.max(), 0))
    require_contrast(largest, f"a mean of {mean.mean():.3g}", where)
    variance = np.maximum(variance, 1)
    return jnp.float32(mean), jnp.float32(np.sqrt(variance))


def shrunk(images: Any, by: int) -> Any:
    """Squares of so many pixels as one, their mean; what is left over is cut off."""
    if by == 1:
        return images
    rows, columns = (size // by for size in images.shape[1:3])
    images = images[:, : rows * by, : columns * by]
    squares = images.reshape(images.shape[0], rows, by, columns, by, images.shape[-1])
    return squares.mean((2, 4)).round().astype(np.uint8)


def check_memory(
    dataset: ImageDataset, shrink: int = 1, devices: Devices = ONE_DEVICE
) -> None:
    """Checks that the images fit on a device, and the copies of them on the machine.

    Args:
      dataset: The images.
      shrink: As of :func:`prepare`.
      devices: The same.

    Raises:
      UserError: If they do not, with what they need.
    """
    height, width, channels = dataset.image_shape
    size = (height // shrink) * (width // shrink) * channels
    counts = sizes(dataset)
    needed = size * sum(counts.values()) // devices.count
    available = capacity.memory_of_each(devices.count)
    if available is not None and needed > available:
        section = for_caller("config.task.image_classification.", "")
        raise UserError(
            f"The images of {dataset.source} need {in_bytes(needed)} on each "
            f"device, which has {in_bytes(available)}. Take fewer or smaller "
            f"ones: {section}shrink halves their sides with 2; or more devices, with "
            f"{section}shard_images."
        )
    # Images in memory are copied in another order, a split at a time.
    processes_here = jax.process_count() if devices.count > 1 else 1
    copy = height * width * channels * max(counts.values()) // processes_here
    here = devices.count // processes_here if capacity.on_host() else 0
    require_memory(
        needed * here + copy,
        dataset.source,
        f"{sum(counts.values()):,} images, in memory in another order, and a copy of "
        "the largest split",
        "take fewer or smaller images, or a machine with more memory",
    )


def describe(dataset: ImageDataset, shape: tuple[int, int, int]) -> str:
    """How many images there are, and the size at which they are used."""
    counts = ", ".join(f"{len(getattr(dataset, n).labels):,} {n}" for n in SPLITS)
    size, classes = "x".join(map(str, shape)), dataset.num_classes
    repeated = describe_repeated(dataset.repeated or {}, sizes(dataset))
    about = f"{dataset.source}: images {counts}, {size}; {classes} classes"
    return f"{about}; {repeated}" if repeated else about


def sizes(dataset: ImageDataset) -> dict[str, int]:
    """How many images each split has."""
    return {name: len(getattr(dataset, name).labels) for name in SPLITS}
