"""The smallest search of a micro cell; a configuration (``--config=tests/...``)."""

from ml_collections import ConfigDict

from configs import enas_cnn_digits


def get_config() -> ConfigDict:
    """One arm of one epoch; steps so small that rounding does not grow."""
    config = enas_cnn_digits.get_config()
    config.num_seeds = 1
    config.arms = ConfigDict({"wpl": {}})
    config.space.update({"filters": 4, "num_nodes": 2, "auxiliary": True})
    config.task.batch_size = 16
    config.task.drop_path.rate = 0.2
    config.task.augmentation = ConfigDict({"crop": 1, "flip": True, "cutout": 2})
    config.search.update({"epochs": 1, "children": 4, "batches": 2})
    config.search.update({"eval_batches": 2, "learn_per_call": 2})
    config.penalty.start_epoch = 0
    config.penalty.estimator = "batch"  # It compiles faster than "per_example".
    config.optimizer.update({"learning_rate": 1e-3, "nesterov": False})
    config.optimizer.momentum = 0.0
    config.strategy.enas.steps = 4
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 4, "screen_batches": 1, "keep": 2}
    )
    config.retrain.epochs = 1
    config.retrain.task.batch_size = 16
    return config
