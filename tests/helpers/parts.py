"""Parts of a search, from configurations or from settings in one flat dict."""

import functools

from wpl_jax.devices.parallel import ONE_DEVICE
from wpl_jax.engine.optimizers import OPTIMIZERS
from wpl_jax.jobs.build import build_chosen
from wpl_jax.jobs.open_task import open_task
from wpl_jax.protections import PENALTIES
from wpl_jax.protections.estimators import ESTIMATORS
from wpl_jax.strategies import STRATEGIES

protection_of = functools.partial(build_chosen, PENALTIES, path="penalty")
optimizer_of = functools.partial(build_chosen, OPTIMIZERS, path="optimizer")


def strategy_of(config, space):
    return build_chosen(STRATEGIES, config, "strategy", space=space)


def load_task(config, devices=ONE_DEVICE, cache=None):
    """The task, its data on devices, and the line about the data."""
    opened = open_task(config, cache)
    return opened.task, opened.put(devices), opened.about


def make_protection(name="wpl", **settings):
    """A penalty without anything that changes the Fisher, but for settings.

    Those of the estimator are among them.
    """
    cls = PENALTIES[name]
    own = {"normalize": "none", "start_epoch": 5, "flush_every": 3} | settings
    if name in ("wpl", "ewc"):
        estimator = ESTIMATORS[own.pop("estimator", "batch")]
        fields = estimator.__dataclass_fields__
        own["estimator"] = estimator(
            **{n: own.pop(n) for n in list(own) if n in fields}
        )
    return cls(**own)
