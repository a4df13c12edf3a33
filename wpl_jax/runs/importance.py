"""Fishers and anchors in files, for other programs, machines and models."""

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import wpl_jax
from wpl_jax.common.checks import (
    check_finite,
    check_importances,
    is_size,
    leaves_by_path,
)
from wpl_jax.common.paths import as_path
from wpl_jax.common.trees import check_same_paths
from wpl_jax.errors import UserError, shorten
from wpl_jax.runs.fingerprint import fingerprint as checksum
from wpl_jax.runs.run_files import to_json, write_atomically
from wpl_jax.runs.safetensors import read_safetensors, to_safetensors

_ABOUT = "importance"  # the text with everything but the arrays
_FORM = 1  # of that text; grows when it changes
_FISHER, _ANCHOR = "fisher/", "anchor/"
_KIND = (
    "a file of wpl_jax.save_importance",
    "Give the path that was passed to it.",
)
_SAVED = (np.float16, np.float32, np.float64, jnp.bfloat16)
_WRITTEN = ("date", "wpl_jax", "fingerprint")  # in each header
_MOST_NAMED = 5  # parameters that a message lists


class Importance(NamedTuple):
    """What a file holds."""

    fisher: Any  # like the parameters, or arrays by path
    anchor: Any  # like the parameters, or arrays by path
    about: dict[str, Any]  # of the header


def save_importance(
    path: str | Path,
    fisher: Any,
    anchor: Any,
    about: Mapping[str, Any] | None = None,
    *,
    estimator: str | Callable[..., Any] | None = None,
    examples: int | None = None,
    loss: str | Callable[..., Any] | None = None,
) -> None:
    """Writes a Fisher and its anchor to a file in the format of safetensors.

    Arrays have the paths of their parameters, such as ``fisher/hidden/kernel``. The
    header has the date, the version of this library, the fingerprint of the anchor
    (:func:`fingerprint`), and what the arguments say. Of several processes the primary
    one writes; arrays must be whole there.

    Args:
      path: The file, by convention ``NAME.safetensors``. An old one is replaced.
      fisher: A tree like the parameters.
      anchor: The parameters of the model, a tree with the same paths.
      about: Anything else to be known about them, values of JSON by name.
      estimator: How the Fisher was estimated: a text, or a function such as
        :func:`wpl_jax.exact_fisher`, whose name is written.
      examples: Number of examples that it is a mean over.
      loss: The loss: a text such as ``"cross-entropy"``, or a function with a name.

    Raises:
      ValueError: If the trees differ, an entry is not a finite number, an array is
        complex or lies on other processes, an argument has another type, or ``about``
        has a name that the header has already.
      UserError: If the file cannot be written.
    """
    file = as_path(path, "path", "a file")
    described = _described(about or {}, estimator, examples, loss)
    check_same_paths("fisher", fisher, anchor)
    check_same_paths("anchor", anchor, fisher)
    check_importances("fisher", fisher)
    check_finite("anchor", anchor)
    arrays = _named(_FISHER, fisher) | _named(_ANCHOR, anchor)
    header = {
        "form": _FORM,
        "wpl_jax": wpl_jax.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fingerprint": _of_model(arrays),
        "content": checksum(arrays),
        "about": described,
    }
    try:
        text = to_json(header)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "about must have values of JSON: texts, numbers of Python, lists, dicts. "
            f"{error}. Of a number of numpy or JAX take x.item()."
        ) from error
    write_atomically(file, to_safetensors(arrays, {_ABOUT: text}))


def load_importance(path: str | Path, like: Any = None) -> Importance:
    """Reads a file of :func:`save_importance`.

    Args:
      path: The file.
      like: The parameters of a model that it is for, or shapes like them. Fisher and
        anchor are then trees like these. None for dicts of arrays by path.

    Returns:
      The Fisher, the anchor and the header: ``about`` as it was given, with
      ``estimator``, ``examples`` and ``loss`` if they were, and with ``date``,
      ``wpl_jax`` and ``fingerprint``. The values of ``like`` are not compared: after
      fine-tuning they differ from the anchor. :func:`fingerprint` compares them.

    Raises:
      UserError: If it is no such file, its arrays are not those that were written, or
        it does not fit ``like``. The message has all parameters that are missing, too
        many or of another shape.
    """
    path = as_path(path, "path", "a file")
    arrays, texts = read_safetensors(path, _KIND)
    header = _header(path, texts)
    if header["content"] != checksum(arrays):
        raise UserError(
            f"{path} is damaged: its arrays are not those that were written. Restore "
            "it from a copy, or estimate the Fisher again."
        )
    about = header["about"] | {name: header[name] for name in _WRITTEN}
    trees = [
        {name.removeprefix(p): x for name, x in arrays.items() if name.startswith(p)}
        for p in (_FISHER, _ANCHOR)
    ]
    if like is None:
        return Importance(trees[0], trees[1], about)
    _check_fits(path, trees[0], like)
    fisher, anchor = (
        jax.tree.unflatten(
            jax.tree.structure(like),
            [jnp.asarray(tree[name]) for name, _ in leaves_by_path(like)],
        )
        for tree in trees
    )
    return Importance(fisher, anchor, about)


def fingerprint(params: Any) -> str:
    """A checksum of a model's parameters, as files of importances have it.

    Equal to ``load_importance(path).about["fingerprint"]`` where ``params`` are the
    anchor that was saved: paths, shapes, dtypes and all values are equal.

    Args:
      params: A tree of arrays of float16, bfloat16, float32 or float64.

    Returns:
      16 hexadecimal digits.

    Raises:
      ValueError: If an array has another dtype, or lies on other processes.

    Examples:
      >>> import jax.numpy as jnp, wpl_jax
      >>> first = wpl_jax.fingerprint({"w": jnp.ones(2)})
      >>> first == wpl_jax.fingerprint({"w": jnp.array([1.0, 1.0])})
      True
      >>> first == wpl_jax.fingerprint({"w": jnp.array([1.0, 1.1])})
      False
    """
    return _of_model(_named(_ANCHOR, params))


def _described(
    about: Mapping[str, Any], estimator: Any, examples: Any, loss: Any
) -> dict[str, Any]:
    """What the arguments say about a Fisher, as values of JSON.

    Raises:
      ValueError: As in :func:`save_importance`.
    """
    if examples is not None and not is_size(examples):
        raise ValueError(f"examples must be a whole number above 0, got {examples!r}.")
    given = {
        "estimator": _in_words("estimator", estimator),
        "examples": None if examples is None else int(examples),
        "loss": _in_words("loss", loss),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if taken := sorted(set(about) & {*given, *_WRITTEN}):
        raise ValueError(
            f"about has {taken}, which the header has already. Leave them out of about."
        )
    return dict(about) | given


def _in_words(name: str, value: Any) -> str | None:
    """A text, or the name of a function."""
    found = getattr(value, "__name__", value) if callable(value) else value
    if found is not None and not isinstance(found, str):
        raise ValueError(
            f"{name} must be a text or a function with a name, got {value!r}."
        )
    return found


def _named(prefix: str, tree: Any) -> dict[str, np.ndarray]:
    """Arrays by name, on the host."""
    arrays = {}
    for name, leaf in leaves_by_path(tree):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            raise ValueError(
                f"The array at '{name}' lies on other processes too. Gather it first: "
                "jax.experimental.multihost_utils.process_allgather(tree, tiled=True)."
            )
        array = np.asarray(leaf)
        if array.dtype not in _SAVED:
            raise ValueError(
                f"The array at '{name}' has the dtype {array.dtype}, expected one of "
                f"{[np.dtype(dtype).name for dtype in _SAVED]}."
            )
        arrays[prefix + name] = array
    return arrays


def _of_model(arrays: Mapping[str, np.ndarray]) -> str:
    """The fingerprint of the anchor, which is the model."""
    return checksum({n: x for n, x in arrays.items() if n.startswith(_ANCHOR)})


def _header(path: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(texts[_ABOUT])
        found = header["form"]
        known = found != _FORM or (
            isinstance(header["about"], dict)
            and {"content", "date", "fingerprint", "wpl_jax"} <= header.keys()
        )
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise UserError(
            f"{path} is not {_KIND[0]} (it has no header of one). {_KIND[1]}"
        )
    if found != _FORM:
        raise UserError(
            f"{path} has form {shorten(found)}, and this version of wpl_jax reads form "
            f"{_FORM}. Install the version that wrote it, {header.get('wpl_jax')}."
        )
    return header


def _check_fits(path: Path, arrays: Mapping[str, np.ndarray], like: Any) -> None:
    """Raises a UserError with all that differs."""
    expected = {name: tuple(jnp.shape(leaf)) for name, leaf in leaves_by_path(like)}
    wrong = [
        ("The model has, and the file lacks", expected.keys() - arrays.keys()),
        ("The file has, and the model lacks", arrays.keys() - expected.keys()),
    ]
    said = [f"{what}: {_listed(sorted(names))}." for what, names in wrong if names]
    shapes = [
        f"'{name}' is {arrays[name].shape} in the file and {shape} in the model"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if shapes:
        said.append(f"Other shapes: {_listed(shapes)}.")
    if said:
        raise UserError(
            f"{path} does not fit the parameters. {' '.join(said)} Load it without "
            "like= for arrays by path, and put together what fits."
        )


def _listed(items: list[str]) -> str:
    more = len(items) - _MOST_NAMED
    rest = f" and {more} more" if more > 0 else ""
    return ", ".join(items[:_MOST_NAMED]) + rest
