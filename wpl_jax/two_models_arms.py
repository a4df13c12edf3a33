"""The arms of a two-model run: which settings a configuration asks for."""

import itertools
import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from wpl_jax.errors import ConfigError
from wpl_jax.two_models import ACTIVATIONS, FORMS, IMPORTANCES, NORMALIZATIONS

CONVERGED = 1.0  # An accuracy at which no training is stopped early.


class Arm(NamedTuple):
    """One training of B."""

    stop: float  # accuracy at which A was stopped, or CONVERGED
    shared: int  # layers of A that are shared
    penalty: str  # a name in IMPORTANCES
    form: str  # a name in FORMS
    normalize: str  # a name in NORMALIZATIONS
    alpha: float


def check(config: ConfigDict) -> list[Arm]:
    """Checks a configuration, and lists its arms.

    Args:
      config: As ``configs/two_models_mnist.py`` gives it.

    Returns:
      The arms in the order in which they run, without repetitions.

    Raises:
      ConfigError: Naming the field, what it holds and what it should.
    """
    for field in ("num_seeds", "hidden", "batch_size", "fisher_examples"):
        _require_int(config, field, 1)
    _require_int(config, "seed", 0)
    _require_choice(config, "activation", ACTIVATIONS)
    _require_int(config, "layers_a", 2)
    _require_int(config, "layers_b", config.layers_a, "layers_a, which it shares")
    for model in ("model_a", "model_b"):
        _require_number(config, f"{model}.learning_rate", above=0)
        _require_int(config, f"{model}.steps", 1)
    _require_int(config, "eval_examples", 1)
    _require_int(config, "model_b.eval_every", 1)
    _require(
        config.model_b.steps % config.model_b.eval_every == 0,
        config,
        "model_b.eval_every",
        f"a divisor of model_b.steps ({config.model_b.steps})",
    )
    _require_number(config, "stops", above=0, below=1)
    _require_number(config, "keep", least=0, most=1)
    _require_number(config, "checkpoint_seconds", least=0)
    arms: dict[Arm, None] = {}
    for name in _get(config, "studies"):
        arms.update(dict.fromkeys(_study_arms(config, name)))
    main = _get(config, "main").to_dict()
    _require(
        any({**arm._asdict(), **main} == arm._asdict() for arm in arms),
        config,
        "main",
        "a combination that one of the studies runs",
    )
    return list(arms)


def _study_arms(config: ConfigDict, name: str) -> Iterator[Arm]:
    """The product of a study's lists, and beside it no penalty."""
    path, study = f"studies.{name}", config.studies[name]
    _require_choices(config, f"{path}.penalties", set(IMPORTANCES) - {"none"})
    _require_choices(config, f"{path}.forms", FORMS)
    _require_choice(config, f"{path}.normalize", NORMALIZATIONS)
    _require_choices(config, f"{path}.stops", {*config.stops, CONVERGED})
    _require_choices(config, f"{path}.shared", range(1, config.layers_a + 1))
    _require_number(config, f"{path}.alphas", above=0)
    _require(len(study.alphas) > 0, config, f"{path}.alphas", "at least one number")
    for stop, shared in itertools.product(study.stops, study.shared):
        yield Arm(stop, shared, "none", "explicit", "none", 0.0)
        for penalty, form, alpha in itertools.product(
            study.penalties, study.forms, study.alphas
        ):
            yield Arm(stop, shared, penalty, form, study.normalize, alpha)


def _require(valid: bool, config: ConfigDict, field: str, expected: str) -> None:
    if valid:
        return
    value = _get(config, field)
    flag = f"--config.{field}=VALUE"
    if isinstance(value, ConfigDict):
        value, flag = value.to_dict(), f"--config.{field}.NAME=VALUE"
    raise ConfigError(
        f"config.{field} is {value!r}, expected {expected}. Mend the config file, or "
        f"pass {flag}."
    )


def _require_int(config: ConfigDict, field: str, least: int, why: str = "") -> None:
    value = _get(config, field)
    valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
    because = f" ({why})" if why else ""
    _require(valid, config, field, f"a whole number of at least {least}{because}")


def _require_number(
    config: ConfigDict,
    field: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Requires a finite number within bounds, or a tuple of them."""
    value = _get(config, field)
    values = value if isinstance(value, list | tuple) else (value,)
    valid = all(
        isinstance(x, int | float) and least <= x <= most and above < x < below
        for x in values
    )
    bounds = {"at least": least, "at most": most, "above": above, "below": below}
    told = " and ".join(
        f"{words} {bound:g}" for words, bound in bounds.items() if math.isfinite(bound)
    )
    kind = "numbers" if isinstance(value, list | tuple) else "a number"
    _require(valid, config, field, f"{kind} {told}")


def _require_choice(config: ConfigDict, field: str, known: Collection[Any]) -> None:
    value = _get(config, field)
    valid = not isinstance(value, list | tuple) and value in known
    _require(valid, config, field, f"one of {sorted(known)}")


def _require_choices(config: ConfigDict, field: str, known: Collection[Any]) -> None:
    values = _get(config, field)
    valid = (
        isinstance(values, list | tuple)
        and len(values) > 0
        and all(value in known for value in values)
    )
    _require(valid, config, field, f"some of {sorted(known)}")


def _get(config: ConfigDict, field: str) -> Any:
    value: Any = config
    for name in field.split("."):
        if not isinstance(value, ConfigDict) or name not in value:
            raise ConfigError(
                f"config.{field} is missing. Start from a file in configs/, which has "
                "every field."
            )
        value = value[name]
    return value
