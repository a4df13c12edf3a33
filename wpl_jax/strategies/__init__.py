"""Search strategies, by the names in ``STRATEGIES``."""

from wpl_jax.common.registry import Registry
from wpl_jax.strategies.strategy import Strategy as Strategy

# By name: dataclasses whose first field, ``space``, the task gives.
STRATEGIES = Registry(
    "wpl_jax.strategies",
    {
        "differentiable": "wpl_jax.strategies.differentiable:Differentiable",
        "enas": "wpl_jax.strategies.enas:Enas",
        "nao": "wpl_jax.strategies.nao:Nao",
        "pada": "wpl_jax.strategies.path_importance:PathImportance",
        "random": "wpl_jax.strategies.random_search:RandomSearch",
    },
)
