"""Models in files: one file holds the weights and all that a prediction needs."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import wpl_jax
from wpl_jax.common.checks import leaves_by_path
from wpl_jax.common.paths import as_path
from wpl_jax.common.plain import from_plain, to_plain
from wpl_jax.common.registry import Registry
from wpl_jax.errors import UserError, for_caller, printable, shorten
from wpl_jax.evaluation.retrained import RETRAINED_FILE, Kept
from wpl_jax.models.model import Model
from wpl_jax.runs.run_files import to_json, write_atomically
from wpl_jax.runs.safetensors import read_safetensors, to_safetensors
from wpl_jax.spaces import SPACES
from wpl_jax.spaces.architecture_json import (
    architecture_from_json,
    architecture_to_json,
)
from wpl_jax.supernet import Architecture, Space, gather
from wpl_jax.tasks.predictor import PREDICTORS, Predictor

MODEL_FILE = "model.safetensors"
_ABOUT = "wpl_jax"  # the text with everything but the arrays
_FORM = 1  # of that text; grows when it changes
_PARAMS, _STATISTICS = "params/", "statistics/"


def model_to_bytes(model: Model) -> bytes:
    """The content of a model's file.

    Arrays have the names of their places, such as ``params/stem/kernel``. The metadata
    has a JSON object with the space and its settings, the architecture, the predictor
    and the metrics.
    """
    arrays = {
        prefix + name: np.asarray(leaf)
        for prefix, tree in ((_PARAMS, model.params), (_STATISTICS, model.statistics))
        for name, leaf in leaves_by_path(tree)
    }
    return to_safetensors(arrays, {_ABOUT: to_json(describe(model))})


def keep_in(
    folder: Path, space: Space, predictor: Predictor | None
) -> Callable[[Kept], None] | None:
    """A function that writes the model of a finished training into its folder.

    Args:
      folder: Of the training.
      space: Its space.
      predictor: That of its task; None if the task has none, and so no model.

    Raises:
      UserError: If a setting of the space cannot be in a file.
    """
    if predictor is None:
        return None
    to_plain(space)  # Now, and not once it is trained.

    def keep(kept: Kept) -> None:
        model = Model(
            space, kept.choice, predictor, kept.params, kept.statistics, kept.metrics
        )
        write_atomically(folder / MODEL_FILE, model_to_bytes(model))

    return keep


def describe(model: Model) -> dict[str, Any]:
    """Everything of a model but its arrays, as values of JSON."""
    architecture = json.loads(architecture_to_json(model.space, model.choice))
    return {
        "form": _FORM,
        "wpl_jax": wpl_jax.__version__,
        "space": {"name": name_of(model.space), "settings": to_plain(model.space)},
        "architecture": architecture,
        "predictor": {
            "name": model.predictor.name,
            "settings": to_plain(model.predictor),
        },
        "metrics": model.metrics,
    }


def name_of(space: Any) -> str:
    """The name by which a space is found: a registered one, or its import path."""
    cls = type(space)
    if space.name in SPACES and SPACES[space.name] is cls:
        return space.name
    return f"{cls.__module__}:{cls.__qualname__}"


def load(path: str | Path, space: Any = None) -> Model:
    """A trained model, with the weights of the lowest validation error.

    Args:
      path: The folder of a run, of one of its searches or of a retraining, or the file
        ``model.safetensors``. Of a run with several retrained models it is the one with
        the lowest validation error.
      space: Class of the space, if it is neither one of the library nor an entry point
        of an installed package: a file of weights does not import other modules.

    Returns:
      The model, a function of images or text.

    Raises:
      UserError: If nothing has been trained there to its end, the file is not that of
        a model, or ``space`` is no class of spaces.

    Examples:
      >>> model = wpl_jax.load("runs/digits")  # doctest: +SKIP
      >>> classes = model(images).argmax(-1)  # doctest: +SKIP
    """
    if space is not None and Space not in getattr(space, "__mro__", ()):
        raise UserError(
            f"space is {shorten(space)}, expected a class of spaces, such as that of "
            "the search, or None."
        )
    path = as_path(path, "path", f"the folder of a run or a {MODEL_FILE}")
    if path.is_dir():
        path = _find(path)
    elif not path.exists():
        raise UserError(
            f"There is no {path}, expected the folder of a run or a {MODEL_FILE}."
        )
    return _read(path, space)


def _find(folder: Path) -> Path:
    """The file of the best model in a folder."""
    candidates = [folder / MODEL_FILE, folder / "retrain" / MODEL_FILE]
    candidates += sorted(folder.glob(f"searches/*/retrain/{MODEL_FILE}"))
    found = [path for path in candidates if path.is_file()]
    if not found:
        raise _nothing(folder)
    if len(found) == 1:
        return found[0]
    errors = [_about(read_safetensors(path)[1], path)["metrics"] for path in found]
    names = {each.get("error_name") for each in errors}
    if len(names) > 1:
        raise UserError(
            f"{folder} holds models of different tasks ({sorted(map(str, names))}): "
            "give the folder of one search in it."
        )
    return min(zip((each["valid_error"] for each in errors), found, strict=True))[1]


def _nothing(folder: Path) -> UserError:
    patterns = [f"{where}{RETRAINED_FILE}" for where in ("", "retrain/")]
    patterns.append(f"searches/*/retrain/{RETRAINED_FILE}")
    older = next((path for p in patterns for path in folder.glob(p)), None)
    if older is not None:
        return UserError(
            f"{older.parent} has no {MODEL_FILE}: an earlier version trained it. "
            f"Delete {older} and run the same {for_caller('command', 'call')} again, "
            "which writes both from the checkpoint."
        )
    advice = for_caller(
        "Run with config.retrain.epochs above 0, or with --mode=retrain; the same "
        "command",
        "wpl_jax.retrain(..., workdir=FOLDER) trains one, or the command wpl-jax with "
        "config.retrain.epochs above 0; the same call or command",
    )
    return UserError(
        f"No training has finished in {folder}: there is no {MODEL_FILE}. {advice} "
        "continues what was stopped."
    )


def _about(texts: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        about = json.loads(texts[_ABOUT])
        complete = {"space", "architecture", "predictor", "metrics"} <= set(about)
        form = about["form"]
    except (KeyError, TypeError, ValueError, RecursionError):
        complete, form = False, None
    if not complete:
        raise UserError(
            f"{path} holds arrays but no model of wpl_jax. Give the folder of a run, "
            f"or the {MODEL_FILE} in it."
        )
    if form != _FORM:
        raise UserError(
            f"{path} has form {shorten(form)}, and this version of wpl_jax reads form "
            f"{_FORM}. Install the version that wrote it, {about.get('wpl_jax')}."
        )
    return about


def _read(path: Path, space_class: Any) -> Model:
    arrays, texts = read_safetensors(path)
    about = _about(texts, path)
    try:
        cls = space_class or _registered(SPACES, about["space"]["name"], path)
        space = from_plain(cls, about["space"]["settings"])
        of_predictor = about["predictor"]
        predictor = from_plain(
            _registered(PREDICTORS, of_predictor["name"], path),
            of_predictor["settings"],
        )
        choice = architecture_from_json(space, json.dumps(about["architecture"]))
        architecture = Architecture(jnp.asarray(choice))
        like = jax.eval_shape(
            lambda: gather(space.init(jax.random.key(0)), space.rows(architecture))
        )
        params = _tree(like, arrays, _PARAMS)
        like = predictor.statistics_form(space, like, architecture)
        statistics = _tree(like, arrays, _STATISTICS)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not hold together: {printable(str(error))}. Run again the "
            "training that wrote it, or restore it from a copy."
        ) from error
    return Model(
        space, choice, predictor, params, statistics, about["metrics"], path.absolute()
    )


def _registered(registry: Registry, name: Any, path: Path) -> Any:
    """A part by its registered name; not by an import path, which runs a module."""
    if not isinstance(name, str) or name not in list(registry):
        raise UserError(
            f"{path} is a model of {shorten(name)}, which is not one of "
            f"{sorted(registry)}. Install the package that registers it, or pass its "
            "class: wpl_jax.load(path, space=CLASS)."
        )
    return registry[name]


def _tree(like: Any, arrays: Mapping[str, np.ndarray], prefix: str) -> Any:
    """Arrays at their places in a tree of shapes."""

    def take(path: Any, leaf: Any) -> jax.Array:
        name = prefix + path
        found = arrays[name]
        if found.shape != leaf.shape:
            raise ValueError(f"{name} has shape {found.shape}, expected {leaf.shape}")
        return jnp.asarray(found, leaf.dtype)

    leaves = [take(name, leaf) for name, leaf in leaves_by_path(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
