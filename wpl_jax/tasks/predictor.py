"""What a trained model needs beside its weights to be used on somebody's data."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from wpl_jax.common.registry import Registry
from wpl_jax.supernet import Architecture, Space


class Table(NamedTuple):
    """Predictions as a table, such as a CSV file.

    Attributes:
      columns: Names of the columns.
      rows: The rows, computed when they are asked for.
      note: What was taken for granted about the file, in words; "" for nothing.
    """

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]
    note: str = ""


class Predictor(Protocol):
    """How inputs are prepared for a model, and what its outputs mean.

    A frozen dataclass whose fields are values of JSON: it is stored with the weights.
    A task returns one from ``predictor(dataset, data)``.
    """

    name: str  # in PREDICTORS

    @property
    def labels(self) -> tuple[str, ...]:
        """What is predicted: the name of each class, or the words of a vocabulary.

        Of a task that predicts numbers there are none.
        """

    def prepare(self, inputs: Any) -> np.ndarray:
        """Inputs as an array for :meth:`apply`.

        Args:
          inputs: One example or several, as arrays or text.

        Raises:
          UserError: If they do not fit the model.
        """

    def to_network(self, inputs: jax.Array) -> jax.Array:
        """A batch from :meth:`prepare` as the space's ``apply`` takes it."""

    def predictions(self, outputs: jax.Array) -> jax.Array:
        """What :meth:`apply` returns, from what the network returns for a batch.

        An exported network uses it. A predictor without this method cannot be exported
        as ONNX.
        """

    def apply(
        self,
        space: Space,
        child: Any,
        architecture: Architecture,
        statistics: Any,
        inputs: jax.Array,
    ) -> jax.Array:
        """Log-probabilities, ``float32[..., labels]``; can be compiled.

        Of a task that predicts numbers, the numbers.

        Args:
          space: The space.
          child: Parameters of the child.
          architecture: The child.
          statistics: Batch statistics of training data, from the task's method
            ``statistics``.
          inputs: A batch from :meth:`prepare`.
        """

    def statistics_form(
        self, space: Space, child: Any, architecture: Architecture
    ) -> Any:
        """Shapes of the batch statistics, a tree of ``jax.ShapeDtypeStruct``.

        Args:
          space: The space.
          child: Shapes of the child's parameters.
          architecture: The child.
        """

    def form(self) -> tuple[tuple[int | str, ...], np.dtype]:
        """Shape and dtype of a batch for :meth:`apply`.

        The name of a size, such as ``"batch"``, is one that may differ from call to
        call.
        """

    def source(self) -> tuple[str, str]:
        """How a written-out network prepares its inputs.

        Returns:
          A name for the inputs, such as ``"images"``, and the source of a function
          ``prepare`` of them. The source may use ``ABOUT["predictor"]["settings"]``,
          the fields, and ``jnp``; it defines ``LABELS``.
        """

    def table(self, path: Path, predict: Callable[[np.ndarray], np.ndarray]) -> Table:
        """Predictions for the examples of a file or folder.

        Args:
          path: The file or folder.
          predict: The compiled model, from inputs to log-probabilities.

        Raises:
          UserError: If a file cannot be read or does not fit the model. A file that
            is read later raises it when its row is asked for.
        """


# By name: dataclasses with the methods of :class:`Predictor`.
PREDICTORS = Registry(
    "wpl_jax.predictors",
    {
        "arrays": "wpl_jax.tasks.array_predictor:ArrayPredictor",
        "images": "wpl_jax.tasks.image_predictor:ImagePredictor",
        "text": "wpl_jax.tasks.text_predictor:TextPredictor",
    },
)
