"""Architecture search with shared weights that do not forget, in JAX.

Names are imported when they are first used: ``import wpl_jax`` takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wpl_jax.calibration import Calibration as Calibration
    from wpl_jax.calibration import calibrate as calibrate
    from wpl_jax.continual import remember as remember
    from wpl_jax.continual import set_alpha as set_alpha
    from wpl_jax.continual import with_plasticity as with_plasticity
    from wpl_jax.fisher import batch_fisher as batch_fisher
    from wpl_jax.fisher import clip_norm as clip_norm
    from wpl_jax.fisher import exact_fisher as exact_fisher
    from wpl_jax.fisher import explain_per_example as explain_per_example
    from wpl_jax.fisher import fisher_of_batches as fisher_of_batches
    from wpl_jax.fisher import flush as flush
    from wpl_jax.fisher import ggn_diagonal as ggn_diagonal
    from wpl_jax.fisher import memory_aware_synapses as memory_aware_synapses
    from wpl_jax.fisher import normalize as normalize
    from wpl_jax.fisher import per_example_fisher as per_example_fisher
    from wpl_jax.fisher import reversed_cross_entropy as reversed_cross_entropy
    from wpl_jax.fisher import sample_class as sample_class
    from wpl_jax.fisher import square as square
    from wpl_jax.fisher import trained_only as trained_only
    from wpl_jax.fisher import update_average as update_average
    from wpl_jax.jobs.python import Found as Found
    from wpl_jax.jobs.python import run as run
    from wpl_jax.jobs.python_retrain import retrain as retrain
    from wpl_jax.models.export import export as export
    from wpl_jax.models.files import load as load
    from wpl_jax.models.model import Model as Model
    from wpl_jax.penalty import WeightPlasticityState as WeightPlasticityState
    from wpl_jax.penalty import accumulate as accumulate
    from wpl_jax.penalty import consolidate as consolidate
    from wpl_jax.penalty import moving_average as moving_average
    from wpl_jax.penalty import online as online
    from wpl_jax.penalty import penalty_value as penalty_value
    from wpl_jax.penalty import plasticity_states as plasticity_states
    from wpl_jax.penalty import proximal_weight_plasticity as proximal_weight_plasticity
    from wpl_jax.penalty import replace as replace
    from wpl_jax.penalty import weight_plasticity as weight_plasticity
    from wpl_jax.protections.orthogonal_gradients import (
        OrthogonalGradientsState as OrthogonalGradientsState,
    )
    from wpl_jax.protections.orthogonal_gradients import (
        orthogonal_gradients as orthogonal_gradients,
    )
    from wpl_jax.protections.orthogonal_gradients import (
        remember_gradients as remember_gradients,
    )
    from wpl_jax.runs.importance import Importance as Importance
    from wpl_jax.runs.importance import fingerprint as fingerprint
    from wpl_jax.runs.importance import load_importance as load_importance
    from wpl_jax.runs.importance import save_importance as save_importance
    from wpl_jax.spaces.choices.choice import choice as choice
    from wpl_jax.spaces.choices.choice import choice_of_inputs as choice_of_inputs
    from wpl_jax.spaces.choices.choice import fixed_choices as fixed_choices
    from wpl_jax.spaces.choices.examples import space as space
    from wpl_jax.spaces.choices.space import space_of as space_of
    from wpl_jax.strategies.exponentiated_gradient import (
        exponentiated_gradient as exponentiated_gradient,
    )
    from wpl_jax.tasks.array_task import task as task

__version__ = "0.1.0"

# Where each public name is defined.
_MODULES = {
    "Calibration": "wpl_jax.calibration",
    "Found": "wpl_jax.jobs.python",
    "Importance": "wpl_jax.runs.importance",
    "Model": "wpl_jax.models.model",
    "OrthogonalGradientsState": "wpl_jax.protections.orthogonal_gradients",
    "WeightPlasticityState": "wpl_jax.penalty",
    "accumulate": "wpl_jax.penalty",
    "batch_fisher": "wpl_jax.fisher",
    "calibrate": "wpl_jax.calibration",
    "choice": "wpl_jax.spaces.choices.choice",
    "choice_of_inputs": "wpl_jax.spaces.choices.choice",
    "clip_norm": "wpl_jax.fisher",
    "consolidate": "wpl_jax.penalty",
    "exact_fisher": "wpl_jax.fisher",
    "explain_per_example": "wpl_jax.fisher",
    "exponentiated_gradient": "wpl_jax.strategies.exponentiated_gradient",
    "export": "wpl_jax.models.export",
    "fingerprint": "wpl_jax.runs.importance",
    "fisher_of_batches": "wpl_jax.fisher",
    "fixed_choices": "wpl_jax.spaces.choices.choice",
    "flush": "wpl_jax.fisher",
    "ggn_diagonal": "wpl_jax.fisher",
    "load": "wpl_jax.models.files",
    "load_importance": "wpl_jax.runs.importance",
    "memory_aware_synapses": "wpl_jax.fisher",
    "moving_average": "wpl_jax.penalty",
    "normalize": "wpl_jax.fisher",
    "online": "wpl_jax.penalty",
    "orthogonal_gradients": "wpl_jax.protections.orthogonal_gradients",
    "penalty_value": "wpl_jax.penalty",
    "per_example_fisher": "wpl_jax.fisher",
    "plasticity_states": "wpl_jax.penalty",
    "proximal_weight_plasticity": "wpl_jax.penalty",
    "remember": "wpl_jax.continual",
    "remember_gradients": "wpl_jax.protections.orthogonal_gradients",
    "replace": "wpl_jax.penalty",
    "retrain": "wpl_jax.jobs.python_retrain",
    "reversed_cross_entropy": "wpl_jax.fisher",
    "run": "wpl_jax.jobs.python",
    "sample_class": "wpl_jax.fisher",
    "save_importance": "wpl_jax.runs.importance",
    "set_alpha": "wpl_jax.continual",
    "space": "wpl_jax.spaces.choices.examples",
    "space_of": "wpl_jax.spaces.choices.space",
    "square": "wpl_jax.fisher",
    "task": "wpl_jax.tasks.array_task",
    "trained_only": "wpl_jax.fisher",
    "update_average": "wpl_jax.fisher",
    "weight_plasticity": "wpl_jax.penalty",
    "with_plasticity": "wpl_jax.continual",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Imports a public name from its module, and no other module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    """Public names, of which some may not have been imported yet."""
    return sorted({*globals(), *__all__})
