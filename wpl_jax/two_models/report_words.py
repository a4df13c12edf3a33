"""Names and cells of tables that the parts of the report share."""

import numpy as np

from wpl_jax.two_models.analysis import standard_error
from wpl_jax.two_models.arms import CONVERGED
from wpl_jax.two_models.penalties import PENALTIES
from wpl_jax.two_models.rules import Chosen, Rule


def title_of(penalty: str) -> str:
    """What a penalty is called."""
    return PENALTIES[penalty].title


def rules_of(config: dict) -> dict[str, Rule]:
    """The rules of a configuration, JSON-like, by name."""
    return {name: Rule(**rule) for name, rule in config["rules"].items()}


def stop_name(stop: float) -> str:
    """When A's training ended."""
    return "converged" if stop == CONVERGED else f"stopped at {stop:.0%}"


def mean_cell(values: np.ndarray) -> str:
    """Mean and standard deviation over seeds."""
    return f"{values.mean():.3f} ± {values.std():.3f}"


def alpha_cell(found: Chosen) -> str:
    """Alpha, with an asterisk where it breaks the rule."""
    return f"{found.chosen.alpha:g}{'' if found.within else '*'}"


def reduction_cell(found: Chosen) -> str:
    """The relative reduction with its error, or how little A forgot."""
    if found.reduction is None:
        lost = found.without.lost_test
        return f"did not forget ({lost.mean():.3f} ± {standard_error(lost):.3f})"
    value, error = found.reduction
    return f"{value:.1%} ± {error:.1%}"
