"""Telling what an image shows: the task of the micro space.

All images are on the devices, as bytes; each has some of them, or all. A batch is taken
out of them there, moved, mirrored and cut into, and normalized, as a function of its
number and a key. Passes
over the training images are in a random order each. Everything that is measured is
measured without noise, and, while a search shares weights, normalized with the moments
of each batch, as the ENAS code does; moments of training batches are an option.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from wpl_jax.common.config_fields import (
    get_field,
    require,
    require_choice,
    require_int,
    require_number,
    require_only,
)
from wpl_jax.data import ImageDataset, open_images
from wpl_jax.data.host_memory import require_memory
from wpl_jax.data.images.contrast import require_contrast
from wpl_jax.data.repeats import count_repeated, describe_repeated, hash_rows
from wpl_jax.devices import parallel, processes
from wpl_jax.devices.parallel import ALONE, ONE, Axis, Devices, Divided
from wpl_jax.errors import ConfigError, UserError, in_bytes
from wpl_jax.spaces import make_space
from wpl_jax.spaces.micro_cell import Noise
from wpl_jax.supernet import Space
from wpl_jax.tasks.data_cache import Shelf
from wpl_jax.tasks.guessing import Guess, of_classes
from wpl_jax.tasks.task import Evaluation

SPLITS = ("train", "valid", "test")


class ImageSpace(Space, Protocol):
    """A space of networks whose ``apply`` returns :class:`Outputs`."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""


class Images(NamedTuple):
    """A split on the devices."""

    images: jax.Array | Divided  # uint8[n, height, width, channels]
    labels: jax.Array  # int32[n]


class Data(NamedTuple):
    """The images, and what they are normalized with."""

    train: Images
    valid: Images
    test: Images
    mean: jax.Array  # float32[channels]; of the training images
    deviation: jax.Array  # float32[channels]


class Augmentation(NamedTuple):
    """What is done to training images."""

    crop: int = 0  # they are moved by up to so many pixels, both ways
    flip: bool = False  # half of them are mirrored, left to right
    cutout: int = 0  # size of a square that is blanked out


class DropPath(NamedTuple):
    """How branches are left out; see :class:`wpl_jax.spaces.micro_cell.Noise`."""

    rate: float = 0.0  # in the last cell, and after so many
    epochs: int = 1  # passes over the training images; linearly growing until then


class Normalization(NamedTuple):
    """Which moments activations are normalized with in evaluation mode."""

    moments: Literal["batch", "train"] = "batch"  # of the batch, or of training images
    batches: int = 8  # of "train": their mean over so many batches


class Examples(NamedTuple):
    """Single images for a per-example Fisher; a batch has a leading axis."""

    image: jax.Array  # float32[height, width, channels]
    label: jax.Array  # int32[]
    moments: Any  # of their batch, as constants


_NO_AUGMENTATION, _NO_DROP_PATH, _OF_BATCH = (
    Augmentation(),
    DropPath(),
    Normalization(),
)


@dataclasses.dataclass(frozen=True)
class ImageClassification:
    """The task.

    Attributes:
      space: What is searched.
      batch_size: Images of a batch, in training and evaluation.
      augmentation: Of training images.
      dropout: Of the classifier's input, in training.
      drop_path: Of the cells' branches, in training.
      auxiliary_weight: Of the loss of the auxiliary head, if the space has one.
      normalization: In evaluation mode.
      compute_dtype: In which training computes; parameters, moments and all that is
        measured stay in float32.
    """

    space: ImageSpace
    batch_size: int = 160
    augmentation: Augmentation = _NO_AUGMENTATION
    dropout: float = 0.0
    drop_path: DropPath = _NO_DROP_PATH
    auxiliary_weight: float = 0.4
    normalization: Normalization = _OF_BATCH
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    error_name = "% error"

    @property
    def predictions_per_batch(self) -> int:
        """Images of a batch."""
        return self.batch_size

    def init_stream(self) -> tuple[()]:
        """Nothing: batches do not depend on each other."""
        return ()

    def num_batches(self, data: Data, split: str) -> int:
        """Whole batches of a split."""
        return len(getattr(data, split).labels) // self.batch_size

    def train_loss(self, child, architecture, data, stream, step, key, axis=ALONE):
        """Cross-entropy of one batch with all noise, and the auxiliary head's.

        Args:
          child: The child's parameters.
          architecture: ``int32[num_decisions]``.
          data: The images.
          stream: Nothing.
          step: Number of the batch, ``int32[]``, counted on over all passes.
          key: PRNG key of the noise.
          axis: Devices that share the batch.

        Returns:
          The loss, and the pair of the cross-entropy in nats and nothing.
        """
        key, key_of_child = jax.random.split(key)
        images, labels = self._training_batch(data, step, key, axis)
        batches = self.num_batches(data, "train")
        # A float: the product may be beyond int32.
        last = jnp.float32(self.drop_path.epochs * batches)
        grown = jnp.minimum(step / last, 1)
        noise = Noise(key_of_child, self.dropout, self.drop_path.rate * grown)
        child, images = jax.tree.map(
            lambda x: x.astype(self.compute_dtype), (child, images)
        )
        outputs = self.space.apply(child, architecture, images, noise=noise, axis=axis)
        nats = _nats(outputs.logits, labels)
        loss = nats
        if outputs.auxiliary is not None:
            loss += self.auxiliary_weight * _nats(outputs.auxiliary, labels)
        return loss, (jax.lax.stop_gradient(nats), stream)

    def validate(self, child, architecture, data, first, batches, axis=ALONE):
        """Nats and per cent wrong over validation batches in a row."""
        moments = self._moments(child, architecture, data, axis)

        def add(i, total):
            images, labels = self._batch(data, "valid", first + i, axis)
            logits = self._logits(child, architecture, images, moments, axis)
            found = jnp.stack(
                [_nats(logits, labels), jnp.mean(_wrongs(logits, labels))]
            )
            return total + found

        total = jax.lax.fori_loop(0, batches, add, jnp.zeros(2))
        nats, wrong = axis.mean(total) / batches
        return _evaluation(nats, wrong)

    def evaluate(self, child, architecture, data, split: str, axis=ALONE):
        """Nats and per cent wrong over the whole of a split.

        The last batch is filled up with the first images, which count once.
        """
        moments = self._moments(child, architecture, data, axis)
        count = len(getattr(data, split).labels)

        def one(index):
            places = self._places(index, axis)
            images, labels = self._take(data, split, places % count)
            logits = self._logits(child, architecture, images, moments, axis)
            each = jnp.stack([_nats_of_each(logits, labels), _wrongs(logits, labels)])
            return jnp.sum(each * (places < count), 1)

        batches = -(-count // self.batch_size)
        total = jnp.sum(jax.lax.map(one, jnp.arange(batches)), 0)
        nats, wrong = axis.sum(total) / count
        return _evaluation(nats, wrong)

    def fisher_loss(self, child, architecture, data, split: str, step, axis=ALONE):
        """Nats on one batch of the split."""
        images, labels = self._batch(data, split, step, axis)
        moments = self._moments(child, architecture, data, axis)
        return _nats(self._logits(child, architecture, images, moments, axis), labels)

    def fisher_examples(self, child, architecture, data, split: str, step, axis=ALONE):
        """Its images, each with the moments of the batch.

        An image alone has moments of its own; the gradient of its loss is taken with
        those of the batch, held constant.
        """
        images, labels = self._batch(data, split, step, axis)
        moments = self._moments(child, architecture, data, axis)
        if moments is None:
            moments = self.space.apply(child, architecture, images, axis=axis).moments
        each = jax.tree.map(
            lambda m: jnp.broadcast_to(m, (len(labels), *m.shape)), moments
        )
        return Examples(images, labels, each)

    def example_loss(self, child, architecture, example):
        """Nats of one image."""
        logits = self._logits_of_example(child, architecture, example)
        return _nats(logits, example.label[None])

    def sample_labels(self, key, child, architecture, example):
        """The image with a class drawn from the model."""
        logits = self._logits_of_example(child, architecture, example)[0]
        label = jax.random.categorical(key, logits).astype(example.label.dtype)
        return example._replace(label=label)

    def guess(self, data: Data) -> Guess:
        """Always the most frequent class."""
        return of_classes(np.asarray(data.valid.labels))

    def reward(self, evaluation):
        """The share that is right."""
        return 1 - evaluation.error / 100

    def _logits(self, child, architecture, images, moments, axis=ALONE):
        """Without noise."""
        return self.space.apply(
            child, architecture, images, moments=moments, axis=axis
        ).logits

    def _logits_of_example(self, child, architecture, example):
        return self._logits(child, architecture, example.image[None], example.moments)

    def _moments(self, child, architecture, data, axis=ALONE):
        """What to normalize with, None for each batch's own."""
        if self.normalization.moments == "batch":
            return None
        batches = self.normalization.batches

        def one(index):
            images, _ = self._batch(data, "train", index, axis)
            return self.space.apply(child, architecture, images, axis=axis).moments

        found = jax.lax.map(one, jnp.arange(batches))
        return jax.tree.map(lambda m: jnp.mean(m, 0), found)

    def _batch(self, data, split, index, axis):
        """One of the batches of a split, in their order."""
        index = index % self.num_batches(data, split)
        return self._take(data, split, self._places(index, axis))

    def _places(self, index, axis):
        """Of a batch, those of this device."""
        return index * self.batch_size + axis.share(jnp.arange(self.batch_size))

    def _take(self, data, split, places):
        images, labels = (x[places] for x in getattr(data, split))
        return _normalized(data, images), labels

    def _training_batch(self, data, step, key, axis):
        """A batch of the pass that a step belongs to, augmented."""
        count = len(data.train.labels)
        batches = self.num_batches(data, "train")
        key_of_pass = jax.random.fold_in(jax.random.key(0), step // batches)
        order = jax.random.permutation(key_of_pass, count)
        first = step % batches * self.batch_size
        places = axis.share(jax.lax.dynamic_slice_in_dim(order, first, self.batch_size))
        images = data.train.images[places]
        images = augment(key, images, self.augmentation, data, axis)
        return images, data.train.labels[places]


def augment(
    key: jax.Array,
    images: jax.Array,
    augmentation: Augmentation,
    data: Data,
    axis: Axis = ALONE,
) -> jax.Array:
    """Moves, mirrors and cuts into images, each in its own way, and normalizes them.

    What comes in from beyond an image, and what is cut out, is of the mean color.

    Args:
      key: PRNG key.
      images: ``uint8[batch, height, width, channels]``.
      augmentation: What to do.
      data: For the mean and the deviation.
      axis: Devices of which each has its share of a batch.

    Returns:
      ``float32[batch, height, width, channels]``.
    """
    here, height, width, _ = images.shape
    batch = here * axis.size
    move, mirror, cut = jax.random.split(key, 3)
    crop, size = augmentation.crop, augmentation.cutout
    offset = axis.share(
        jax.random.randint(move, (2, batch, 1), -crop, crop + 1), axis=1
    )
    rows = jnp.arange(height) + offset[0]
    columns = jnp.arange(width) + offset[1]
    if augmentation.flip:
        flipped = axis.share(jax.random.bernoulli(mirror, shape=(batch, 1)))
        columns = jnp.where(flipped, width - 1 - columns, columns)
    inside = _within(rows, 0, height)[:, :, None] & _within(columns, 0, width)[:, None]
    moved = images[
        jnp.arange(here)[:, None, None],
        jnp.clip(rows, 0, height - 1)[:, :, None],
        jnp.clip(columns, 0, width - 1)[:, None],
    ]
    if size:
        # The center is in the image, the square may reach beyond it.
        bounds = jnp.array([[height], [width]])
        center = axis.share(jax.random.randint(cut, (2, batch), 0, bounds), axis=1)
        top, left = center[..., None] - size // 2
        inside &= ~(
            _within(jnp.arange(height), top, top + size)[:, :, None]
            & _within(jnp.arange(width), left, left + size)[:, None]
        )
    return jnp.where(inside[..., None], _normalized(data, moved), 0)


def _within(x, low, high):
    return (x >= low) & (x < high)


def _normalized(data, images):
    return (images.astype(jnp.float32) - data.mean) / data.deviation


def _nats_of_each(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
    )


def _nats(logits, labels):
    return jnp.mean(_nats_of_each(logits, labels))


def _wrongs(logits, labels):
    return (jnp.argmax(logits, -1) != labels).astype(jnp.float32)


def _evaluation(nats, wrong):
    """Of scores that are not numbers the first is as good as any: that is no error."""
    return Evaluation(nats, jnp.where(jnp.isnan(nats), jnp.nan, 100 * wrong))


def check(config: ConfigDict) -> None:
    """Checks ``config.task``; a ConfigError names what is wrong."""
    own = {field.name for field in dataclasses.fields(ImageClassification)} - {"space"}
    require_only(config, "task", own | {"name", "data", "shrink", "divide_images"})
    require_int(config, "task.batch_size", 2)
    require_int(config, "task.shrink", 1)
    require_choice(config, "task.divide_images", (False, True))
    for name, fields in (
        ("augmentation", Augmentation._fields),
        ("drop_path", DropPath._fields),
        ("normalization", Normalization._fields),
    ):
        require_only(config, f"task.{name}", fields)
    for name in ("crop", "cutout"):
        require_int(config, f"task.augmentation.{name}", 0)
    require_choice(config, "task.augmentation.flip", (False, True))
    require_number(config, "task.dropout", least=0, below=1)
    require_number(config, "task.drop_path.rate", least=0, below=1)
    require_int(config, "task.drop_path.epochs", 1)
    require_number(config, "task.auxiliary_weight", least=0)
    require_choice(config, "task.normalization.moments", ("batch", "train"))
    require_int(config, "task.normalization.batches", 1)
    require_choice(config, "task.compute_dtype", ("bfloat16", "float32"))


def unread(config: ConfigDict) -> dict[str, str]:
    """Settings under ``config.task`` that are not read, and why."""
    found = {}
    if not get_field(config, "task.drop_path.rate"):
        found["task.drop_path.epochs"] = "config.task.drop_path.rate is 0"
    if get_field(config, "task.normalization.moments") == "batch":
        why = "config.task.normalization.moments is 'batch'"
        found["task.normalization.batches"] = why
    if not config.space.get("auxiliary"):
        found["task.auxiliary_weight"] = "config.space.auxiliary is False"
    return found


def open_task(
    config: ConfigDict, devices: Devices, shelf: Shelf
) -> tuple[ImageClassification, Callable[[], Data], str]:
    """Opens the images that ``config.task.data`` names.

    Args:
      config: The configuration.
      devices: They divide the images among each other where
        ``config.task.divide_images`` says so; else each gets all of them.
      shelf: Where they may be.

    Returns:
      The task, a function that puts its data on the devices, and a line about the
      images. The function raises a UserError if they do not fit.

    Raises:
      UserError: If the configuration or the images are wrong.
    """
    check(config)
    settings = config.task
    get_field(config, "task.data.format")
    options = settings.data.to_dict()
    dataset = shelf.get({"image files": options}, lambda: open_images(**options))
    splits = {name: getattr(dataset, name) for name in SPLITS}
    smallest = min(SPLITS, key=lambda name: len(splits[name].labels))
    require(
        settings.batch_size <= len(splits[smallest].labels),
        config,
        "task.batch_size",
        f"at most {len(splits[smallest].labels)}, the images of {smallest}",
    )
    side = min(dataset.image_shape[:2])
    if side < 4:
        raise ConfigError(
            f"The images of config.task.data have {side} pixels on a side, expected at "
            "least 4: the space halves them twice. Give larger images."
        )
    require(
        side >= 4 * settings.shrink,
        config,
        "task.shrink",
        f"at most {side // 4}: of images of {side} pixels at least 4 must be left",
    )
    left = side // settings.shrink
    for name in ("crop", "cutout"):
        require(
            settings.augmentation[name] <= left,
            config,
            f"task.augmentation.{name}",
            f"at most {left}, the pixels of a side of the images",
        )
    shrink, divide = settings.shrink, settings.divide_images
    holders = devices if divide else ONE

    def put() -> Data:
        check_memory(dataset, shrink, holders)
        return devices.replicate(prepare(dataset, shrink, holders))

    def load() -> Data:
        on = {"shrink": shrink, "divide": divide, "on": devices.count}
        return shelf.get({"images": options, **on}, put)

    height, width, channels = dataset.image_shape
    shape = height // shrink, width // shrink, channels
    space = make_space(
        config,
        image_shape=shape,
        num_classes=dataset.num_classes,
    )
    task = ImageClassification(
        space=cast(ImageSpace, space),
        batch_size=settings.batch_size,
        augmentation=Augmentation(**settings.augmentation.to_dict()),
        dropout=settings.dropout,
        drop_path=DropPath(**settings.drop_path.to_dict()),
        auxiliary_weight=settings.auxiliary_weight,
        normalization=Normalization(**settings.normalization.to_dict()),
        compute_dtype=settings.compute_dtype,
    )
    return task, load, describe(dataset, shape)


def prepare(dataset: ImageDataset, shrink: int = 1, devices: Devices = ONE) -> Data:
    """Puts images on devices; of several processes each reads those of its devices.

    Args:
      dataset: The images.
      shrink: Squares of so many pixels become one, their mean; what is left over at
        the right and the bottom is cut off.
      devices: Those that divide the images among each other.

    Returns:
      The images, each split in a random order of its own: in files classes often come
      one after the other, and a batch of one class has moments of its own.

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
        images = _shrunk(images, shrink)
        whole = Images(devices.divide(images, count), jnp.asarray(split.labels[order]))
        return whole, images

    train, pixels = moved("train")
    mean, deviation = _mean_and_deviation(pixels, dataset.source)
    (valid, _), (test, _) = moved("valid"), moved("test")
    if hashes:
        repeated = count_repeated(hashes, dataset.source)
        if said := describe_repeated(repeated, _sizes(dataset)):
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


def _shrunk(images: np.ndarray, by: int) -> np.ndarray:
    if by == 1:
        return images
    rows, columns = (size // by for size in images.shape[1:3])
    images = images[:, : rows * by, : columns * by]
    squares = images.reshape(len(images), rows, by, columns, by, images.shape[-1])
    return np.rint(squares.mean((2, 4))).astype(np.uint8)


def check_memory(
    dataset: ImageDataset, shrink: int = 1, devices: Devices = ONE
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
    counts = _sizes(dataset)
    needed = size * sum(counts.values()) // devices.count
    available = parallel.memory_of_each(devices.count)
    if available is not None and needed > available:
        raise UserError(
            f"The images of {dataset.source} need {in_bytes(needed)} on each "
            f"device, which has {in_bytes(available)}. Take fewer or smaller "
            "ones: config.task.shrink halves their sides with 2; or more devices, with "
            "config.task.divide_images."
        )
    # Images in memory are copied in another order, a split at a time.
    processes_here = jax.process_count() if devices.count > 1 else 1
    copy = height * width * channels * max(counts.values()) // processes_here
    here = devices.count // processes_here if parallel.on_host() else 0
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
    repeated = describe_repeated(dataset.repeated or {}, _sizes(dataset))
    about = f"{dataset.source}: images {counts}, {size}; {classes} classes"
    return f"{about}; {repeated}" if repeated else about


def _sizes(dataset: ImageDataset) -> dict[str, int]:
    return {name: len(getattr(dataset, name).labels) for name in SPLITS}
