"""The images of a batch, as a function of its number and a key."""

import dataclasses

import jax

from wpl_jax.devices.axis import Axis
from wpl_jax.tasks.augmentation import Augmentation, augment
from wpl_jax.tasks.example_batches import Batches
from wpl_jax.tasks.image_data import Data, normalized


@dataclasses.dataclass(frozen=True)
class ImageBatches(Batches):
    """The batches of the splits.

    Attributes:
      augmentation: Of training images.
    """

    augmentation: Augmentation

    def count(self, data: Data, split: str) -> int:
        """Whole batches of a split."""
        return len(getattr(data, split).labels) // self.size

    def batch(
        self, data: Data, split: str, index: jax.Array, axis: Axis
    ) -> tuple[jax.Array, jax.Array]:
        """Normalized images and labels of a batch, in the order of the split.

        Args:
          data: The images.
          split: Whose batch.
          index: Its number, ``int32[]``, counted on over all passes.
          axis: Devices that share it.
        """
        index = index % self.count(data, split)
        return take(data, split, self.places(index, axis))

    def augmented(
        self, data: Data, split: str, step: jax.Array, key: jax.Array, axis: Axis
    ) -> tuple[jax.Array, jax.Array]:
        """Augmented images and labels of a batch; each pass has an order of its own.

        Args:
          data: The images.
          split: Whose batch.
          step: Its number, ``int32[]``, counted on over all passes.
          key: PRNG key of the augmentation.
          axis: Devices that share it.
        """
        examples = getattr(data, split)
        places = self.shuffled(step, len(examples.labels), axis)
        images = examples.images[places]
        images = augment(key, images, self.augmentation, data, axis)
        return images, examples.labels[places]


def take(data: Data, split: str, places: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Normalized images and labels of some places in a split."""
    images, labels = (x[places] for x in getattr(data, split))
    return normalized(data, images), labels
