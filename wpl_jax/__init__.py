"""Architecture search with shared weights that do not forget, in JAX.

Names are imported when they are first used: ``import wpl_jax`` takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wpl_jax.continual import (
        Calibration,
        calibrate,
        remember,
        set_alpha,
        with_plasticity,
    )
    from wpl_jax.fisher import (
        batch_fisher,
        clip_norm,
        exact_fisher,
        explain_per_example,
        fisher_of_batches,
        flush,
        ggn_diagonal,
        memory_aware_synapses,
        normalize,
        per_example_fisher,
        reversed_cross_entropy,
        sample_class,
        square,
        trained_only,
        update_average,
    )
    from wpl_jax.jobs.python import Found, run
    from wpl_jax.jobs.python_retrain import retrain
    from wpl_jax.models.export import export
    from wpl_jax.models.files import load
    from wpl_jax.models.model import Model
    from wpl_jax.penalty import (
        WeightPlasticityState,
        accumulate,
        consolidate,
        moving_average,
        online,
        penalty_value,
        plasticity_states,
        proximal_weight_plasticity,
        replace,
        weight_plasticity,
    )
    from wpl_jax.protections.orthogonal_gradients import (
        OrthogonalGradientsState,
        orthogonal_gradients,
        remember_gradients,
    )
    from wpl_jax.runs.importance import (
        Importance,
        fingerprint,
        load_importance,
        save_importance,
    )
    from wpl_jax.spaces.choices.choice import choice, choice_of_inputs, fixed_choices
    from wpl_jax.spaces.choices.examples import space
    from wpl_jax.spaces.choices.space import space_of
    from wpl_jax.strategies.exponentiated_gradient import exponentiated_gradient
    from wpl_jax.tasks.array_task import task

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "Found",
    "Importance",
    "Model",
    "OrthogonalGradientsState",
    "WeightPlasticityState",
    "accumulate",
    "batch_fisher",
    "calibrate",
    "choice",
    "choice_of_inputs",
    "clip_norm",
    "consolidate",
    "exact_fisher",
    "explain_per_example",
    "exponentiated_gradient",
    "export",
    "fingerprint",
    "fisher_of_batches",
    "fixed_choices",
    "flush",
    "ggn_diagonal",
    "load",
    "load_importance",
    "memory_aware_synapses",
    "moving_average",
    "normalize",
    "online",
    "orthogonal_gradients",
    "penalty_value",
    "per_example_fisher",
    "plasticity_states",
    "proximal_weight_plasticity",
    "remember",
    "remember_gradients",
    "replace",
    "retrain",
    "reversed_cross_entropy",
    "run",
    "sample_class",
    "save_importance",
    "set_alpha",
    "space",
    "space_of",
    "square",
    "task",
    "trained_only",
    "update_average",
    "weight_plasticity",
    "with_plasticity",
]

# What jobs import takes seconds, so their names are looked up last.
_MODULES = (
    "wpl_jax.spaces.choices.choice",
    "wpl_jax.spaces.choices.examples",
    "wpl_jax.spaces.choices.space",
    "wpl_jax.fisher",
    "wpl_jax.penalty",
    "wpl_jax.continual",
    "wpl_jax.protections.orthogonal_gradients",
    "wpl_jax.strategies.exponentiated_gradient",
    "wpl_jax.runs.importance",
    "wpl_jax.tasks.array_task",
    "wpl_jax.models.model",
    "wpl_jax.models.files",
    "wpl_jax.models.export",
    "wpl_jax.jobs.python",
    "wpl_jax.jobs.python_retrain",
)


def __getattr__(name: str) -> Any:
    """Imports a public name from its module."""
    if name in __all__:
        for module in map(importlib.import_module, _MODULES):
            if hasattr(module, name):
                globals()[name] = found = getattr(module, name)
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names, of which some may not have been imported yet."""
    return sorted({*globals(), *__all__})
