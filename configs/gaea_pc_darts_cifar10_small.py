"""GAEA PC-DARTS on the cells of DARTS at a size for a CPU: from images to a cell.

    python launch.py --config=configs/gaea_pc_darts_cifar10_small.py \
        --workdir=runs/gaea_pc_darts --config.task.data.path=PATH/cifar10

Li, Khodak, Balcan, Talwalkar, "Geometry-Aware Gradient Algorithms for Neural
Architecture Search" (ICLR 2021), with the partial channels and edge weights of Xu et
al., "PC-DARTS" (ICLR 2020). Here both kinds of weights are trained on the same batches
(a single level), 6 epochs over 10,000 images of 16x16, in a network of 4 cells. The
cell found is trained from scratch, with all channels. The same on the digits that
scikit-learn contains: ``--config=configs/gaea_pc_darts_cifar10_small.py:digits``.

A published cell is trained equally by ``--mode=retrain
--config.retrain.architecture=DARTS_V2``, any genotype of DARTS by its text.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import gaea_nb201_small
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.jobs.build import choice, settings
from wpl_jax.spaces import SPACES


def get_config(data: str = "cifar10") -> ConfigDict:
    """The paper's method with a smaller network, fewer images and fewer epochs.

    Args:
      data: ``"cifar10"``, or ``"digits"`` for the built-in images.
    """
    config = gaea_nb201_small.get_config(data)
    digits = data == "digits"
    config.space = choice(
        SPACES,
        "darts_cell",
        darts_cell={
            "channels": 8 if digits else 16,
            "cells": 3 if digits else 4,
            "channel_parts": 4,
            "edge_weights": True,
        },
        genotype={},
    )
    config.search.epochs = 6
    config.optimizer.sgd.learning_rate = 0.1
    config.optimizer.sgd.cosine = ConfigDict({"lowest": 0.0, "period": 6, "growth": 1})
    # For --mode=rank: no table has these cells.
    config.ranking = settings(
        Ranking, architectures=30, truth="from_scratch", from_scratch={"epochs": 4}
    )
    # All channels, and the normalizations of DARTS's retraining.
    config.retrain.epochs = 4
    config.retrain.space = ConfigDict(
        {
            "darts_cell": {
                "channels": 8,
                "affine": True,
                "normalize_pools": False,
                "channel_parts": 1,
                "edge_weights": False,
            },
            "genotype": {
                "cell": "DARTS_V2",
                "channels": 8,
                "cells": 3 if digits else 4,
            },
        }
    )
    config.retrain.task = ConfigDict({"image_classification": {"batch_size": 64}})
    config.retrain.optimizer = config.optimizer.copy_and_resolve_references()
    config.retrain.optimizer.sgd.learning_rate = 0.1
    config.retrain.optimizer.sgd.cosine.period = 4
    return config
