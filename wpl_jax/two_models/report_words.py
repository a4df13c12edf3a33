"""Names and cells of tables that the parts of the report share."""

import numpy as np

from wpl_jax.two_models.analysis import standard_error
from wpl_jax.two_models.arms import CONVERGED
from wpl_jax.two_models.rules import Chosen, Rule

NAMES = {
    "none": "no penalty",
    "frozen": "frozen layers",
    "l2": "L2 to the anchor (F = 1)",
    "ewc": "EWC (per-example Fisher, labels from the model)",
    "wpl_batch": "WPL, batch Fisher",
    "wpl": "WPL, per-example Fisher",
}


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
