"""The arms of a two-model run: which settings a configuration asks for."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from ml_collections import ConfigDict

from wpl_jax.common.config_fields import (
    MOST_OF_A_CALL,
    check_seed,
    get_field,
    require,
    require_choice,
    require_choices,
    require_int,
    require_names,
    require_number,
    require_numbers,
)
from wpl_jax.two_models.experiment import (
    ACTIVATIONS,
    FORMS,
    IMPORTANCES,
    NORMALIZATIONS,
)

_MOST_LAYERS = 100  # of a model: tracing takes time in proportion
_MAIN = ("stop", "shared", "penalty", "form", "normalize")  # fields of config.main
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
        require_int(config, field, 1)
    check_seed(config)
    require_choice(config, "activation", ACTIVATIONS)
    require_int(config, "layers_a", 2, most=_MOST_LAYERS)
    least = config.layers_a
    require_int(
        config, "layers_b", least, "layers_a, which it shares", most=_MOST_LAYERS
    )
    for model in ("model_a", "model_b"):
        require_number(config, f"{model}.learning_rate", above=0)
        require_int(config, f"{model}.steps", 1, "in one call", most=MOST_OF_A_CALL)
    require_int(config, "eval_examples", 1)
    require_int(config, "model_b.eval_every", 1)
    require(
        config.model_b.steps % config.model_b.eval_every == 0,
        config,
        "model_b.eval_every",
        f"a divisor of model_b.steps ({config.model_b.steps})",
    )
    require_numbers(config, "stops", above=0, below=1)
    require_number(config, "keep", least=0, most=1)
    require_number(config, "checkpoint_seconds", least=0)
    arms: dict[Arm, None] = {}
    require_names(config, "studies")
    for name in config.studies:
        arms.update(dict.fromkeys(_study_arms(config, name)))
    get_field(config, "data.format")
    main = {name: get_field(config, f"main.{name}") for name in _MAIN}
    require(
        any({**arm._asdict(), **main} == arm._asdict() for arm in arms),
        config,
        "main",
        "a combination that one of the studies runs",
    )
    return list(arms)


def _study_arms(config: ConfigDict, name: str) -> Iterator[Arm]:
    """The product of a study's lists, and beside it no penalty."""
    path, study = f"studies.{name}", config.studies[name]
    require_choices(config, f"{path}.penalties", set(IMPORTANCES) - {"none"})
    require_choices(config, f"{path}.forms", FORMS)
    require_choice(config, f"{path}.normalize", NORMALIZATIONS)
    require_choices(config, f"{path}.stops", {*config.stops, CONVERGED})
    require_choices(config, f"{path}.shared", range(1, config.layers_a + 1))
    require_numbers(config, f"{path}.alphas", above=0)
    require(len(study.alphas) > 0, config, f"{path}.alphas", "at least one number")
    for stop, shared in itertools.product(study.stops, study.shared):
        yield Arm(stop, shared, "none", "explicit", "none", 0.0)
        for penalty, form, alpha in itertools.product(
            study.penalties, study.forms, study.alphas
        ):
            yield Arm(stop, shared, penalty, form, study.normalize, alpha)
