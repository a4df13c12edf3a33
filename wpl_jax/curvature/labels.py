"""Labels drawn from the model, for the Fisher itself instead of the empirical one."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.checks import example_shape, known_entries, noting_one_example

Resample = Callable[[jax.Array, Any, Any], Any]


def sample_class(
    logits: Callable[[Any, Any], jax.Array],
    *,
    distribution: Literal["categorical", "bernoulli"] = "categorical",
) -> Resample:
    """Draws the label of a classification example from the model.

    Args:
      logits: ``logits(params, inputs)`` for one example. Of ``"categorical"``
        ``float[..., num_classes]``: leading axes, if any, are the positions of a
        sequence. Of ``"bernoulli"`` an array like the label.
      distribution: ``"categorical"``, one class of several; or ``"bernoulli"``, yes or
        no for each number, as of a binary head or of several labels.

    Returns:
      A ``resample`` for the estimators, for examples that are pairs ``(inputs,
      label)``. The drawn label has the form of the one that it replaces: class numbers
      ``int[...]``, or one-hot rows where the label is of the logits' shape (one-hot or
      soft). Padding stays: class numbers below 0, rows of zeros, and of
      ``"bernoulli"`` numbers below 0. Labels of -1 and 1 are therefore not for it:
      give 0 and 1.

    Raises:
      ValueError: If ``distribution`` is not one of the two; when used, if label and
        logits do not fit each other, an example is not a pair, or known labels are of
        another distribution (rows that sum to more than 1, or labels of -1 and 1).
    """
    if distribution not in _DISTRIBUTIONS:
        raise ValueError(
            f"distribution must be one of {sorted(_DISTRIBUTIONS)}, got "
            f"{distribution!r}."
        )
    return _Resample(logits, distribution)


@dataclasses.dataclass(frozen=True)
class _Resample:
    """A ``resample`` that can look at labels before the first is drawn."""

    logits: Callable[[Any, Any], jax.Array]
    distribution: str

    def __call__(self, key, params, example):
        """The example with a label drawn from the model."""
        inputs, label = pair_of(example)
        draw, _ = _DISTRIBUTIONS[self.distribution]
        return inputs, draw(key, self.logits(params, inputs), jnp.asarray(label))

    def check(self, params: Any, examples: Any) -> None:
        """Checks labels whose entries are known.

        Raises:
          ValueError: If they are not of the distribution.
        """
        inputs, label = pair_of(examples)
        with noting_one_example(inputs):
            shape = jax.eval_shape(self.logits, params, example_shape(inputs)).shape
        entries = known_entries(label)
        if entries.size and entries.shape[1:] == shape:
            _, check = _DISTRIBUTIONS[self.distribution]
            check(entries)


def pair_of(example: Any) -> tuple[Any, Any]:
    """The inputs and the label of an example.

    Raises:
      ValueError: If it is no pair.
    """
    if not isinstance(example, tuple | list) or len(example) != 2:
        raise ValueError(
            "Examples must be pairs (inputs, label), got a "
            f"{type(example).__name__}. Write resample(key, params, example) for "
            "others."
        )
    return example[0], example[1]


def _draw_class(key, logits, label):
    if not logits.shape or logits.shape[-1] == 1:
        raise ValueError(
            f"The logits of an example have the shape {logits.shape}: one class only. "
            "For a binary head pass sample_class(..., distribution='bernoulli')."
        )
    drawn = jax.random.categorical(key, logits.astype(jnp.float32))
    if label.shape == logits.shape:
        rows = jax.nn.one_hot(drawn, logits.shape[-1], dtype=label.dtype)
        return jnp.where(jnp.any(label != 0, -1, keepdims=True), rows, label)
    is_number = jnp.issubdtype(label.dtype, jnp.integer)
    if is_number and label.shape == logits.shape[:-1]:
        if logits.shape[-1] - 1 > jnp.iinfo(label.dtype).max:
            raise ValueError(
                f"Labels of dtype {label.dtype} cannot hold the numbers of "
                f"{logits.shape[-1]} classes. Cast them to int32."
            )
        return jnp.where(label < 0, label, drawn.astype(label.dtype))
    raise ValueError(
        f"The label of an example is {label.dtype} of shape {label.shape}, and its "
        f"logits have the shape {logits.shape}; expected class numbers, whole, of "
        f"shape {logits.shape[:-1]}, or one-hot rows of shape {logits.shape}."
    )


def _draw_yes_or_no(key, logits, label):
    if label.shape != logits.shape:
        raise ValueError(
            f"The label of an example has the shape {label.shape}, and its logits have "
            f"the shape {logits.shape}; expected the same, a 0 or 1 for each logit."
        )
    chance = jax.nn.sigmoid(logits.astype(jnp.float32))
    drawn = jax.random.bernoulli(key, chance).astype(label.dtype)
    return jnp.where(label < 0, label, drawn)


def _check_rows(labels: np.ndarray) -> None:
    """One-hot and soft labels: rows that sum to 1, or to 0 for padding."""
    sums = labels.sum(-1)
    if (sums > 1.1).any():
        raise ValueError(
            f"A row of the labels sums to {sums.max():.4g}, expected 1 (one class of "
            "several, one-hot or soft), or 0 for padding. For several labels an "
            "example pass sample_class(..., distribution='bernoulli')."
        )


def _check_signs(labels: np.ndarray) -> None:
    """Labels of yes and no: not -1 and 1."""
    if (np.abs(labels) == 1).all() and (labels < 0).any():
        raise ValueError(
            "The labels are -1 and 1, expected 0 and 1: numbers below 0 are padding. "
            "Pass (labels + 1) / 2, and let the loss take these."
        )


# How labels are drawn, and how those of the data are checked.
_DISTRIBUTIONS: dict[str, Any] = {
    "categorical": (_draw_class, _check_rows),
    "bernoulli": (_draw_yes_or_no, _check_signs),
}
