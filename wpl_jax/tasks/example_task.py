"""What tasks have in common whose examples do not depend on each other."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.spaces.batch_normalization import pooled_tree
from wpl_jax.spaces.images import Outputs
from wpl_jax.supernet import Space
from wpl_jax.tasks.averaging import Averaging
from wpl_jax.tasks.example_batches import Batches
from wpl_jax.tasks.network_call import call
from wpl_jax.tasks.objective import Objective
from wpl_jax.tasks.task import Evaluation, Score


class Example(NamedTuple):
    """One example for a per-example Fisher; a batch has a leading axis."""

    inputs: jax.Array  # float32 or int32[...]
    targets: jax.Array  # float32 or int32[...]
    batch_stats: Any  # of its batch, as constants


class ExampleTask:
    """Batches of examples, the loss of each, and everything that is measured.

    Each split of the data is a pair of inputs and targets, with a leading axis of
    examples. Everything is measured without noise and in float32.

    A task is a dataclass with these attributes. It adds how data is opened and put on
    devices, and the loss of a training step; :meth:`prepared` and :meth:`begin_split`
    are its to change.

    Attributes:
      space: What is searched.
      batch_size: Examples of a batch, in training and evaluation.
      compute_dtype: In which training computes; parameters and all that is measured
        stay in float32.
      objective: Loss, error and metrics.
    """

    space: Space
    batch_size: int
    compute_dtype: str
    objective: ClassVar[Objective]
    rows_setting = "batch_size"

    @property
    def error_name(self) -> str:
        """What its error is called."""
        return self.objective.error_name

    @property
    def loss_name(self) -> str:
        """What its loss is called."""
        return self.objective.name_of_loss

    @property
    def averaging(self) -> Averaging:
        """How an ensemble averages predictions."""
        return self.objective.of_kind.averaging

    @property
    def can_sample(self) -> bool:
        """Whether targets can be drawn from the model."""
        return self.objective.can_sample

    @property
    def has_classes(self) -> bool:
        """Whether the outputs are scores of classes."""
        return self.objective.of_kind.has_classes

    @property
    def rows_per_batch(self) -> int:
        """Examples of a batch."""
        return self.batch_size

    @property
    def predictions_per_batch(self) -> int:
        """Examples of a batch."""
        return self.batch_size

    @property
    def batches(self) -> Batches:
        """Which examples are in a batch."""
        return Batches(self.batch_size)

    def init_carry(self) -> tuple[()]:
        """Nothing: batches do not depend on each other."""
        return ()

    def num_batches(self, data: Any, split: str) -> int:
        """Whole batches of a split."""
        return count(data, split) // self.batch_size

    def batches_of_split(self, data: Any, split: str) -> int:
        """Batches that hold all examples of a split."""
        return -(-count(data, split) // self.batch_size)

    def prepared(self, data: Any, inputs: jax.Array) -> jax.Array:
        """Inputs of the network, from those that the data holds: by default the same.

        Args:
          data: Of the task.
          inputs: ``[batch, ...]``.
        """
        del data
        return inputs

    def begin_split(self, child, architecture, data, axis=NO_AXIS):
        """The batch statistics to normalize with, None for each batch's own."""
        del child, architecture, data, axis

    def outputs_in_training(self, child, architecture, inputs, noise, axis) -> Outputs:
        """What the network returns for a batch, with noise and in ``compute_dtype``.

        Args:
          child: The child's parameters.
          architecture: The child, or a mixture.
          inputs: ``[batch, ...]``, prepared.
          noise: The randomness of the step.
          axis: Devices that share the batch.
        """
        child, inputs = jax.tree.map(self._cast, (child, inputs))
        return call(self.space, child, architecture, inputs, noise=noise, axis=axis)

    def mean_loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The mean of the losses of a batch, ``float32[]``."""
        return jnp.mean(self.objective.losses(_float32(outputs), targets))

    def validate(self, child, architecture, data, first, batches, axis=NO_AXIS):
        """Mean loss and error over validation batches in a row."""
        batch_stats = self.begin_split(child, architecture, data, axis)

        def add(i, total):
            inputs, targets = self.batch(data, "valid", first + i, axis)
            outputs = self._outputs(child, architecture, inputs, batch_stats, axis)
            each = self.objective.losses, self.objective.errors
            return total + jnp.stack([jnp.mean(f(outputs, targets)) for f in each])

        total = jax.lax.fori_loop(0, batches, add, jnp.zeros(2))
        return self._evaluation(*(axis.mean(total) / batches))

    def evaluate(self, child, architecture, data, split: str, axis=NO_AXIS):
        """Mean loss and error over the whole of a split.

        The last batch is filled up with the first examples, which count once.
        """
        batch_stats = self.begin_split(child, architecture, data, axis)
        return self.evaluate_with(batch_stats, child, architecture, data, split, axis)

    def evaluate_with(
        self, batch_stats, child, architecture, data, split: str, axis=NO_AXIS
    ):
        """The same with given batch statistics, None for those of each batch."""
        means = self._means(batch_stats, child, architecture, data, split, axis)
        return self._evaluation(*means[:2])

    def measure(
        self, batch_stats, child, architecture, data, split: str, axis=NO_AXIS
    ) -> dict[str, jax.Array]:
        """The metrics over the whole of a split, by name, ``float32[]`` each."""
        means = self._means(batch_stats, child, architecture, data, split, axis)
        names = (name for name, _ in self.objective.metrics)
        return dict(zip(names, means[2:], strict=True))

    def _means(self, batch_stats, child, architecture, data, split, axis):
        """Loss, error and metrics over a split."""

        def one(index):
            inputs, targets, there = self._whole(data, split, index, axis)
            outputs = self._outputs(child, architecture, inputs, batch_stats, axis)
            return _sums(self._each(outputs, targets), there)

        batches = jnp.arange(self.batches_of_split(data, split))
        total = jnp.sum(jax.lax.map(one, batches), 0)
        return axis.sum(total) / count(data, split)

    def _each(self, outputs, targets):
        """Of each example loss, error and metrics, ``float32[2 + metrics, batch]``."""
        loss = self.objective.losses(outputs, targets)
        error = self.objective.errors(outputs, targets)
        measures = self.objective.measures(outputs, targets)
        return jnp.concatenate([jnp.stack([loss, error]), measures])

    def predict(self, child, architecture, data, inputs):
        """Predictions in evaluation mode.

        Args:
          child: Its parameters.
          architecture: The child, or a mixture.
          data: Of the task, for what inputs are prepared with.
          inputs: ``[batch, ...]``, as the data holds them. Where the network normalizes
            with the statistics of the batch, predictions depend on the other inputs in
            it.

        Returns:
          Log-probabilities of a classification, ``float32[batch, classes]``; otherwise
          what the network returns.
        """
        batch_stats = self.begin_split(child, architecture, data)
        inputs = self.prepared(data, jnp.asarray(inputs))
        outputs = self._outputs(child, architecture, inputs, batch_stats)
        return self.objective.of_kind.predictions(outputs)

    def statistics(self, child, architecture, data, axis=NO_AXIS):
        """Batch statistics of all whole training batches, with which one is judged.

        Of each activation the mean and the variance. The variance is the mean of those
        of the batches and the variance of their means (Wu and Johnson, "Rethinking
        'Batch' in BatchNorm", 2021, section 3).
        """
        batches = self.num_batches(data, "train")
        return pooled_tree(
            self.statistics_of_batches(child, architecture, data, batches, axis)
        )

    def statistics_of_batches(self, child, architecture, data, batches, axis=NO_AXIS):
        """Those of the first training batches, each with a leading axis of batches."""

        def one(index):
            inputs, _ = self.batch(data, "train", index, axis)
            return call(self.space, child, architecture, inputs, axis=axis).batch_stats

        return jax.lax.map(one, jnp.arange(batches))

    def predict_batch(
        self, child, architecture, data, split: str, index, carry, axis=NO_AXIS
    ):
        """Predictions for a batch; the last one ends with the first examples.

        See :meth:`wpl_jax.tasks.task.Task.predict_batch`.
        """
        inputs, _, _ = self._whole(data, split, index, axis)
        outputs = self._outputs(child, architecture, inputs, carry, axis)
        return self.objective.of_kind.predictions(outputs), carry

    def score(self, log_probabilities, data, split: str, index, axis=NO_AXIS):
        """Loss and error of predictions, of which each example counts once."""
        _, targets, there = self._whole(data, split, index, axis)
        loss, error = _sums(self._each(log_probabilities, targets)[:2], there)
        return Score(loss, error, jnp.sum(there * 1.0))

    def conclude(self, score):
        """Mean loss, and the error."""
        loss, mistakes, predicted = score
        return self._evaluation(loss / predicted, mistakes / predicted)

    def fisher_loss(self, child, architecture, data, split: str, step, axis=NO_AXIS):
        """Mean loss on one batch of the split."""
        inputs, targets = self.batch(data, split, step, axis)
        batch_stats = self.begin_split(child, architecture, data, axis)
        outputs = self._outputs(child, architecture, inputs, batch_stats, axis)
        return self.mean_loss(outputs, targets)

    def fisher_examples(
        self, child, architecture, data, split: str, step, axis=NO_AXIS
    ):
        """Its examples, each with the batch statistics of the batch.

        An example alone has batch statistics of its own; the gradient of its loss is
        taken with those of the batch, held constant.
        """
        inputs, targets = self.batch(data, split, step, axis)
        batch_stats = self.begin_split(child, architecture, data, axis)
        if batch_stats is None:
            found = call(self.space, child, architecture, inputs, axis=axis)
            batch_stats = found.batch_stats
        each = jax.tree.map(
            lambda m: jnp.broadcast_to(m, (len(targets), *m.shape)), batch_stats
        )
        return Example(inputs, targets, each)

    def example_loss(self, child, architecture, example):
        """The loss of one example."""
        outputs = self._outputs_of_example(child, architecture, example)
        return self.objective.losses(outputs, example.targets[None])[0]

    def sample_labels(self, key, child, architecture, example):
        """The example with targets drawn from the model."""
        outputs = self._outputs_of_example(child, architecture, example)[0]
        drawn = self.objective.sample(key, outputs)
        return example._replace(targets=drawn.astype(example.targets.dtype))

    def log_probabilities(self, child, architecture, example):
        """Those of all classes, of a classification."""
        outputs = self._outputs_of_example(child, architecture, example)[0]
        return self.objective.of_kind.predictions(outputs)

    def reward(self, evaluation):
        """By the kind of targets, or a function of the user's."""
        return self.objective.reward_of(evaluation.loss, evaluation.error)

    def batch(self, data, split: str, index, axis=NO_AXIS):
        """Inputs and targets of a batch, in the order of the split.

        Args:
          data: Of the task.
          split: Whose batch.
          index: Its number, ``int32[]``, counted on over all passes.
          axis: Devices that share it.
        """
        index = index % self.num_batches(data, split)
        return self.take(data, split, self.batches.places(index, axis))

    def take(self, data, split: str, places):
        """Inputs and targets at some places in a split."""
        inputs, targets = (x[places] for x in getattr(data, split))
        return self.prepared(data, inputs), targets

    def _whole(self, data, split, index, axis):
        """A batch of a split, of which the last ends with the first examples.

        Returns:
          Inputs, targets, and of which examples it is the first time.
        """
        examples = count(data, split)
        places = self.batches.places(index, axis)
        return *self.take(data, split, places % examples), places < examples

    def _cast(self, x):
        is_float = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(self.compute_dtype) if is_float else x

    def _evaluation(self, loss, error) -> Evaluation:
        """Where the loss is not a number, neither is the error."""
        error = self.objective.to_error(error)
        return Evaluation(loss, jnp.where(jnp.isnan(loss), jnp.nan, error))

    def _outputs(self, child, architecture, inputs, batch_stats, axis=NO_AXIS):
        """Without noise."""
        found = call(
            self.space, child, architecture, inputs, batch_stats=batch_stats, axis=axis
        )
        return _float32(found.logits)

    def _outputs_of_example(self, child, architecture, example):
        # None where the network has no batch statistics.
        there = jax.tree.leaves(example.batch_stats)
        batch_stats = example.batch_stats if there else None
        return self._outputs(child, architecture, example.inputs[None], batch_stats)


def count(data: Any, split: str) -> int:
    """Examples of a split."""
    _, targets = getattr(data, split)
    return len(targets)


def _sums(each: jax.Array, there: jax.Array) -> jax.Array:
    # What is not finite counts where it is there, and nowhere else.
    return jnp.sum(jnp.where(there, each, 0), 1)


def _float32(outputs: jax.Array) -> jax.Array:
    is_float = jnp.issubdtype(outputs.dtype, jnp.floating)
    return outputs.astype(jnp.float32) if is_float else outputs
