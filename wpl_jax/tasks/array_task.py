"""A task of one's own: examples in arrays, and a loss."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import check_choice, check_int, require
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.devices.parallel import Devices
from wpl_jax.errors import UserError
from wpl_jax.spaces.batch_normalization import pooled_tree
from wpl_jax.supernet import Architecture, Space, gather
from wpl_jax.tasks.array_data import ArrayDataset, Data, place, read_arrays
from wpl_jax.tasks.array_predictor import ArrayPredictor, standardized
from wpl_jax.tasks.averaging import Averaging
from wpl_jax.tasks.example_batches import Batches
from wpl_jax.tasks.guessing import Guess
from wpl_jax.tasks.kinds import PerExample
from wpl_jax.tasks.network_call import call
from wpl_jax.tasks.objective import Objective
from wpl_jax.tasks.task import Evaluation, Score


class Example(NamedTuple):
    """One example for a per-example Fisher; a batch has a leading axis."""

    inputs: jax.Array  # float32 or int32[...]
    targets: jax.Array  # float32 or int32[...]
    batch_stats: Any  # of its batch, as constants


@dataclasses.dataclass(frozen=True)
class ArrayTask:
    """Examples in arrays; :func:`wpl_jax.task` makes a class of it with its data.

    Attributes:
      space: What is searched.
      batch_size: Examples of a batch, in training and evaluation.
      compute_dtype: In which training computes; parameters and all that is measured
        stay in float32.
    """

    space: Space
    batch_size: int = 32
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    data_fields = ()
    objective: ClassVar[Objective]
    standardize: ClassVar[bool]
    dataset: ClassVar[ArrayDataset]

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "batch_size", 1)
        check_choice(self, "compute_dtype", ("bfloat16", "float32"))

    def __repr__(self) -> str:
        """With the names of the functions: two tasks with other losses differ."""
        return (
            f"{type(self).__name__}(space={self.space!r}, "
            f"batch_size={self.batch_size}, compute_dtype={self.compute_dtype!r}, "
            f"standardize={self.standardize}, objective={self.objective!r})"
        )

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
        """Whether :meth:`sample_labels` can draw targets from the model."""
        return self.objective.can_sample

    @property
    def has_classes(self) -> bool:
        """Whether the outputs are scores of classes."""
        return self.objective.of_kind.has_classes

    @classmethod
    def open(cls) -> ArrayDataset:
        """The arrays."""
        return cls.dataset

    def check(self, dataset: ArrayDataset) -> None:
        """Checks the size of a batch, and what the network returns for one.

        Raises:
          SettingError: If a split is smaller than a batch.
          UserError: If outputs and loss do not go together.
        """
        counts = dataset.sizes
        smallest = min(counts, key=lambda name: counts[name])
        require(
            self,
            "batch_size",
            self.batch_size <= counts[smallest],
            f"at most {counts[smallest]}, the examples of {smallest}",
        )

    def space_sizes(self, dataset: ArrayDataset) -> dict[str, Any]:
        """The shape of an input, and the number of classes if targets are classes.

        The shape is ``input_shape``, and ``image_shape`` if it has three axes. Without
        classes there is ``target_shape``.
        """
        shape = dataset.input_shape
        found: dict[str, Any] = {"input_shape": shape}
        if len(shape) == 3:
            found["image_shape"] = shape
        if dataset.class_names is not None:
            return found | {"num_classes": len(dataset.class_names)}
        return found | {"target_shape": dataset.target_shape}

    def put(self, dataset: ArrayDataset, devices: Devices) -> Data:
        """Puts the arrays on each device.

        Raises:
          UserError: If the network does not take them, or the loss its outputs.
        """
        outputs = self._outputs_form(dataset, self.batch_size)
        targets = dataset.train.targets
        shape = (self.batch_size, *targets.shape[1:])
        self.objective.check(outputs, jax.ShapeDtypeStruct(shape, targets.dtype))
        return devices.replicate(place(dataset, self.standardize))

    def _outputs_form(self, dataset: ArrayDataset, count: int) -> Any:
        """The shape of what a child returns for so many examples."""
        inputs = dataset.train.inputs
        dtype = jnp.float32 if self.standardize else inputs.dtype
        batch = jax.ShapeDtypeStruct((count, *inputs.shape[1:]), dtype)
        try:
            return jax.eval_shape(self._outputs_of_any_child, batch)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"The space {self.space.name} does not take inputs of shape "
                f"{batch.shape}: {error}"
            ) from error

    def _outputs_of_any_child(self, inputs):
        architecture = Architecture(jnp.zeros(len(self.space.decisions), jnp.int32))
        params = self.space.init(jax.random.key(0))
        child = gather(params, self.space.rows(architecture))
        return call(self.space, child, architecture, inputs).logits

    def describe(self, dataset: ArrayDataset) -> str:
        """How many examples there are, and their shapes."""
        return dataset.describe()

    @property
    def rows_per_batch(self) -> int:
        """Examples of a batch."""
        return self.batch_size

    @property
    def predictions_per_batch(self) -> int:
        """Examples of a batch."""
        return self.batch_size

    @property
    def _batches(self) -> Batches:
        return Batches(self.batch_size)

    def init_carry(self) -> tuple[()]:
        """Nothing: batches do not depend on each other."""
        return ()

    def num_batches(self, data: Data, split: str) -> int:
        """Whole batches of a split."""
        return _count(data, split) // self.batch_size

    def batches_of_split(self, data: Data, split: str) -> int:
        """Batches that hold all examples of a split."""
        return -(-_count(data, split) // self.batch_size)

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
        """The mean loss of one batch, with the network's own noise.

        Args:
          child: The child's parameters.
          architecture: The child, or a mixture.
          data: The arrays.
          carry: Nothing.
          step: Number of the batch, ``int32[]``, counted on over all passes, each of
            which has an order of its own.
          key: PRNG key of the noise.
          axis: Devices that share the batch.
          split: Whose batch.

        Returns:
          The loss, and the pair of the loss without a gradient and nothing.
        """
        places = self._batches.shuffled(step, _count(data, split), axis)
        inputs, targets = self._take(data, split, places)
        child, inputs = jax.tree.map(self._cast, (child, inputs))
        outputs = call(self.space, child, architecture, inputs, key=key, axis=axis)
        loss = jnp.mean(self.objective.losses(_float32(outputs.logits), targets))
        return loss, (jax.lax.stop_gradient(loss), carry)

    def _cast(self, x):
        is_float = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(self.compute_dtype) if is_float else x

    def validate(self, child, architecture, data, first, batches, axis=NO_AXIS):
        """Mean loss and error over validation batches in a row."""

        def add(i, total):
            inputs, targets = self._batch(data, "valid", first + i, axis)
            outputs = self._outputs(child, architecture, inputs, None, axis)
            each = self._each(outputs, targets)[:2]
            return total + jnp.mean(each, 1)

        total = jax.lax.fori_loop(0, batches, add, jnp.zeros(2))
        return self._evaluation(*(axis.mean(total) / batches))

    def evaluate(self, child, architecture, data, split: str, axis=NO_AXIS):
        """Mean loss and error over the whole of a split, each batch by itself."""
        return self.evaluate_with(None, child, architecture, data, split, axis)

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
        """Loss, error and metrics; the last batch ends with the first examples."""
        count = _count(data, split)

        def one(index):
            places = self._batches.places(index, axis)
            inputs, targets = self._take(data, split, places % count)
            outputs = self._outputs(child, architecture, inputs, batch_stats, axis)
            each = self._each(outputs, targets)
            # What is not finite counts where it is there, and nowhere else.
            return jnp.sum(jnp.where(places < count, each, 0), 1)

        batches = jnp.arange(self.batches_of_split(data, split))
        return axis.sum(jnp.sum(jax.lax.map(one, batches), 0)) / count

    def _each(self, outputs, targets):
        """Of each example loss, error and metrics, ``float32[2 + metrics, batch]``."""
        loss = self.objective.losses(outputs, targets)
        error = self.objective.errors(outputs, targets)
        measures = self.objective.measures(outputs, targets)
        return jnp.concatenate([jnp.stack([loss, error]), measures])

    def predict(self, child, architecture, data, inputs):
        """Predictions in evaluation mode, of a batch by itself.

        Args:
          child: Its parameters.
          architecture: The child, or a mixture.
          data: Of the task, for what inputs are standardized with.
          inputs: ``[batch, ...]``, as the training inputs were given.

        Returns:
          Log-probabilities of a classification, ``float32[batch, classes]``; otherwise
          what the network returns.
        """
        inputs = self._prepared(data, jnp.asarray(inputs))
        outputs = self._outputs(child, architecture, inputs, None)
        return self.objective.of_kind.predictions(outputs)

    def predictor(self, dataset: ArrayDataset, data: Data) -> ArrayPredictor:
        """How a model prepares the arrays of its user."""
        inputs = dataset.train.inputs
        mean, deviation = (np.asarray(x).tolist() for x in (data.mean, data.deviation))
        return ArrayPredictor(
            shape=tuple(inputs.shape[1:]),
            dtype=str(inputs.dtype),
            kind=self.objective.kind,
            classes=dataset.class_names,
            mean=tuple(mean) if self.standardize else None,
            deviation=tuple(deviation) if self.standardize else None,
        )

    def statistics(self, child, architecture, data, axis=NO_AXIS):
        """Batch statistics of all whole training batches, with which one is judged."""

        def one(index):
            inputs, _ = self._batch(data, "train", index, axis)
            return call(self.space, child, architecture, inputs, axis=axis).batch_stats

        batches = jnp.arange(self.num_batches(data, "train"))
        return pooled_tree(jax.lax.map(one, batches))

    def begin_split(self, child, architecture, data, axis=NO_AXIS):
        """Nothing: batches do not depend on each other."""
        del child, architecture, data, axis
        return ()

    def predict_batch(
        self, child, architecture, data, split: str, index, carry, axis=NO_AXIS
    ):
        """Predictions for a batch; the last one ends with the first examples.

        See :meth:`wpl_jax.tasks.task.Task.predict_batch`.
        """
        places = self._batches.places(index, axis) % _count(data, split)
        inputs, _ = self._take(data, split, places)
        outputs = self._outputs(child, architecture, inputs, None, axis)
        return self.objective.of_kind.predictions(outputs), carry

    def score(self, log_probabilities, data, split: str, index, axis=NO_AXIS):
        """Loss and error of predictions, of which each example counts once."""
        count = _count(data, split)
        places = self._batches.places(index, axis)
        _, targets = self._take(data, split, places % count)
        there = places < count
        loss, error = self._each(log_probabilities, targets)[:2]
        loss, error = (jnp.sum(jnp.where(there, x, 0)) for x in (loss, error))
        return Score(loss, error, jnp.sum(there * 1.0))

    def conclude(self, score):
        """Mean loss, and the error."""
        loss, mistakes, predicted = score
        return self._evaluation(loss / predicted, mistakes / predicted)

    def fisher_loss(self, child, architecture, data, split: str, step, axis=NO_AXIS):
        """Mean loss on one batch of the split."""
        inputs, targets = self._batch(data, split, step, axis)
        outputs = self._outputs(child, architecture, inputs, None, axis)
        return jnp.mean(self.objective.losses(outputs, targets))

    def fisher_examples(
        self, child, architecture, data, split: str, step, axis=NO_AXIS
    ):
        """Its examples, each with the batch statistics of the batch, as constants."""
        inputs, targets = self._batch(data, split, step, axis)
        found = call(self.space, child, architecture, inputs, axis=axis).batch_stats
        each = jax.tree.map(
            lambda m: jnp.broadcast_to(m, (len(targets), *m.shape)), found
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
        """Those of all classes, if :attr:`has_classes`."""
        outputs = self._outputs_of_example(child, architecture, example)[0]
        return self.objective.of_kind.predictions(outputs)

    def guess(self, data: Data) -> Guess:
        """The best constant output."""
        outputs = jax.eval_shape(
            lambda data: self._outputs_of_any_child(
                self._prepared(data, data.train.inputs[:1])
            ),
            data,
        )
        one = jax.ShapeDtypeStruct(outputs.shape[1:], outputs.dtype)
        train, valid = (np.asarray(x.targets) for x in (data.train, data.valid))
        return self.objective.guess(one, train, valid)

    def reward(self, evaluation):
        """By the kind of targets, or a function of the user's."""
        return self.objective.reward_of(evaluation.loss, evaluation.error)

    def _evaluation(self, loss, error) -> Evaluation:
        """Where the loss is not a number, neither is the error."""
        error = self.objective.to_error(error)
        return Evaluation(loss, jnp.where(jnp.isnan(loss), jnp.nan, error))

    def _batch(self, data, split, index, axis):
        """A batch that is counted on over all passes, in the order of the split."""
        index = index % self.num_batches(data, split)
        return self._take(data, split, self._batches.places(index, axis))

    def _take(self, data, split, places):
        inputs, targets = (x[places] for x in getattr(data, split))
        return self._prepared(data, inputs), targets

    def _prepared(self, data, inputs):
        if not self.standardize:
            return inputs
        return standardized(inputs, data.mean, data.deviation)

    def _outputs(self, child, architecture, inputs, batch_stats, axis=NO_AXIS):
        """Without noise."""
        found = call(
            self.space, child, architecture, inputs, batch_stats=batch_stats, axis=axis
        )
        return _float32(found.logits)

    def _outputs_of_example(self, child, architecture, example):
        return self._outputs(
            child, architecture, example.inputs[None], _if_any(example.batch_stats)
        )


def task(
    *,
    loss: PerExample | None = None,
    train: Any,
    valid: Any = 0.1,
    test: Any = 0.2,
    kind: Literal["classification", "regression"] | None = None,
    metrics: Mapping[str, PerExample] | None = None,
    error: str | None = None,
    sample_targets: Callable[[jax.Array, jax.Array], Any] | None = None,
    reward: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    loss_name: str | None = None,
    standardize: bool = False,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
    seed: int = 0,
) -> type[ArrayTask]:
    """A task of arrays in memory and a loss.

    What it returns is called with a space: ``task(space, batch_size=32)``. A
    configuration takes it by its import path, as ``"my_module:my_task"``.

    The network of the space gets inputs, ``[batch, ...]``, and returns outputs with the
    same leading axis. A function of outputs and targets returns a number for each
    example, ``float[batch]``: penalties need the gradient of each example.

    Args:
      loss: What training minimises the mean of. None for that of the kind:
        cross-entropy, or half the squared distance.
      train: The pair of inputs, ``[n, ...]``, and targets, ``[n, ...]``: arrays of
        numbers, floats as ``float32`` and whole numbers as ``int32``.
      valid: The same, or how many training examples are held out for validation, as a
        number or a fraction of them. They are drawn at random, so give splits of your
        own where examples depend on each other, as in a time series.
      test: The same for testing.
      kind: What targets are. Of ``"classification"`` the numbers of classes, and
        outputs a score for each class; reports print the per cent that are wrong. Of
        ``"regression"`` numbers, and outputs of the same shape; reports print the root
        of the mean square (RMSE). None for anything else.
      metrics: Further functions of outputs and targets by name, of which a training
        from scratch measures the means.
      error: The name of the metric that reports print, and by which architectures are
        compared; lower is better. None for that of the kind, or the loss.
      sample_targets: Draws the targets of one example from the model,
        ``sample_targets(key, outputs)``, for penalties with ``labels="model"``. None
        for that of the kind: a class by its probability, or a normal distribution.
      reward: What a strategy learns from, ``reward(loss, error)``, at least 0 and
        higher for better children. None for the share that is right, ``1 / (1 +
        RMSE)``, or ``exp(-loss)``.
      loss_name: What reports call the loss, such as its unit. None for "nats" of the
        cross-entropy, and "loss" of others.
      standardize: Whether each feature, the last axis of inputs, gets mean 0 and
        deviation 1 over the training examples. A model does the same to its inputs.
      class_names: The name of class i at position i; None for their digits.
      name: What the data is called in messages and reports.
      seed: Of the random hold-outs.

    Returns:
      A class of tasks with the arrays.

    Raises:
      UserError: If an array or an argument is wrong. Shapes of outputs and losses are
        checked once the space is known, before anything is compiled.

    Examples:
      >>> import numpy as np, wpl_jax
      >>> rng = np.random.default_rng(0)
      >>> x = rng.normal(size=(100, 3))
      >>> y = x.sum(1, keepdims=True)
      >>> Sums = wpl_jax.task(kind="regression", train=(x, y), name="sums")
      >>> print(Sums.dataset.describe())
      sums: examples 72 train, 8 valid, 20 test; inputs 3; targets 1
    """
    objective = Objective(
        loss,
        kind,
        tuple((metrics or {}).items()),
        error,
        sample_targets,
        reward,
        loss_name,
    )
    if standardize not in (False, True):
        raise UserError(f"standardize is {standardize!r}, expected True or False.")
    if class_names is not None and kind != "classification":
        raise UserError('class_names are for kind="classification": leave them out.')
    dataset = read_arrays(
        train,
        valid,
        test,
        kind=kind,
        class_names=class_names,
        source=name,
        seed=seed,
    )
    content = {
        "objective": objective,
        "standardize": standardize,
        "dataset": dataset,
        "__doc__": f"The task of {name}.",
        "__module__": __name__,
    }
    return type("ArrayTask", (ArrayTask,), content)


def _count(data: Data, split: str) -> int:
    return len(getattr(data, split).targets)


def _float32(outputs: jax.Array) -> jax.Array:
    is_float = jnp.issubdtype(outputs.dtype, jnp.floating)
    return outputs.astype(jnp.float32) if is_float else outputs


def _if_any(batch_stats: Any) -> Any:
    """Batch statistics, None where the network has none."""
    return batch_stats if jax.tree.leaves(batch_stats) else None
