"""Kinds of targets: classes, numbers, or anything else.

A kind says what a network's outputs mean: which loss they have if none is given, what
error people read, how targets are drawn from the model, and what a constant guess is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax.errors import UserError
from wpl_jax.tasks.averaging import OF_OUTPUTS, OF_PROBABILITIES, Averaging

# A function of outputs and targets, both with a leading axis of examples, to a number
# for each example, ``float[batch]``.
PerExample = Callable[[jax.Array, jax.Array], jax.Array]


class Kind:
    """Targets of which nothing is known but the loss.

    Attributes:
      error_name: Of the error that people read.
      loss_name: What reports call :attr:`loss`.
      loss: Of each example; None if the user has to give one.
      error: The same, for the error; None for the loss.
      sample: Draws the targets of one example, ``sample(key, outputs)``; None if
        nothing is known about them.
      has_classes: Whether :meth:`predictions` are log-probabilities of classes.
      averaging: How an ensemble averages :meth:`predictions`.
    """

    error_name = "loss"
    loss_name = "loss"
    loss: PerExample | None = None
    error: PerExample | None = None
    sample: Callable[[jax.Array, jax.Array], Any] | None = None
    has_classes = False
    averaging: Averaging = OF_OUTPUTS

    def check(self, outputs: Any, targets: Any) -> None:
        """Checks the shapes of a batch; a UserError says what they should be."""

    def to_error(self, mean: Any) -> Any:
        """The error that people read, from its mean over examples."""
        return mean

    def predictions(self, outputs: jax.Array) -> jax.Array:
        """What a user of the model gets: by default, what the network returns."""
        return outputs

    def constant(self, targets: np.ndarray, shape: tuple[int, ...]) -> Any:
        """The best constant output, as far as the kind knows it; None if it does not.

        Args:
          targets: Of the training examples.
          shape: Of the outputs for one example.
        """
        del targets, shape

    def reward(self, loss: jax.Array, error: jax.Array) -> jax.Array:
        """What a strategy learns from: ``exp(-loss)``, which is never negative."""
        del error
        return jnp.exp(-loss)


class Classification(Kind):
    """Numbers of classes; outputs are a score for each class, the last axis."""

    error_name = "% error"
    loss_name = "nats"
    has_classes = True
    averaging = OF_PROBABILITIES

    @staticmethod
    def loss(outputs, targets):
        """Cross-entropy; the mean over positions, if there are several."""
        found = optax.softmax_cross_entropy_with_integer_labels(
            outputs.astype(jnp.float32), targets
        )
        return _mean_of_example(found)

    @staticmethod
    def error(outputs, targets):
        """Per cent wrong."""
        wrong = jnp.argmax(outputs, -1) != targets
        return 100 * _mean_of_example(wrong.astype(jnp.float32))

    @staticmethod
    def sample(key, outputs):
        """A class by the probabilities of the model."""
        return jax.random.categorical(key, outputs.astype(jnp.float32))

    def check(self, outputs, targets):
        """One more axis than targets have, of at least two scores."""
        fits = outputs.shape[:-1] == targets.shape and outputs.ndim == targets.ndim + 1
        if not fits or outputs.shape[-1] < 2:
            several = targets.shape[1:] == (1,)
            advice = " Give targets as y.reshape(-1) if each is one class."
            raise UserError(
                f"The network returns the shape {outputs.shape} for targets of shape "
                f"{targets.shape}, expected {(*targets.shape, 'classes')}: a score for "
                f"each of at least two classes.{advice if several else ''}"
            )

    def predictions(self, outputs):
        """Log-probabilities of the classes."""
        return jax.nn.log_softmax(outputs.astype(jnp.float32))

    def constant(self, targets, shape):
        """The frequencies of the classes, each counted once more than it occurs."""
        counts = 1.0 + np.bincount(np.ravel(targets), minlength=shape[-1])
        return np.broadcast_to(np.log(counts / counts.sum()), shape)

    def reward(self, loss, error):
        """The share that is right."""
        del loss
        return 1 - error / 100


class Regression(Kind):
    """Numbers; outputs are of the same shape.

    The model is a normal distribution with the outputs as means and a variance of 1, of
    which half the squared distance is the negative logarithm but for a constant.
    """

    error_name = "RMSE"

    @staticmethod
    def loss(outputs, targets):
        """Half the squared distance."""
        return _sum_of_example((outputs.astype(jnp.float32) - targets) ** 2) / 2

    @staticmethod
    def error(outputs, targets):
        """The mean square, whose root :meth:`to_error` takes."""
        return _mean_of_example((outputs.astype(jnp.float32) - targets) ** 2)

    @staticmethod
    def sample(key, outputs):
        """Normal, with the outputs as means and a variance of 1."""
        return outputs + jax.random.normal(key, outputs.shape)

    def check(self, outputs, targets):
        """The shape of the targets."""
        if outputs.shape != targets.shape:
            raise UserError(
                f"The network returns the shape {outputs.shape} for targets of shape "
                f"{targets.shape}, expected the same: a number for each number. Give "
                "targets as y.reshape(-1, 1) if the network has one output."
            )

    def to_error(self, mean):
        """The root of the mean square."""
        return mean**0.5

    def constant(self, targets, shape):
        """The mean of the targets."""
        return np.broadcast_to(targets.mean(0), shape)

    def reward(self, loss, error):
        """``1 / (1 + RMSE)``: the exponential of a large loss would be zero."""
        del loss
        return 1 / (1 + error)


def _mean_of_example(x: jax.Array) -> jax.Array:
    return jnp.mean(x.reshape(len(x), -1), 1)


def _sum_of_example(x: jax.Array) -> jax.Array:
    return jnp.sum(x.reshape(len(x), -1), 1)


# By the name that a task of one's own gives; None for targets of no kind.
KINDS: dict[str | None, Kind] = {
    None: Kind(),
    "classification": Classification(),
    "regression": Regression(),
}
