"""Telling what an image shows: the task of the micro space.

A batch is taken out of the images on the devices, moved, mirrored and cut into, and
normalized, as a function of its number and a key. Passes over the training images are
in a random order each. Everything that is measured is measured without noise, and,
while a search shares weights, normalized with the statistics of each batch, as the ENAS
code does; those of training batches are an option.
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
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.errors import UserError
from wpl_jax.spaces.batch_normalization import pooled_tree
from wpl_jax.spaces.images import ImageSpace, Noise
from wpl_jax.tasks.augmentation import Augmentation
from wpl_jax.tasks.guessing import Guess, of_classes
from wpl_jax.tasks.image_batches import ImageBatches, take
from wpl_jax.tasks.image_data import (
    Data,
    check_memory,
    describe,
    normalized,
    prepare,
    shrunk,
    sizes,
)
from wpl_jax.tasks.image_predictor import ImagePredictor
from wpl_jax.tasks.task import Evaluation, Score


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
    loss_name = "nats"
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
        counts = sizes(dataset)
        smallest = min(counts, key=lambda name: counts[name])
        require(
            self,
            "batch_size",
            self.batch_size <= counts[smallest],
            f"at most {counts[smallest]}, the images of {smallest}",
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
        return describe(dataset, self._shape(dataset))

    @property
    def _batches(self) -> ImageBatches:
        return ImageBatches(self.batch_size, self.augmentation)

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
        return self._batches.count(data, split)

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
        images, labels = self._batches.augmented(data, split, step, key, axis)
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
            images, labels = self._batches.batch(data, "valid", first + i, axis)
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
        return self.evaluate_with(batch_stats, child, architecture, data, split, axis)

    def evaluate_with(
        self, batch_stats, child, architecture, data, split: str, axis=NO_AXIS
    ):
        """The same with given batch statistics, None for those of each batch."""
        count = len(getattr(data, split).labels)

        def one(index):
            places = self._batches.places(index, axis)
            images, labels = take(data, split, places % count)
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
        images = normalized(data, shrunk(jnp.asarray(inputs), self.shrink))
        logits = self._logits(child, architecture, images, batch_stats)
        return jax.nn.log_softmax(logits.astype(jnp.float32))

    def predictor(self, dataset: ImageDataset, data: Data) -> ImagePredictor:
        """How a model prepares the images of its user."""
        mean, deviation = (
            tuple(np.asarray(x, np.float32).tolist())
            for x in (data.mean, data.deviation)
        )
        height, width, channels = map(int, dataset.image_shape)
        return ImagePredictor(
            dataset.class_names,
            (height, width, channels),
            mean,
            deviation,
            self.shrink,
            dataset.resized,
        )

    def statistics(self, child, architecture, data, axis=NO_AXIS):
        """Batch statistics of the training images, with which one image is judged.

        Of each activation the mean and the variance over all whole batches, without
        augmentation. The variance is the mean of those of the batches and the variance
        of their means (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021,
        section 3).
        """

        def one(index):
            images, _ = self._batches.batch(data, "train", index, axis)
            return self.space.apply(child, architecture, images, axis=axis).batch_stats

        found = jax.lax.map(one, jnp.arange(self.num_batches(data, "train")))
        return pooled_tree(found)

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
        images, _ = take(data, split, self._batches.places(index, axis) % count)
        logits = self._logits(child, architecture, images, carry, axis)
        return jax.nn.log_softmax(logits.astype(jnp.float32)), carry

    def score(self, log_probabilities, data, split: str, index, axis=NO_AXIS):
        """Cross-entropy and mistakes of the images, each of which counts once."""
        count = len(getattr(data, split).labels)
        places = self._batches.places(index, axis)
        _, labels = take(data, split, places % count)
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
        images, labels = self._batches.batch(data, split, step, axis)
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
        images, labels = self._batches.batch(data, split, step, axis)
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

    def log_probabilities(self, child, architecture, example):
        """Those of all classes of the image."""
        logits = self._logits_of_example(child, architecture, example)[0]
        return jax.nn.log_softmax(logits.astype(jnp.float32))

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
            images, _ = self._batches.batch(data, "train", index, axis)
            return self.space.apply(child, architecture, images, axis=axis).batch_stats

        found = jax.lax.map(one, jnp.arange(batches))
        return jax.tree.map(lambda m: jnp.mean(m, 0), found)


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
