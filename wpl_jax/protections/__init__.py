"""Protections against forgetting, by the names in ``PENALTIES``."""

from wpl_jax.common.registry import Registry
from wpl_jax.protections.protection import NoProtection as NoProtection
from wpl_jax.protections.protection import Protection as Protection

# By name: dataclasses with the methods of :class:`Protection`.
PENALTIES = Registry(
    "wpl_jax.penalties",
    {
        "none": NoProtection,
        "nsas": "wpl_jax.protections.nsas:Nsas",
        "orthogonal": "wpl_jax.protections.orthogonal:Orthogonal",
        "replay": "wpl_jax.protections.replay:Replay",
        "l2": "wpl_jax.protections.quadratic:L2",
        "ewc": "wpl_jax.protections.quadratic:ElasticWeightConsolidation",
        "wpl": "wpl_jax.protections.quadratic:WeightPlasticity",
        "wpl_replay": "wpl_jax.protections.wpl_replay:WplReplay",
    },
)
