"""A trained model as a function of images or text."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.paths import as_path
from wpl_jax.spaces.architecture_json import names_of_choices
from wpl_jax.supernet import Architecture, Space
from wpl_jax.tasks.predictor import Predictor, Table


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """An architecture with its weights, and all that a prediction needs.

    Attributes:
      space: The space of the architecture.
      choice: The architecture, ``int32[num_decisions]``.
      predictor: How inputs are prepared: for images their size, mean and deviation,
        for text the vocabulary.
      params: The parameters with the lowest validation error of the training.
      statistics: Batch statistics of the training images; None without batch
        normalization.
      metrics: Errors on validation and test data, and how many parameters there are.
        ``valid_error`` and ``test_error`` are those of this model, which judges each
        image by itself.
      path: The file that the model was read from; None if it was not read.
    """

    space: Space
    choice: np.ndarray
    predictor: Predictor
    params: Any
    statistics: Any
    metrics: dict[str, Any]
    path: Path | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """What is predicted: the names of the classes, or the words."""
        return self.predictor.labels

    @property
    def architecture(self) -> dict[str, str]:
        """What is chosen, by the names of the decisions."""
        return names_of_choices(self.space, self.choice)

    def __call__(self, inputs: Any) -> np.ndarray:
        """Predictions, such as log-probabilities, computed on the default device.

        Args:
          inputs: Images, ``uint8[n, height, width, channels]`` or one of them; or
            text, as a string or as ``int32[n, time]`` numbers of words.

        Returns:
          ``float32[n, classes]`` of images. Of text those of the next word after each
          word, ``float32[n, time, vocabulary]``; of a string without ``n``. Of a task
          without classes what the network returns, such as the numbers of a regression.

        Raises:
          UserError: If the inputs do not fit the model: another size, a dtype other
            than uint8, an unknown word.
        """
        found = self._run(self.predictor.prepare(inputs))
        return found[0] if isinstance(inputs, str) else found

    def table(self, path: str | Path) -> Table:
        """Predictions for the images, or the lines of text, of a file or folder.

        Raises:
          UserError: If a file cannot be read or does not fit the model.
        """
        found = as_path(path, "path", "a file or folder of examples")
        return self.predictor.table(found, self._run)

    def apply(self, params: Any, inputs: jax.Array) -> jax.Array:
        """The model as a pure function of its parameters and of prepared inputs."""
        return self.predictor.apply(
            self.space,
            params,
            Architecture(jnp.asarray(self.choice)),
            self.statistics,
            inputs,
        )

    @functools.cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.apply)

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        return np.asarray(self._compiled(self.params, inputs))
