"""GAEA on NAS-Bench-201's space at a size for a CPU: from images to an architecture.

    python launch.py --config=configs/gaea_nb201_small.py \
        --workdir=runs/gaea_nb201 --config.task.data.path=PATH/cifar10

Li, Khodak, Balcan, Talwalkar, "Geometry-Aware Gradient Algorithms for Neural
Architecture Search" (ICLR 2021): shared weights and architecture weights are trained on
the same batches (a single level), the latter by exponentiated gradients. One seed, 12
epochs over 10,000 images of 16x16. The same on the digits that scikit-learn contains:
``--config=configs/gaea_nb201_small.py:digits``; and on images of your own, in a folder
for each class:

    python launch.py --config=configs/gaea_nb201_small.py:folder \
        --workdir=runs/own --config.task.data.path=PATH
"""

from ml_collections import ConfigDict, config_dict

from wpl_jax.configs import enas_cnn_cifar10
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.jobs.build import choice, settings
from wpl_jax.spaces import SPACES
from wpl_jax.strategies import STRATEGIES


def get_config(data: str = "cifar10") -> ConfigDict:
    """The paper's method with a smaller network, fewer images and fewer epochs.

    Args:
      data: ``"cifar10"``, ``"digits"`` for the built-in images, or ``"folder"`` for
        images of your own.
    """
    known = ("cifar10", "digits", "folder")
    if data not in known:
        raise ValueError(f"data is {data!r}, expected one of {', '.join(known)}.")
    config = enas_cnn_cifar10.get_config()
    own_ranking = config.ranking  # which needs no table
    config.num_seeds = 1
    config.space = choice(
        SPACES,
        "nasbench201",
        nasbench201={"channels": 8, "cells": 1, "exclude_none": True},
    )
    task = config.task.image_classification
    task.shrink = 2
    task.batch_size = 32
    task.augmentation = ConfigDict({"crop": 2, "flip": True, "cutout": 0})
    task.dropout = 0.0
    config.task.data.train, config.task.data.valid = 10_000, 10_000
    candidates = {"proposed": 100, "screen_batches": 8, "keep": 10, "judge_batches": 50}
    config.strategy = choice(
        STRATEGIES,
        "differentiable",
        differentiable={
            "optimizer": "exponentiated_gradient",
            "exponentiated_gradient": {"learning_rate": 0.1},
            "split": "train",
            "shared_pass": True,
            # One candidate, as all finalists are the same architecture.
            "candidates": {
                "proposed": 1,
                "screen_batches": 1,
                "keep": 1,
                "judge_batches": 50,
            },
        },
        random={"candidates": candidates},
        pada={"candidates": candidates, "epochs": 12},  # those of the search
    )
    # An epoch of the search trains one mixture on one pass over the data.
    config.search.epochs = 12
    config.search.children = 1
    config.search.batches = 312
    config.search.eval_batches = 50
    config.search.learn_per_call = 1
    config.search.checkpoint_seconds = 60.0
    # By the table's validation accuracy, over seeds 100 to 102, 12 epochs at .2 are
    # better than 8 epochs or .1, and than a rate of .3 for the architecture weights.
    config.optimizer.sgd.learning_rate = 0.2
    config.optimizer.sgd.cosine = ConfigDict(
        {"lowest": 0.001, "period": 12, "growth": 1}
    )
    config.optimizer.sgd.nesterov = False
    config.optimizer.sgd.weight_decay = 3e-4
    config.arms = ConfigDict({"none": {"penalty": {"name": "none"}}})
    config.main_arm = "none"
    # For --mode=rank: all architectures on 256 images, compared with the table.
    config.ranking = settings(
        Ranking,
        which="all",
        batches=8,
        top=0.01,
        bootstrap=200,
        truth="table",
        table={"data_set": "cifar10", "split": "test"},
    )
    # What the report advises to train afterwards; on the images of the search, so
    # without the cutout of 16 pixels that larger ones have.
    config.retrain.epochs = 0
    config.retrain.space = config.retrain.task = ConfigDict()
    config.retrain.optimizer = config.optimizer.copy_and_resolve_references()
    config.retrain.optimizer.sgd.learning_rate = 0.1
    config.retrain.optimizer.sgd.weight_decay = 5e-4
    config.retrain.optimizer.sgd.cosine.period = 100
    if data == "folder":
        config.task.data = ConfigDict(
            {
                "format": "folder",
                "path": config_dict.placeholder(str),
                "size": (32, 32),  # to which images are resized, and then halved
                "test": 0.2,  # held out, where the folder has no splits
                "valid": 0.2,
            }
        )
        config.ranking = own_ranking
        # The sizes of the search; a flag may ask for a larger network.
        sizes = {name: config.space.nasbench201[name] for name in ("channels", "cells")}
        config.retrain.space = ConfigDict({"nasbench201": sizes})
        # Few images fill few batches.
        config.search.eval_batches = 1
        for name in ("differentiable", "random", "pada"):
            candidates = config.strategy[name].candidates
            candidates.screen_batches, candidates.judge_batches = 1, None
    if data == "digits":
        config.task.data = ConfigDict({"format": "digits", "valid": 0.2})
        task.shrink = 1
        task.augmentation = ConfigDict({"crop": 1, "flip": False, "cutout": 0})
        config.search.eval_batches = 8
        config.optimizer.sgd.learning_rate = 0.1
        for name in ("differentiable", "random", "pada"):
            config.strategy[name].candidates.judge_batches = 8
    return config
