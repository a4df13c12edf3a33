"""The arms of a two-model run: which settings a configuration asks for."""

import itertools
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from wpl_jax.errors import ConfigError
from wpl_jax.two_models import ACTIVATIONS, FORMS, IMPORTANCES, NORMALIZATIONS

CONVERGED = "converged"


class Arm(NamedTuple):
    """One training of B."""

    stop: float | str  # A's accuracy when it was stopped, or CONVERGED
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
        _require_above(0, config, field)
    _require_one_of(ACTIVATIONS, config, "activation")
    _require(config.layers_a >= 2, config, "layers_a", "at least 2")
    _require(
        config.layers_b >= config.layers_a,
        config,
        "layers_b",
        f"at least layers_a ({config.layers_a}), whose layers it can share",
    )
    for model in ("model_a", "model_b"):
        _require_above(0, config, f"{model}.learning_rate")
        _require_above(0, config, f"{model}.steps")
    _require_above(0, config, "eval_examples")
    _require_above(0, config, "model_b.eval_every")
    _require(
        config.model_b.steps % config.model_b.eval_every == 0,
        config,
        "model_b.eval_every",
        f"a divisor of model_b.steps ({config.model_b.steps})",
    )
    for field in ("keep", "stops"):
        _require(
            all(0 <= share <= 1 for share in _listed(_get(config, field))),
            config,
            field,
            "in [0, 1]",
        )
    _require(config.checkpoint_seconds >= 0, config, "checkpoint_seconds", "at least 0")
    arms: dict[Arm, None] = {}
    for name in config.studies:
        arms.update(dict.fromkeys(_study_arms(config, name)))
    main = config.main.to_dict()
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
    _require_one_of(set(IMPORTANCES) - {"none"}, config, f"{path}.penalties")
    _require_one_of(FORMS, config, f"{path}.forms")
    _require_one_of(NORMALIZATIONS, config, f"{path}.normalize")
    _require_one_of({*config.stops, CONVERGED}, config, f"{path}.stops")
    _require_one_of(range(1, config.layers_a + 1), config, f"{path}.shared")
    _require(
        len(study.alphas) > 0 and all(alpha > 0 for alpha in study.alphas),
        config,
        f"{path}.alphas",
        "numbers above 0 (the arm without a penalty comes by itself)",
    )
    for stop, shared in itertools.product(study.stops, study.shared):
        yield Arm(stop, shared, "none", "explicit", "none", 0.0)
        for penalty, form, alpha in itertools.product(
            study.penalties, study.forms, study.alphas
        ):
            yield Arm(stop, shared, penalty, form, study.normalize, alpha)


def _require(valid: bool, config: ConfigDict, field: str, expected: str) -> None:
    if not valid:
        value = _get(config, field)
        value = value.to_dict() if isinstance(value, ConfigDict) else value
        raise ConfigError(
            f"config.{field} is {value!r}, expected {expected}. Mend the config file, "
            f"or pass --config.{field}=VALUE."
        )


def _require_above(bound: float, config: ConfigDict, field: str) -> None:
    _require(_get(config, field) > bound, config, field, f"a number above {bound}")


def _require_one_of(known: Collection[Any], config: ConfigDict, field: str) -> None:
    values = _listed(_get(config, field))
    _require(
        len(values) > 0 and all(value in known for value in values),
        config,
        field,
        f"among {sorted(known, key=str)}",
    )


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _get(config: ConfigDict, field: str) -> Any:
    for name in field.split("."):
        config = config[name]
    return config
