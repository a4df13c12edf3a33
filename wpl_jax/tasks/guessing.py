"""What guessing is worth: the level at which a model has learned nothing.

A guess knows how often each class or word occurs, and looks at no image and at no
earlier word. A search whose models are no better compares noise.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wpl_jax.runs.run_files import NUMBER, check_fields

# How far chance may take an error below its expectation, in standard errors.
STANDARD_ERRORS = 3.0

NO_BETTER = "no better than guessing"


class Guess(NamedTuple):
    """What guessing is worth on the validation data of a task.

    NaN if it is not known: of some losses no constant output has a finite one.
    """

    loss: float  # mean loss
    error: float  # the task's error: perplexity, per cent wrong
    least_error: float  # three standard errors of the mean below: chance goes so far

    @property
    def is_known(self) -> bool:
        """Whether it is worth a number."""
        return bool(np.all(np.isfinite(self)))

    def explains(self, error: float) -> bool:
        """Whether a model of this validation error may have learned nothing."""
        return self.is_known and not error < self.least_error  # NaN is no better.

    def described(self) -> dict[str, dict[str, float]]:
        """What files of results hold of it, under ``guess``; {} if it is not known."""
        return {"guess": self._asdict()} if self.is_known else {}

    def explains_all(self, error: float, loss: Iterable[float | None]) -> bool:
        """Whether none of several models need have learned anything.

        A mean alone would not tell: one model that explodes is off by more than all
        others have learned.

        Args:
          error: Their mean validation error.
          loss: The validation loss of each, None or NaN where it is not finite.
        """
        return self.explains(error) and not any(
            x is not None and x < self.loss for x in loss
        )


def of_losses(losses: np.ndarray, to_error: Callable[[float], float]) -> Guess:
    """The guess with these losses.

    Args:
      losses: In nats, one for each prediction, ``float[n]``.
      to_error: The error of a mean loss.
    """
    losses = np.asarray(losses, np.float64)
    loss = float(np.mean(losses))
    least = loss - STANDARD_ERRORS * float(np.std(losses)) / np.sqrt(len(losses))
    return Guess(loss, to_error(loss), to_error(least))


def of_words(train: np.ndarray, valid: np.ndarray, vocabulary_size: int) -> Guess:
    """Each word with its frequency in the training text, whatever comes before.

    Args:
      train: The training text, ``int[...]``.
      valid: The words to predict, ``int[...]``.
      vocabulary_size: The number of words. Each counts once more than it occurs, so
        that none is impossible.

    Returns:
      Nats per word; the errors are perplexities, at most ``vocabulary_size``.
    """
    counts = 1.0 + np.bincount(np.ravel(train), minlength=vocabulary_size)
    losses = np.log(np.sum(counts)) - np.log(counts)
    worst = np.log(vocabulary_size)
    return of_losses(
        losses[np.ravel(valid)], lambda loss: float(np.exp(min(loss, worst)))
    )


def of_classes(labels: np.ndarray) -> Guess:
    """Always the most frequent class; no other constant answer has a lower error.

    Args:
      labels: Classes of the validation data, ``int[n]``.

    Returns:
      The entropy of the classes, which no constant distribution goes below; the
      errors are percentages.
    """
    shares = np.bincount(labels) / len(labels)
    wrong = 1 - float(np.max(shares))
    there = shares[shares > 0]
    margin = STANDARD_ERRORS * np.sqrt(wrong * (1 - wrong) / len(labels))
    return Guess(
        loss=float(-np.sum(there * np.log(there))),
        error=100 * wrong,
        least_error=float(100 * max(wrong - margin, 0.0)),
    )


class Model(NamedTuple):
    """A model, or the best of several, beside the guess on its data."""

    name: str
    error: float  # on the validation data
    guess: Guess | None  # None where it is not known


def read_guess(results: Mapping[str, Any]) -> Guess | None:
    """The guess in results that :func:`check_guess` has checked."""
    found = results.get("guess")
    return found and Guess(**{name: found[name] for name in Guess._fields})


def check_guess(results: Mapping[str, Any], path: Path, remedy: str) -> None:
    """Checks the guess in a file of results; those of earlier versions have none.

    Raises:
      UserError: Naming the file and the field.
    """
    if "guess" in results:
        fields = dict.fromkeys(Guess._fields, NUMBER)
        check_fields(results["guess"], fields, path, remedy, "in 'guess', ")


def lowest(errors: Iterable[float | None]) -> float:
    """The lowest of the errors that are numbers, NaN where none is."""
    numbers = [x for x in errors if x is not None and np.isfinite(x)]
    return min(numbers, default=float("nan"))


def remark(models: Iterable[Model], error_name: str, remedy: str) -> str:
    """Names the models that are no better than guessing; "" where there are none.

    Args:
      models: Those of a run.
      error_name: What the error is called.
      remedy: What to do, a sentence.
    """
    found = [
        f"{name} ({error_name} {error:.2f}, guessing {guess.error:.2f})"
        for name, error, guess in models
        if guess is not None and guess.explains(error)
    ]
    if not found:
        return ""
    return (
        f"{NO_BETTER.capitalize()} on the validation data: {'; '.join(found)}. A guess "
        "knows how often each class or word occurs, and nothing else; chance may take "
        f"it {STANDARD_ERRORS:g} standard errors lower. Nothing can be concluded from "
        f"a model at this level. {remedy}"
    )


def print_remark(models: Iterable[Model], error_name: str, remedy: str) -> None:
    """Prints what :func:`remark` says, if anything."""
    if said := remark(models, error_name, remedy):
        print(said, flush=True)
