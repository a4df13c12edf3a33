"""Is it worth not to forget? Methods against forgetting on NAS-Bench-201.

    python launch.py --config=configs/study_nb201.py --workdir=runs/study \
        --config.task.data.path=PATH/cifar10
    python launch.py --config=configs/study_nb201.py --workdir=runs/study \
        --config.task.data.path=PATH/cifar10 --mode=rank

docs/study.md has the question, the comparisons that were fixed before the runs, and the
results. Each arm is a method, here with 96 epochs. The calibrated settings and the
epochs that take equally long are in the commands of that page. After a colon stands a
group of arms, or some arms with commas between them:
``--config=configs/study_nb201.py:batches``, ``:enas``, ``:none,wpl``. The group
``calibration`` has three values of one setting of each method; docs/study.md has its
command.
"""

from typing import Any

from ml_collections import ConfigDict

from wpl_jax.configs import enas_cnn_cifar10, gaea_nb201_small
from wpl_jax.configs.methods_nb201_small import tie_epochs
from wpl_jax.engine.optimizers import OPTIMIZERS
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.jobs.build import choice, settings
from wpl_jax.strategies import STRATEGIES

_EPOCHS = 96  # of a method without a penalty
_CHILDREN, _BATCHES = 45, 7  # 315 steps an epoch; 5 children may be trained together


def get_config(which: str = "methods") -> ConfigDict:
    """The settings of a group of arms, or of some arms.

    Args:
      which: A name in ``GROUPS``, or names of arms with commas between them.
    """
    config = gaea_nb201_small.get_config()
    config.num_seeds = 10
    # Nothing is retrained: the settings are those that its runs began with.
    config.retrain = enas_cnn_cifar10.get_config().retrain
    config.retrain.epochs, config.retrain.space = 0, ConfigDict()
    config.space.nasbench201.exclude_none = False
    config.space.nasbench201.channels = 4
    config.strategy = choice(
        STRATEGIES,
        "random",
        random={"candidates": _CANDIDATES},
        enas={"steps": 100, "learning_rate": 1e-3, "candidates": _CANDIDATES},
        pada={"candidates": _CANDIDATES},
    )
    config.search.children, config.search.batches = _CHILDREN, _BATCHES
    config.search.eval_batches = 2  # 64 images
    config.optimizer.sgd.learning_rate = 0.05
    separate: dict[str, Any] = {"learning_rate": 0.05, "schedule": "complexity"}
    separate |= {"clip_norm": 5.0, "weight_decay": 3e-4, "decision": "edge_0_1"}
    config.optimizer.separate_momentum = choice(
        OPTIMIZERS, "separate_momentum", separate_momentum=separate
    ).separate_momentum
    config.ranking = settings(
        Ranking,
        which="sample",
        architectures=1000,
        batches=32,  # 1,024 images; on 256, tau depends on which they are
        top=0.05,
        bootstrap=200,
        truth="table",
        table={"data_set": "cifar10", "split": "test"},
    )
    every = {name: arm for group in GROUPS.values() for name, arm in group().items()}
    names = GROUPS[which]() if which in GROUPS else which.split(",")
    for name in names:
        if name not in every:
            known = ", ".join((*GROUPS, *every))
            raise ValueError(f"{name!r} is no arm or group. Known are {known}.")
    config.arms = ConfigDict({name: every[name] for name in names})
    for arm in config.arms.values():
        tie_epochs(arm)
    config.main_arm = next(iter(config.arms))
    return config


_CANDIDATES = {"proposed": 1000, "screen_batches": 4, "keep": 20, "judge_batches": 100}


def _methods() -> dict[str, dict[str, Any]]:
    """Methods with uniform sampling, and those that sample otherwise."""
    together = {"search": {"children_per_step": 5}}
    reptile = {"search": {"children_per_step": 5, "update_rule": "reptile"}}
    return {
        "none": _arm(),
        "slower": _arm({"optimizer": {"sgd": {"learning_rate": 0.025}}}),
        "l2": _penalized("l2", strength=1.0),
        "ewc": _penalized("ewc", strength=0.01),
        "wpl": _penalized("wpl", strength=1.0),
        "wpl_batch": _penalized("wpl", strength=1.0, estimator="batch"),
        "wpl_average": _penalized("wpl", strength=1.0, anchor_decay=0.9),
        "wpl_replay": _penalized("wpl_replay", strength=1.0),
        "replay": _penalized("replay"),
        "nsas": _penalized("nsas"),
        "orthogonal": _penalized("orthogonal", start_epoch=0),
        "classes": _arm(_sampled("classes")),
        "fair": _arm(_sampled("fair"), together),
        "sumnas": _arm(_sampled("fair"), reptile),
        "pada": _arm({"strategy": {"name": "pada", "pada": {"epochs": _EPOCHS}}}),
        "calr_ms": _calr_ms(),
        "ensemble": _arm({"search": {"average_epochs": 5}}),
    }


def _enas() -> dict[str, dict[str, Any]]:
    """A controller that learns from rewards, with penalties and without."""
    enas = {"strategy": {"name": "enas"}}
    found = _methods()
    return {f"enas_{name}": _arm(enas, found[name]) for name in ("none", "l2", "wpl")}


def _batches() -> dict[str, dict[str, Any]]:
    """Children that are trained on one batch, and on 30, as many in all."""
    found = {}
    for batches, eval_batches in ((1, 1), (30, 8)):
        children = _CHILDREN * _BATCHES // batches
        lengths = {"children": children, "batches": batches}
        lengths["eval_batches"] = eval_batches
        for name in ("none", "l2", "wpl"):
            arm = _arm({"search": lengths}, _methods()[name])
            found[f"{name}_{batches}"] = arm
    return found


# The setting of each method that is chosen, and the values that are tried.
_STRENGTHS = (0.03, 0.1, 0.3)
_TRIALS: dict[str, tuple[str, tuple[float, ...]]] = {
    "none": ("optimizer.sgd.learning_rate", (0.025, 0.05, 0.1)),
    "l2": ("penalty.l2.strength", _STRENGTHS),
    "ewc": ("penalty.ewc.strength", _STRENGTHS),
    "wpl": ("penalty.wpl.strength", _STRENGTHS),
    "wpl_batch": ("penalty.wpl.strength", _STRENGTHS),
    "wpl_average": ("penalty.wpl.strength", _STRENGTHS),
    "wpl_replay": ("penalty.wpl_replay.strength", _STRENGTHS),
    "replay": ("penalty.replay.share", (0.1, 0.25, 0.5)),
    "nsas": ("penalty.nsas.share", (0.1, 0.25, 0.5)),
    "orthogonal": ("penalty.orthogonal.directions", (1, 4, 16)),
    "classes": ("optimizer.sgd.learning_rate", (0.025, 0.05, 0.1)),
    "fair": ("optimizer.sgd.learning_rate", (0.025, 0.05, 0.1)),
    "sumnas": ("search.reptile.rate", (0.3, 0.6, 1.0)),
    "pada": ("strategy.pada.rate", (0.25, 0.5, 0.75)),
    "calr_ms": ("optimizer.separate_momentum.complexity.omega", (-0.25, -0.5, -1.0)),
    "ensemble": ("search.average_epochs", (3, 5, 10)),
}


def _calibration() -> dict[str, dict[str, Any]]:
    """Three values of one setting of each method, in a third of the epochs."""
    found, third = {}, {"search": {"epochs": _EPOCHS // 3}}
    for name, (path, values) in _TRIALS.items():
        *sections, setting = path.split(".")
        for place, value in zip(("low", "middle", "high"), values, strict=True):
            change: dict[str, Any] = {setting: value}
            for section in reversed(sections):
                change = {section: change}
            found[f"{name}_{place}"] = _arm(_methods()[name], change, third)
    return found


GROUPS = {
    "methods": _methods,
    "enas": _enas,
    "batches": _batches,
    "calibration": _calibration,
}


def _penalized(name: str, **settings_of_penalty: Any) -> dict[str, Any]:
    return _arm({"penalty": {"name": name, name: settings_of_penalty}})


def _sampled(sampler: str) -> dict[str, Any]:
    return {"strategy": {"name": "random", "random": {"sampler": sampler}}}


def _calr_ms() -> dict[str, Any]:
    """Rates by complexity, momenta by the first decision."""
    arm = _arm()
    complexity = {"complexity": {"epochs": _EPOCHS}}
    arm["optimizer"] = {"name": "separate_momentum", "separate_momentum": complexity}
    return arm


def _arm(*changes: dict[str, Any]) -> dict[str, Any]:
    """The changes of an arm, which has no penalty unless they say otherwise."""
    arm = ConfigDict(
        {
            "penalty": {"name": "none"},
            "search": {"epochs": _EPOCHS},
            "optimizer": {"sgd": {"cosine": {"period": _EPOCHS}}},
        }
    )
    for change in changes:
        arm.update(change)
    return arm.to_dict()
