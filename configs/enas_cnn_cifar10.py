"""A network for CIFAR-10 from the micro space, the paper's setting (section 4.2).

    python launch.py --config=configs/enas_cnn_cifar10.py --workdir=runs/cifar10 \
        --config.task.data.path=PATH/cifar10

150 epochs of 71 children of 7 batches, with the Weight Plasticity Loss and without.
That is days on a CPU; ``configs/enas_cnn_cifar10_small.py`` is the same at a size for
one.

The network and its training are those of the official ENAS code; what the WPL authors'
code does otherwise is named in docs/algorithm.md.
"""

from ml_collections import ConfigDict, config_dict

from wpl_jax.configs import enas_rnn_ptb
from wpl_jax.jobs.build import choice
from wpl_jax.spaces import SPACES
from wpl_jax.tasks import TASKS


def get_config() -> ConfigDict:
    """The settings; any can be overridden by ``--config.NAME=VALUE``."""
    config = enas_rnn_ptb.get_config()

    config.space = choice(
        SPACES, "micro_cell", micro_cell={"num_nodes": 5, "filters": 20, "layers": 6}
    )
    config.task = choice(
        TASKS,
        "image_classification",
        image_classification={
            "batch_size": 160,
            "augmentation": {"crop": 4, "flip": True, "cutout": 0},
            "dropout": 0.1,
            "shard_images": True,  # among devices, which exchange them as needed
            "compute_dtype": "float32",  # "bfloat16" is faster on accelerators
        },
    )
    config.task.data = ConfigDict()
    config.task.data.format = "folder"
    config.task.data.path = config_dict.placeholder(str)
    config.task.data.valid = 5000  # where there is no folder of them

    config.search.epochs = 150
    config.search.children = 71
    config.search.batches = 7
    config.search.eval_batches = 5

    config.optimizer.sgd.learning_rate = 0.05
    config.optimizer.sgd.schedule = "cosine"
    config.optimizer.sgd.cosine = ConfigDict(
        {"lowest": 0.0005, "period": 10, "growth": 2}
    )
    config.optimizer.sgd.clip_norm = 5.0
    config.optimizer.sgd.weight_decay = 1e-4
    config.optimizer.sgd.momentum = 0.9
    config.optimizer.sgd.nesterov = True

    config.strategy.enas.steps = 1000
    config.strategy.enas.learning_rate = 3.5e-3
    config.strategy.enas.baseline_decay = 0.99
    config.strategy.enas.temperature = 8.0
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 100, "screen_batches": 5, "keep": 10}
    )
    config.strategy.random.candidates = ConfigDict(
        {"proposed": 1000, "screen_batches": 5, "keep": 10}
    )
    # Calibrated where a CPU can, with enas_cnn_cifar10_small.py and a seed of its own,
    # of .01, .03, .1, .3 and 1, by validation error and forgetting.
    for name in ("l2", "ewc", "wpl"):
        config.penalty[name].strength = 0.3
        config.penalty[name].start_epoch = 3

    config.retrain.epochs = 630
    config.retrain.patience = config_dict.placeholder(int)
    config.retrain.space = ConfigDict(
        {"micro_cell": {"filters": 36, "layers": 15, "auxiliary": True}}
    )
    config.retrain.task = ConfigDict(
        {
            "image_classification": {
                "batch_size": 144,
                "augmentation": {"cutout": 16},
                "dropout": 0.2,
                "drop_path": {"rate": 0.4, "epochs": 630},
            }
        }
    )
    config.retrain.optimizer = config.optimizer.copy_and_resolve_references()
    config.retrain.optimizer.sgd.cosine.lowest = 1e-4
    config.retrain.optimizer.sgd.weight_decay = 2e-4
    return config
