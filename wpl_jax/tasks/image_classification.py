"""Telling what an image shows: the task of the micro space.

All images are on the devices, as bytes; each has some of them, or all. A batch is taken
out of them there, moved, mirrored and cut into, and normalized, as a function of its
number and a key. Passes
over the training images are in a random order each. Everything that is measured is
measured without noise, and, while a search shares weights, normalized with the
statistics of each batch, as the ENAS code does; those of training batches are an
option.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax.common.settings import (
    SettingError,
    check_bool,
    check_choice,
    check_int,
    check_number,
    require,
)
from wpl_jax.data import ImageDataset, open_images
from wpl_jax.data.host_memory import require_memory
from wpl_jax.data.images.contrast import require_contrast
from wpl_jax.data.repeats import count_repeated, describe_repeated, hash_rows
from wpl_jax.devices import capacity, processes
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.devices.sharded import Sharded
from wpl_jax.errors import UserError, in_bytes
from wpl_jax.spaces.images import ImageSpace, Noise
from wpl_jax.tasks.guessing import Guess, of_classes
from wpl_jax.tasks.task import Evaluation, Score

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


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images.

    Attributes:
      crop: They are moved by up to so many pixels, both ways.
      flip: Whether half of them are mirrored, left to right.
      cutout: Size of a square that is blanked out.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "crop", 0)
        check_bool(self, "flip")
        check_int(self, "cutout", 0)


@dataclasses.dataclass(frozen=True)
class DropPath:
    """How branches are left out; see :class:`wpl_jax.spaces.images.Noise`.

    Attributes:
      rate: In the last cell, at the end of its growth.
      epochs: Passes over the training images in which it grows linearly from 0.
    """

    rate: float = 0.0
    epochs: int = 1

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_number(self, "rate", least=0, below=1)
        check_int(self, "epochs", 1)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Which batch statistics activations are normalized with in evaluation mode.

    Attributes:
      batch_stats: Those of the ``"batch"``, or of images of ``"train"``.
      batches: Of ``"train"``: batches whose batch statistics are averaged.
    """

    batch_stats: Literal["batch", "train"] = "batch"
    batches: int = 8

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_choice(self, "batch_stats", ("batch", "train"))
        check_int(self, "batches", 1)


class Examples(NamedTuple):
    """Single images for a per-example Fisher; a batch has a leading axis."""

    image: jax.Array  # float32[height, width, channels]
    label: jax.Array  # int32[]
    batch_stats: Any  # of their batch, as constants


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
      compute_dtype: In which training computes; parameters, batch statistics and all
        that is measured stay in float32.
      shrink: Squares of so many pixels a side become one pixel, their mean.
      shard_images: Whether each device holds a part of the images, and not all.
    """

    space: ImageSpace
    batch_size: int = 160
    augmentation: Augmentation = _NO_AUGMENTATION
    dropout: float = 0.0
    drop_path: DropPath = _NO_DROP_PATH
    auxiliary_weight: float = 0.4
    normalization: Normalization = _OF_BATCH
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    shrink: int = 1
    shard_images: bool = False

    error_name = "% error"
    data_fields = ("shrink", "shard_images")

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "batch_size", 2)
        check_number(self, "dropout", least=0, below=1)
        check_number(self, "auxiliary_weight", least=0)
        check_choice(self, "compute_dtype", ("bfloat16", "float32"))
        check_int(self, "shrink", 1)
        check_bool(self, "shard_images")

    @staticmethod
    def unread(settings: Mapping[str, Any]) -> dict[str, str]:
        """Settings that are not read, and why; the space's are under ``space``."""
        found = {}
        if not settings.get("drop_path", {}).get("rate"):
            found["drop_path.epochs"] = "drop_path.rate is 0"
        if settings.get("normalization", {}).get("batch_stats", "batch") == "batch":
            found["normalization.batches"] = "normalization.batch_stats is 'batch'"
        if not settings["space"].get("auxiliary"):
            found["auxiliary_weight"] = "config.space has no auxiliary classifier"
        return found

    @staticmethod
    def open(**options: Any) -> ImageDataset:
        """Opens the images that options name; see :func:`wpl_jax.data.open_images`."""
        return open_images(**options)

    def check(self, dataset: ImageDataset) -> None:
        """Checks that the settings fit the number and the size of the images.

        Raises:
          SettingError: If one does not.
          UserError: If the images are too small.
        """
        sizes = _sizes(dataset)
        smallest = min(sizes, key=lambda name: sizes[name])
        require(
            self,
            "batch_size",
            self.batch_size <= sizes[smallest],
            f"at most {sizes[smallest]}, the images of {smallest}",
        )
        side = min(dataset.image_shape[:2])
        if side < 4:
            raise UserError(
                f"The images of {dataset.source} have {side} pixels on a side, "
                "expected at least 4: the space halves them twice. Give larger images."
            )
        require(
            self,
            "shrink",
            side >= 4 * self.shrink,
            f"at most {side // 4}: of images of {side} pixels at least 4 must be left",
        )
        pixels = side // self.shrink
        for name in ("crop", "cutout"):
            value = getattr(self.augmentation, name)
            if value > pixels:
                raise SettingError(
                    f"augmentation.{name}",
                    value,
                    f"at most {pixels}, the pixels of a side of the images",
                )

    def space_sizes(self, dataset: ImageDataset) -> dict[str, Any]:
        """The shape of an image, and the number of classes."""
        shape = self._shape(dataset)
        return {"image_shape": shape, "num_classes": dataset.num_classes}

    def put(self, dataset: ImageDataset, devices: Devices) -> Data:
        """Puts the images on devices, which divide them if ``shard_images``."""
        holders = devices if self.shard_images else ONE_DEVICE
        check_memory(dataset, self.shrink, holders)
        return devices.replicate(prepare(dataset, self.shrink, holders))

    def describe(self, dataset: ImageDataset) -> str:
        """How many images there are, and the size at which they are used."""
        return _describe(dataset, self._shape(dataset))

    def _shape(self, dataset: ImageDataset) -> tuple[int, int, int]:
        height, width, channels = dataset.image_shape
        return height // self.shrink, width // self.shrink, channels

    @property
    def rows_per_batch(self) -> int:
        """Images of a batch."""
        return self.batch_size

    @property
    def predictions_per_batch(self) -> int:
        """Images of a batch."""
        return self.batch_size

    def init_carry(self) -> tuple[()]:
        """Nothing: batches do not depend on each other."""
        return ()

    def num_batches(self, data: Data, split: str) -> int:
        """Whole batches of a split."""
        return len(getattr(data, split).labels) // self.batch_size

    def train_loss(
        self,
        child,
        architecture,
        data,
        carry,
        step,
        key,
        axis=NO_AXIS,
        split="train",
    ):
        """Cross-entropy of one batch with all noise, and the auxiliary head's.

        Args:
          child: The child's parameters.
          architecture: The child, or a mixture.
          data: The images.
          carry: Nothing.
          step: Number of the batch, ``int32[]``, counted on over all passes.
          key: PRNG key of the noise.
          axis: Devices that share the batch.
          split: Whose batch.

        Returns:
          The loss, and the pair of the cross-entropy in nats and nothing.
        """
        key, key_of_child = jax.random.split(key)
        images, labels = self._augmented_batch(data, split, step, key, axis)
        batches = self.num_batches(data, "train")
        # A float: the product may be beyond int32.
        last = jnp.float32(self.drop_path.epochs * batches)
        grown = jnp.minimum(step / last, 1)
        noise = Noise(key_of_child, self.dropout, self.drop_path.rate * grown)
        child, images = jax.tree.map(
            lambda x: x.astype(self.compute_dtype), (child, images)
        )
        outputs = self.space.apply(child, architecture, images, noise=noise, axis=axis)
        cross_entropy = _mean_loss(outputs.logits, labels)
        loss = cross_entropy
        if outputs.auxiliary is not None:
            loss += self.auxiliary_weight * _mean_loss(outputs.auxiliary, labels)
        return loss, (jax.lax.stop_gradient(cross_entropy), carry)

    def validate(self, child, architecture, data, first, batches, axis=NO_AXIS):
        """Nats and per cent wrong over validation batches in a row."""
        batch_stats = self._batch_stats(child, architecture, data, axis)

        def add(i, total):
            images, labels = self._batch(data, "valid", first + i, axis)
            logits = self._logits(child, architecture, images, batch_stats, axis)
            found = jnp.stack(
                [_mean_loss(logits, labels), jnp.mean(_wrongs(logits, labels))]
            )
            return total + found

        total = jax.lax.fori_loop(0, batches, add, jnp.zeros(2))
        loss, wrong = axis.mean(total) / batches
        return _evaluation(loss, wrong)

    def evaluate(self, child, architecture, data, split: str, axis=NO_AXIS):
        """Nats and per cent wrong over the whole of a split.

        The last batch is filled up with the first images, which count once.
        """
        batch_stats = self._batch_stats(child, architecture, data, axis)
        count = len(getattr(data, split).labels)

        def one(index):
            places = self._places(index, axis)
            images, labels = self._take(data, split, places % count)
            logits = self._logits(child, architecture, images, batch_stats, axis)
            each = jnp.stack([_losses(logits, labels), _wrongs(logits, labels)])
            return jnp.sum(each * (places < count), 1)

        batches = -(-count // self.batch_size)
        total = jnp.sum(jax.lax.map(one, jnp.arange(batches)), 0)
        loss, wrong = axis.sum(total) / count
        return _evaluation(loss, wrong)

    def predict(self, child, architecture, data, inputs):
        """Log-probabilities of the classes.

        Args:
          child: Its parameters.
          architecture: The child, or a mixture.
          data: Of the task, for what images are normalized with.
          inputs: ``uint8[batch, height, width, channels]``. Where ``normalization`` is
            by the batch, predictions depend on the other images in it.

        Returns:
          ``float32[batch, classes]``.
        """
        batch_stats = self._batch_stats(child, architecture, data)
        images = _normalized(data, _shrunk(jnp.asarray(inputs), self.shrink))
        logits = self._logits(child, architecture, images, batch_stats)
        return jax.nn.log_softmax(logits.astype(jnp.float32))

    def begin_split(self, child, architecture, data, axis=NO_AXIS):
        """The batch statistics to normalize with, None for each batch's own."""
        return self._batch_stats(child, architecture, data, axis)

    def predict_batch(
        self, child, architecture, data, split: str, index, carry, axis=NO_AXIS
    ):
        """Log-probabilities of the classes; the last batch ends with the first images.

        See :meth:`wpl_jax.tasks.task.Task.predict_batch`.
        """
        count = len(getattr(data, split).labels)
        images, _ = self._take(data, split, self._places(index, axis) % count)
        logits = self._logits(child, architecture, images, carry, axis)
        return jax.nn.log_softmax(logits.astype(jnp.float32)), carry

    def score(self, log_probabilities, data, split: str, index, axis=NO_AXIS):
        """Cross-entropy and mistakes of the images, each of which counts once."""
        count, places = len(getattr(data, split).labels), self._places(index, axis)
        _, labels = self._take(data, split, places % count)
        there = places < count
        loss = jnp.sum(_losses(log_probabilities, labels) * there)
        mistakes = jnp.sum(_wrongs(log_probabilities, labels) * there)
        return Score(loss, mistakes, jnp.sum(there * 1.0))

    def batches_of_split(self, data, split: str) -> int:
        """Batches that hold all images of a split."""
        return -(-len(getattr(data, split).labels) // self.batch_size)

    def conclude(self, score):
        """Mean nats, and per cent wrong."""
        loss, mistakes, predicted = score
        return _evaluation(loss / predicted, mistakes / predicted)

    def fisher_loss(self, child, architecture, data, split: str, step, axis=NO_AXIS):
        """Nats on one batch of the split."""
        images, labels = self._batch(data, split, step, axis)
        batch_stats = self._batch_stats(child, architecture, data, axis)
        return _mean_loss(
            self._logits(child, architecture, images, batch_stats, axis), labels
        )

    def fisher_examples(
        self, child, architecture, data, split: str, step, axis=NO_AXIS
    ):
        """Its images, each with the batch statistics of the batch.

        An image alone has batch statistics of its own; the gradient of its loss is
        taken with those of the batch, held constant.
        """
        images, labels = self._batch(data, split, step, axis)
        batch_stats = self._batch_stats(child, architecture, data, axis)
        if batch_stats is None:
            batch_stats = self.space.apply(
                child, architecture, images, axis=axis
            ).batch_stats
        each = jax.tree.map(
            lambda m: jnp.broadcast_to(m, (len(labels), *m.shape)), batch_stats
        )
        return Examples(images, labels, each)

    def example_loss(self, child, architecture, example):
        """Nats of one image."""
        logits = self._logits_of_example(child, architecture, example)
        return _mean_loss(logits, example.label[None])

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

    def _logits(self, child, architecture, images, batch_stats, axis=NO_AXIS):
        """Without noise."""
        return self.space.apply(
            child, architecture, images, batch_stats=batch_stats, axis=axis
        ).logits

    def _logits_of_example(self, child, architecture, example):
        return self._logits(
            child, architecture, example.image[None], example.batch_stats
        )

    def _batch_stats(self, child, architecture, data, axis=NO_AXIS):
        """What to normalize with, None for each batch's own."""
        if self.normalization.batch_stats == "batch":
            return None
        batches = self.normalization.batches

        def one(index):
            images, _ = self._batch(data, "train", index, axis)
            return self.space.apply(child, architecture, images, axis=axis).batch_stats

        found = jax.lax.map(one, jnp.arange(batches))
        return jax.tree.map(lambda m: jnp.mean(m, 0), found)

    def _batch(self, data, split, index, axis):
        """One of the batches of a split, in their order."""
        index = index % self.num_batches(data, split)
        return self._take(data, split, self._places(index, axis))

    def _places(self, index, axis):
        """Of a batch, those of this device."""
        return index * self.batch_size + axis.shard(jnp.arange(self.batch_size))

    def _take(self, data, split, places):
        images, labels = (x[places] for x in getattr(data, split))
        return _normalized(data, images), labels

    def _augmented_batch(self, data, split, step, key, axis):
        """A batch of the pass that a step belongs to, augmented."""
        examples = getattr(data, split)
        count, batches = len(examples.labels), self.num_batches(data, split)
        key_of_pass = jax.random.fold_in(jax.random.key(0), step // batches)
        order = jax.random.permutation(key_of_pass, count)
        first = step % batches * self.batch_size
        places = axis.shard(jax.lax.dynamic_slice_in_dim(order, first, self.batch_size))
        images = examples.images[places]
        images = augment(key, images, self.augmentation, data, axis)
        return images, examples.labels[places]


def augment(
    key: jax.Array,
    images: jax.Array,
    augmentation: Augmentation,
    data: Data,
    axis: Axis = NO_AXIS,
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
    offset = axis.shard(
        jax.random.randint(move, (2, batch, 1), -crop, crop + 1), axis=1
    )
    rows = jnp.arange(height) + offset[0]
    columns = jnp.arange(width) + offset[1]
    if augmentation.flip:
        flipped = axis.shard(jax.random.bernoulli(mirror, shape=(batch, 1)))
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
        center = axis.shard(jax.random.randint(cut, (2, batch), 0, bounds), axis=1)
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


def _losses(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
    )


def _mean_loss(logits, labels):
    return jnp.mean(_losses(logits, labels))


def _wrongs(logits, labels):
    return (jnp.argmax(logits, -1) != labels).astype(jnp.float32)


def _evaluation(loss, wrong):
    """Of scores that are not numbers the first is as good as any: that is no error."""
    return Evaluation(loss, jnp.where(jnp.isnan(loss), jnp.nan, 100 * wrong))


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
        images = _shrunk(images, shrink)
        whole = Images(devices.shard(images, count), jnp.asarray(split.labels[order]))
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


def _shrunk(images: Any, by: int) -> Any:
    if by == 1:
        return images
    rows, columns = (size // by for size in images.shape[1:3])
    images = images[:, : rows * by, : columns * by]
    squares = images.reshape(len(images), rows, by, columns, by, images.shape[-1])
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
    counts = _sizes(dataset)
    needed = size * sum(counts.values()) // devices.count
    available = capacity.memory_of_each(devices.count)
    if available is not None and needed > available:
        raise UserError(
            f"The images of {dataset.source} need {in_bytes(needed)} on each "
            f"device, which has {in_bytes(available)}. Take fewer or smaller "
            "ones: config.task.image_classification.shrink halves their sides with 2; "
            "or more devices, with config.task.image_classification.shard_images."
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


def _describe(dataset: ImageDataset, shape: tuple[int, int, int]) -> str:
    """How many images there are, and the size at which they are used."""
    counts = ", ".join(f"{len(getattr(dataset, n).labels):,} {n}" for n in SPLITS)
    size, classes = "x".join(map(str, shape)), dataset.num_classes
    repeated = describe_repeated(dataset.repeated or {}, _sizes(dataset))
    about = f"{dataset.source}: images {counts}, {size}; {classes} classes"
    return f"{about}; {repeated}" if repeated else about


def _sizes(dataset: ImageDataset) -> dict[str, int]:
    return {name: len(getattr(dataset, name).labels) for name in SPLITS}
