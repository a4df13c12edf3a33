"""A task of one's own: examples in arrays, and a loss."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import check_choice, check_int, require
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.devices.parallel import Devices
from wpl_jax.errors import UserError, shorten
from wpl_jax.spaces.images import Noise
from wpl_jax.supernet import Architecture, Space, gather
from wpl_jax.tasks.array_data import ArrayDataset, Data, place, read_arrays
from wpl_jax.tasks.array_predictor import ArrayPredictor
from wpl_jax.tasks.example_task import ExampleTask, count
from wpl_jax.tasks.guessing import Guess
from wpl_jax.tasks.kinds import PerExample
from wpl_jax.tasks.network_call import call, standardized
from wpl_jax.tasks.objective import Objective
from wpl_jax.tasks.task import check_dataset


@dataclasses.dataclass(frozen=True)
class ArrayTask(ExampleTask):
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
    free_sizes = ("input_shape", "image_shape", "target_shape")  # See `put`.
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

    @classmethod
    def open(cls) -> ArrayDataset:
        """The arrays."""
        return cls.dataset

    def check(self, dataset: ArrayDataset) -> None:
        """Checks the size of a batch.

        Raises:
          SettingError: If a split is smaller than a batch.
          UserError: If it is no data set of such a task.
        """
        check_dataset(dataset, ArrayDataset, "the task's open(), as it does for None,")
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
        places = self.batches.shuffled(step, count(data, split), axis)
        inputs, targets = self.take(data, split, places)
        outputs = self.outputs_in_training(
            child, architecture, inputs, Noise(key), axis
        )
        loss = self.mean_loss(outputs.logits, targets)
        return loss, (jax.lax.stop_gradient(loss), carry)

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

    def guess(self, data: Data) -> Guess:
        """The best constant output."""
        outputs = jax.eval_shape(
            lambda data: self._outputs_of_any_child(
                self.prepared(data, data.train.inputs[:1])
            ),
            data,
        )
        one = jax.ShapeDtypeStruct(outputs.shape[1:], outputs.dtype)
        train, valid = (np.asarray(x.targets) for x in (data.train, data.valid))
        return self.objective.guess(one, train, valid)

    def prepared(self, data, inputs):
        """Inputs as the network gets them, standardized if that is asked for."""
        if not self.standardize:
            return inputs
        return standardized(inputs, data.mean, data.deviation)


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
    if not isinstance(metrics or {}, Mapping):
        raise UserError(
            f"metrics is {shorten(metrics)}, expected functions by name, such as "
            '{"MAE": distance}.'
        )
    objective = Objective(
        loss,
        kind,
        tuple((metrics or {}).items()),
        error,
        sample_targets,
        reward,
        loss_name,
    )
    if not isinstance(standardize, bool | np.bool_):
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
        "standardize": bool(standardize),
        "dataset": dataset,
        "__doc__": f"The task of {name}.",
        "__module__": __name__,
    }
    return type("ArrayTask", (ArrayTask,), content)
