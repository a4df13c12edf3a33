"""The smallest search of a micro cell; a configuration (``--config=tests/...``)."""

from ml_collections import ConfigDict

from configs import enas_cnn_digits


def get_config() -> ConfigDict:
    """One arm of one epoch; steps so small that rounding does not grow."""
    config = enas_cnn_digits.get_config()
    config.num_seeds = 1
    config.arms = ConfigDict({"wpl": {}})
    config.space.micro_cell.update({"filters": 4, "num_nodes": 2, "auxiliary": True})
    config.task.image_classification.batch_size = 16
    config.task.image_classification.drop_path.rate = 0.2
    config.task.image_classification.augmentation = ConfigDict(
        {"crop": 1, "flip": True, "cutout": 2}
    )
    config.search.update({"epochs": 1, "children": 4, "batches": 2})
    config.search.update({"eval_batches": 2, "learn_per_call": 2})
    for name in ("ewc", "l2", "wpl"):
        config.penalty[name].start_epoch = 0
    for name in ("ewc", "wpl"):  # It compiles faster than "per_example".
        config.penalty[name].estimator = "batch"
    config.optimizer.sgd.update({"learning_rate": 1e-3, "nesterov": False})
    config.optimizer.sgd.momentum = 0.0
    config.strategy.enas.steps = 4
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 4, "screen_batches": 1, "keep": 2}
    )
    config.retrain.epochs = 1
    config.retrain.baselines.names = ()
    config.retrain.task.image_classification.batch_size = 16
    return config
