"""Architecture search with shared weights that do not forget, in JAX."""

from wpl_jax.fisher import (
    batch_fisher,
    clip_norm,
    explain_per_example,
    flush,
    normalize,
    per_example_fisher,
    sample_class,
    square,
    update_average,
)
from wpl_jax.penalty import (
    WeightPlasticityState,
    accumulate,
    consolidate,
    online,
    penalty_value,
    plasticity_states,
    proximal_weight_plasticity,
    replace,
    weight_plasticity,
)

__version__ = "0.1.0"

__all__ = [
    "WeightPlasticityState",
    "accumulate",
    "batch_fisher",
    "clip_norm",
    "consolidate",
    "explain_per_example",
    "flush",
    "normalize",
    "online",
    "penalty_value",
    "per_example_fisher",
    "plasticity_states",
    "proximal_weight_plasticity",
    "replace",
    "sample_class",
    "square",
    "update_average",
    "weight_plasticity",
]
