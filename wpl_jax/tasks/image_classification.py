"""Telling what an image shows: the task of the micro space.

A batch is taken out of the images on the devices, moved, mirrored and cut into, and
normalized, as a function of its number and a key. Passes over the training images are
in a random order each. Everything that is measured is measured without noise, and,
while a search shares weights, normalized with the statistics of each batch, as the ENAS
code does; those of training batches are an option.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import (
    SettingError,
    check_bool,
    check_choice,
    check_int,
    check_number,
    check_parts,
    require,
)
from wpl_jax.data import ImageDataset, open_images
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.errors import UserError
from wpl_jax.spaces.images import ImageSpace, Noise
from wpl_jax.tasks.augmentation import Augmentation, augment
from wpl_jax.tasks.example_task import ExampleTask, count
from wpl_jax.tasks.guessing import Guess, of_classes
from wpl_jax.tasks.image_data import (
    Data,
    check_memory,
    describe,
    prepare,
    shrunk,
    sizes,
)
from wpl_jax.tasks.image_predictor import ImagePredictor
from wpl_jax.tasks.network_call import standardized
from wpl_jax.tasks.objective import Objective
from wpl_jax.tasks.task import check_dataset


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


_NO_AUGMENTATION, _NO_DROP_PATH, _OF_BATCH = (
    Augmentation(),
    DropPath(),
    Normalization(),
)


@dataclasses.dataclass(frozen=True)
class ImageClassification(ExampleTask):
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

    objective: ClassVar[Objective] = Objective(kind="classification")
    data_fields = ("shrink", "shard_images")
    memory_advice: ClassVar[Mapping[str, str]] = {
        "data": "smaller images (shrink), or more devices that divide them "
        "(shard_images)"
    }

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self, but=("space",))
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
            found["auxiliary_weight"] = "the space has no auxiliary classifier"
        return found

    @staticmethod
    def open(**options: Any) -> ImageDataset:
        """Opens the images that options name; see :func:`wpl_jax.data.open_images`."""
        return open_images(**options)

    def check(self, dataset: ImageDataset) -> None:
        """Checks that the settings fit the number and the size of the images.

        Raises:
          SettingError: If one does not.
          UserError: If it is no data set of images, or they are too small.
        """
        made_by = "wpl_jax.data.images_of_arrays or load_images"
        check_dataset(dataset, ImageDataset, made_by)
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

    def _shape(self, dataset: ImageDataset) -> tuple[int, int, int]:
        height, width, channels = dataset.image_shape
        return height // self.shrink, width // self.shrink, channels

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
        places = self.batches.shuffled(step, count(data, split), axis)
        images, labels = (x[places] for x in getattr(data, split))
        images = augment(key, images, self.augmentation, data, axis)
        batches = self.num_batches(data, "train")
        # A float: the product may be beyond int32.
        last = jnp.float32(self.drop_path.epochs * batches)
        grown = jnp.minimum(step / last, 1)
        noise = Noise(key_of_child, self.dropout, self.drop_path.rate * grown)
        outputs = self.outputs_in_training(child, architecture, images, noise, axis)
        cross_entropy = self.mean_loss(outputs.logits, labels)
        loss = cross_entropy
        if outputs.auxiliary is not None:
            loss += self.auxiliary_weight * self.mean_loss(outputs.auxiliary, labels)
        return loss, (jax.lax.stop_gradient(cross_entropy), carry)

    def predict(self, child, architecture, data, inputs):
        """Log-probabilities of the classes.

        Args:
          child: Its parameters.
          architecture: The child, or a mixture.
          data: Of the task, for what images are normalized with.
          inputs: ``uint8[batch, height, width, channels]``, not shrunk. Where
            ``normalization`` is by the batch, predictions depend on the other images in
            it.

        Returns:
          ``float32[batch, classes]``.
        """
        inputs = shrunk(jnp.asarray(inputs), self.shrink)
        return super().predict(child, architecture, data, inputs)

    def prepared(self, data, inputs):
        """Images by the mean and the deviation of each channel."""
        return standardized(inputs, data.mean, data.deviation)

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

    def begin_split(self, child, architecture, data, axis=NO_AXIS):
        """The batch statistics to normalize with, None for each batch's own."""
        if self.normalization.batch_stats == "batch":
            return None
        found = self.statistics_of_batches(
            child, architecture, data, self.normalization.batches, axis
        )
        return jax.tree.map(lambda m: jnp.mean(m, 0), found)

    def guess(self, data: Data) -> Guess:
        """Always the most frequent class."""
        return of_classes(np.asarray(data.valid.labels))
