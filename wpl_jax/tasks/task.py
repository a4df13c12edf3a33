"""What a task is: what children are trained and judged on."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from wpl_jax.common.settings import require
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.devices.parallel import Devices
from wpl_jax.errors import UserError, shorten
from wpl_jax.supernet import Architecture, Space
from wpl_jax.tasks.guessing import Guess

Data = Any  # a pytree of arrays on the device
Carry = Any  # a pytree that a batch leaves to the next one, as hidden states are


class Evaluation(NamedTuple):
    """What a child is worth on some data; of several children, arrays of both."""

    loss: jax.Array  # float[...]; mean loss over what is predicted
    error: jax.Array  # float[...]; what people read: perplexity, per cent wrong


def check_task(part: Any) -> None:
    """Checks that a part has a task, with a space.

    Args:
      part: An object with the field ``task``.

    Raises:
      SettingError: If it is anything else, such as a class of tasks.
    """
    space = getattr(part.task, "space", None)
    expected = (
        "a task with a space, such as wpl_jax.tasks.language_model.LanguageModel(space)"
    )
    valid = Space in type(space).__mro__ and not isinstance(part.task, type)
    require(part, "task", valid, expected)


def rows_setting(task: Any) -> str:
    """The name of a task's setting that is the rows of a batch, for errors."""
    return getattr(task, "rows_setting", "rows_per_batch")


def memory_advice(task: Any) -> Mapping[str, str]:
    """What else takes less memory of a device, by "data" and "activations"."""
    return getattr(task, "memory_advice", {})


def check_dataset(dataset: Any, kind: type, made_by: str) -> None:
    """Checks that a data set is of the type that a task takes.

    Args:
      dataset: The data set.
      kind: Its type.
      made_by: What makes one, for the message.

    Raises:
      UserError: If it is anything else, such as a pair of arrays.
    """
    if not isinstance(dataset, kind):
        raise UserError(
            f"dataset is {shorten(dataset)}, expected the {kind.__name__} that "
            f"{made_by} returns."
        )


class Score(NamedTuple):
    """Sums over what is predicted in a batch; they add up over batches and devices."""

    loss: jax.Array  # float32[]
    mistakes: jax.Array  # float32[]; of the error; 0 where a task counts none
    predicted: jax.Array  # float32[]; how much is predicted


def ranking(
    evaluation: Evaluation,
    allowed: jax.Array | bool = True,
    by: Literal["error", "loss"] = "error",
) -> jax.Array:
    """The order of several children, the best first, ``int32[n]``.

    By their errors, by their losses where errors are the same, or the other way round;
    those of which either is not a number come after them, and those that are not
    allowed last.

    Args:
      evaluation: Of all.
      allowed: ``bool[n]``.
      by: Which of the two counts first.
    """
    loss, error = evaluation
    first, second = (error, loss) if by == "error" else (loss, error)
    first = jnp.where(jnp.isnan(second), jnp.nan, first)
    refused = jnp.broadcast_to(~jnp.asarray(allowed), first.shape)
    return jnp.lexsort((second, first, refused))


class FisherLoss(Protocol):
    """The loss of a model that estimators of the Fisher need; all methods are pure."""

    def fisher_loss(
        self,
        child: Any,
        architecture: Architecture,
        data: Data,
        split: str,
        step: Any,
        axis: Axis = NO_AXIS,
    ) -> jax.Array:
        """Nats in evaluation mode on one batch of the split, differentiable."""

    def fisher_examples(
        self,
        child: Any,
        architecture: Architecture,
        data: Data,
        split: str,
        step: Any,
        axis: Axis = NO_AXIS,
    ) -> Any:
        """The same batch as a pytree with a leading axis of examples.

        With it what an example's loss takes from the batch, as a constant.
        """

    def example_loss(
        self, child: Any, architecture: Architecture, example: Any
    ) -> jax.Array:
        """Nats of one of them."""

    def sample_labels(
        self, key: jax.Array, child: Any, architecture: Architecture, example: Any
    ) -> Any:
        """The example with labels drawn from the model, for the true Fisher."""

    def log_probabilities(
        self, child: Any, architecture: Architecture, example: Any
    ) -> jax.Array:
        """Those of all classes, ``float32[..., classes]``, for the exact Fisher.

        Leading axes are its predictions, such as words. :meth:`example_loss` is the
        mean over them of the log-probabilities of the labels, with the sign changed. A
        task without classes need not have this method.
        """


class Task(FisherLoss, Protocol):
    """Data, loss and reward for the children of one space.

    All methods are pure. Losses are means over what is predicted. A batch
    is a function of the data and its number: the data state is one integer.

    Methods with an ``axis`` may run on several devices at once, each on its share of
    the batch's rows: losses are then those of the share, whose mean over the devices
    is the loss of the batch, and evaluations those of the whole. Noise is that of the
    batch, of which a device takes its part.
    """

    error_name: str  # of Evaluation.error
    # A task may have seven more: ``loss_name``, what reports call the loss, such as its
    # unit (by default "loss"); ``averaging``, how an ensemble averages predictions (by
    # default those of log-probabilities); ``can_sample``, whether targets can be
    # drawn from the model (by default they can); ``has_classes``, whether
    # :meth:`log_probabilities` can be called (by default, whether it is there);
    # ``rows_setting``, which of its settings is :attr:`rows_per_batch` (by default that
    # name, for errors); ``memory_advice``, what else takes less memory of a device, by
    # "data" and "activations", as in "a smaller length" (by default nothing); and
    # ``free_sizes``, those of :meth:`space_sizes` that a space may have otherwise, as
    # :meth:`put` checks what the network takes and returns (by default none).
    data_fields: tuple[str, ...]  # settings that :meth:`put` depends on

    @property
    def space(self) -> Space:
        """The space whose children it trains."""

    @property
    def rows_per_batch(self) -> int:
        """Rows of a batch, which devices can divide among each other."""

    @property
    def predictions_per_batch(self) -> int:
        """What is predicted in a training batch: words, or images."""

    @staticmethod
    def open(**options: Any) -> Any:
        """Opens the data set that options name; a UserError if one is wrong.

        No more is read than is needed to know what there is.
        """

    def check(self, dataset: Any) -> None:
        """Checks that the settings fit a data set; a SettingError names one."""

    def space_sizes(self, dataset: Any) -> dict[str, Any]:
        """Fields of a space that follow from the data set.

        A space is given those that it has.
        """

    def put(self, dataset: Any, devices: Devices) -> Data:
        """Puts a data set on devices; a UserError if its content is wrong."""

    def describe(self, dataset: Any) -> str:
        """A line about a data set."""

    def init_carry(self) -> Carry:
        """What the first batch starts from; leading axes are the batch's rows."""

    def train_loss(
        self,
        child: Any,
        architecture: Architecture,
        data: Data,
        carry: Carry,
        step: jax.Array,
        key: jax.Array,
        axis: Axis = NO_AXIS,
        split: str = "train",
    ) -> tuple[jax.Array, tuple[jax.Array, Carry]]:
        """The loss that training minimises on batch ``step`` of a split.

        Weights are trained on ``"train"``; what a strategy trains by gradients may be
        trained on ``"valid"``.

        Returns:
          The loss, and beside it the part of it that evaluations have, without what
          training alone adds, and the carry, both of the device's share.
        """

    def validate(
        self,
        child: Any,
        architecture: Architecture,
        data: Data,
        first: jax.Array | int,
        batches: jax.Array | int,
        axis: Axis = NO_AXIS,
    ) -> Evaluation:
        """Evaluation mode on validation batches that follow each other.

        Args:
          child: Its parameters.
          architecture: The child, or a mixture.
          data: Of the task.
          first: Number of the first batch.
          batches: How many; may be traced.
          axis: Devices that share each batch.
        """

    def evaluate(
        self,
        child: Any,
        architecture: Architecture,
        data: Data,
        split: str,
        axis: Axis = NO_AXIS,
    ) -> Evaluation:
        """Evaluation mode over the whole of a split."""

    def num_batches(self, data: Data, split: str) -> int:
        """How many batches a split has; their numbers are taken modulo it."""

    def predict(
        self, child: Any, architecture: Architecture, data: Data, inputs: Any
    ) -> jax.Array:
        """Log-probabilities in evaluation mode, ``float32[..., classes]``.

        Of a task that predicts numbers, the numbers.

        Args:
          child: Its parameters.
          architecture: The child, or a mixture.
          data: Of the task, for what inputs are normalized with.
          inputs: A batch, as the data set has them: ``uint8`` images, or the numbers of
            words, for each of which the next one is predicted.
        """

    def begin_split(
        self,
        child: Any,
        architecture: Architecture,
        data: Data,
        axis: Axis = NO_AXIS,
    ) -> Any:
        """What :meth:`predict_batch` needs for the first batch of a split."""

    def predict_batch(
        self,
        child: Any,
        architecture: Architecture,
        data: Data,
        split: str,
        index: jax.Array,
        carry: Any,
        axis: Axis = NO_AXIS,
    ) -> tuple[jax.Array, Any]:
        """Log-probabilities in evaluation mode on one batch of a split.

        Batches are numbered from 0 to :meth:`batches_of_split` and read in order; the
        last one may be filled up.

        Args:
          child: Its parameters.
          architecture: The child, or a mixture.
          data: Of the task.
          split: Whose batch.
          index: Number of the batch, ``int32[]``.
          carry: From :meth:`begin_split`, or from the batch before.
          axis: Devices that share the batch.

        Returns:
          ``float32[..., classes]`` of the device's share, and what the next one needs.
        """

    def score(
        self,
        log_probabilities: jax.Array,
        data: Data,
        split: str,
        index: jax.Array,
        axis: Axis = NO_AXIS,
    ) -> Score:
        """What log-probabilities are worth, those of one child or of an ensemble.

        Args:
          log_probabilities: As :meth:`predict_batch` returns them.
          data: Of the task.
          split: Whose batch.
          index: Number of the batch, ``int32[]``.
          axis: Devices that share the batch.
        """

    def batches_of_split(self, data: Data, split: str) -> int:
        """How many batches :meth:`predict_batch` has, the last one filled up."""

    def conclude(self, score: Score) -> Evaluation:
        """The evaluation that sums over a split come to."""

    def guess(self, data: Data) -> Guess:
        """What a guess is worth on the validation data; computed on the host."""

    def reward(self, evaluation: Evaluation) -> jax.Array:
        """What a strategy is given for it, higher is better."""
