"""Methods of weight sharing on NAS-Bench-201's space, at a size for a CPU.

    python launch.py --config=configs/methods_nb201_small.py \
        --workdir=runs/methods --config.task.data.path=PATH/cifar10
    wpl-jax-compare --out=runs/comparison runs/methods

Each arm is a method. The settings of its architecture weights are those of its paper.
All arms train the shared weights on the same 10,000 images of 16x16 with the same
optimizer. Methods that need a validation batch in each step take it from the validation
images: those of the data, or else 10,000 others that are held out. Methods that train
mixtures have 8 epochs of 312 steps. Methods that train single paths have 24, as such a
step takes about a third of the time. Their learning rate is .05 instead of .2: with the
latter, and with .1, the children of random search have higher validation errors (seed
100, 4 epochs). ``--mode=time`` finds the epochs of equal times on your machine;
``--config.arms.NAME.search.epochs`` changes the schedules of the arm as well. This
selects some of the arms: ``--config=configs/methods_nb201_small.py:darts,gaea_darts``.
"""

import functools
from typing import Any

from ml_collections import ConfigDict, config_dict

from wpl_jax.configs import gaea_nb201_small
from wpl_jax.jobs.build import choice
from wpl_jax.strategies import STRATEGIES

_OF_MIXTURES, _OF_PATHS = 8, 24  # epochs
# Settings of an arm that are numbers of epochs of the whole search.
_SCHEDULES = (
    "optimizer.sgd.cosine.period",
    "optimizer.separate_momentum.complexity.epochs",
    "strategy.differentiable.temperature_epochs",
    "strategy.pada.epochs",
)
_NAO = {
    "pool": 200,
    "every": 4,
    "updates": 300,
    "score_batches": 8,
    "target": "reward",
    "held_out": 0.2,
    "seeds": 50,
    "new": 40,
    "random": 10,
    "networks": {
        "embedding": 16,
        "hidden": 32,
        "layers": 2,
        "units": 64,
        "batch_size": 50,
    },
}


def get_config(methods: str = "") -> ConfigDict:
    """The settings of all methods, or of some.

    Args:
      methods: Names of arms with commas between them; all if empty.
    """
    config = gaea_nb201_small.get_config()
    config.num_seeds = 5
    config.search.epochs = _OF_MIXTURES
    config.optimizer.sgd.cosine.period = _OF_MIXTURES
    # The selection of strategies that propose many architectures.
    candidates = {"proposed": 100, "screen_batches": 8, "keep": 10, "judge_batches": 50}
    of_paths = choice(
        STRATEGIES,
        "enas",
        enas={"steps": 100, "learning_rate": 1e-3, "candidates": candidates},
        nao={"candidates": candidates, **_NAO},
        random={"candidates": candidates},
    )
    for name in ("enas", "nao", "random"):
        config.strategy[name] = of_paths[name]
    known = _arms()
    chosen = methods.split(",") if methods else list(known)
    for name in chosen:
        if name not in known:
            raise ValueError(f"{name!r} is not a method. Known are {', '.join(known)}.")
    config.arms = ConfigDict({name: known[name] for name in chosen})
    for arm in config.arms.values():
        tie_epochs(arm)
    config.main_arm = chosen[0]
    return config


def _arms() -> dict[str, dict[str, Any]]:
    """What each method changes, by its name."""
    exponentiated = {"optimizer": "exponentiated_gradient"}
    adam, one_pass = {"optimizer": "adam"}, {"split": "train", "shared_pass": True}
    # A child is trained on few batches.
    children = {"children": 104, "batches": 3, "eval_batches": 1}
    # A quarter of the channels, weights of edges.
    partial = {"channel_parts": 4, "edge_weights": True}
    # The temperature falls over all epochs.
    gumbel = {"relaxation": "gumbel", "temperature_epochs": _OF_PATHS}
    return {
        "rs_ws": _paths({"name": "random"}, children),
        "enas": _paths({"name": "enas"}, children),
        "nao": _paths({"name": "nao"}, {**children, "learn_per_call": 100}),
        "darts": _mixtures(adam),
        "darts_with_none": _mixtures(adam, {"exclude_none": False}),
        "darts_second_order": _mixtures({**adam, "order": "second"}),
        "darts_single_level": _mixtures({**adam, **one_pass}),
        "gdas": _paths(_by_gradients({**adam, **gumbel})),
        "pc_darts": _mixtures(
            {**adam, "adam": {"learning_rate": 6e-4}, "warmup": 2}, partial
        ),
        "drnas": _mixtures({"optimizer": "dirichlet"}),
        "gaea_darts": _mixtures({**exponentiated, **one_pass}),
        "gaea_darts_bilevel": _mixtures(exponentiated),
        "gaea_gdas": _paths(
            _by_gradients(
                {
                    **exponentiated,
                    **gumbel,
                    "exponentiated_gradient": {"learning_rate": 0.01},
                    "warmup": 5,
                    "entropy_weight": 0.01,
                }
            )
        ),
        "gaea_pc_darts": _mixtures(exponentiated, partial),
    }


def tie_epochs(arm: ConfigDict) -> None:
    """Makes the schedules of an arm as long as its search, whatever a flag says."""
    epochs = config_dict.FieldReference(arm.search.epochs)
    arm.search.epochs = epochs
    for path in _SCHEDULES:
        *sections, name = path.split(".")
        section = functools.reduce(lambda s, n: s.get(n, {}), sections, arm)
        if name in section:
            section[name] = epochs


def _by_gradients(settings: dict[str, Any]) -> dict[str, Any]:
    """A strategy that trains architecture weights on validation batches, by default."""
    settings = {"split": "valid", "shared_pass": False, **settings}
    return {"name": "differentiable", "differentiable": settings}


def _mixtures(
    settings: dict[str, Any], space: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A method that trains mixtures."""
    of_space = {"space": {"nasbench201": space}} if space else {}
    return {
        "penalty": {"name": "none"},
        "strategy": _by_gradients(settings),
        "search": {"epochs": _OF_MIXTURES},
        "optimizer": {"sgd": {"cosine": {"period": _OF_MIXTURES}}},
        **of_space,
    }


def _paths(
    strategy: dict[str, Any], search: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A method that trains one path at a time; GDAS draws a new one for each batch."""
    return {
        "penalty": {"name": "none"},
        "strategy": strategy,
        "search": {"epochs": _OF_PATHS, **(search or {})},
        "optimizer": {"sgd": {"learning_rate": 0.05, "cosine": {"period": _OF_PATHS}}},
    }
