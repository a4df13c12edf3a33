"""GAEA PC-DARTS on the cells of DARTS, the paper's setting, for an accelerator.

    python launch.py --config=configs/gaea_pc_darts_cifar10.py \
        --workdir=runs/gaea_pc_darts --config.task.data.path=PATH/cifar10

Li, Khodak, Balcan, Talwalkar, "Geometry-Aware Gradient Algorithms for Neural
Architecture Search" (ICLR 2021), with the settings of its released code: 50 epochs on
one half of the training images, and steps of the architecture weights on the other
half. The cell found is trained from scratch for 600 epochs, in a network of 20 cells
with 36 channels, drop-path of .3, cutout and an auxiliary head.
``configs/gaea_pc_darts_cifar10_small.py`` is the same at a size for a CPU.

Published cells are trained equally by ``--mode=retrain
--config.retrain.architecture=DARTS_V2``. Of those with 5 nodes, by ``--mode=retrain
--config.space.name=genotype --config.retrain.space.genotype.cell=NASNet``.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import gaea_pc_darts_cifar10_small


def get_config() -> ConfigDict:
    """The settings of the paper, for images of 32x32."""
    config = gaea_pc_darts_cifar10_small.get_config()
    config.num_seeds = 3
    config.space.darts_cell.cells = 8
    task = config.task.image_classification
    task.shrink = 1
    task.batch_size = 256
    task.augmentation.crop = 4
    config.task.data.train, config.task.data.valid = 25_000, 25_000
    strategy = config.strategy.differentiable
    strategy.split, strategy.shared_pass = "valid", False
    config.search.epochs = 50
    config.search.batches = 97
    config.search.eval_batches = strategy.candidates.judge_batches = 5
    config.search.checkpoint_seconds = 600.0
    config.optimizer.sgd.cosine.period = 50
    config.retrain.epochs = 600
    config.retrain.space = ConfigDict(
        {
            "darts_cell": {
                "channels": 36,
                "cells": 20,
                "affine": True,
                "normalize_pools": False,
                "auxiliary": True,
                "channel_parts": 1,
                "edge_weights": False,
            },
            "genotype": {
                "cell": "DARTS_V2",
                "channels": 36,
                "cells": 20,
                "auxiliary": True,
            },
        }
    )
    config.retrain.task = ConfigDict(
        {
            "image_classification": {
                "batch_size": 96,
                "augmentation": {"cutout": 16},
                "drop_path": {"rate": 0.3, "epochs": 600},
            },
            "data": {"train": 45_000, "valid": 5_000},
        }
    )
    config.retrain.optimizer.sgd.learning_rate = 0.025
    config.retrain.optimizer.sgd.cosine.period = 600
    return config
