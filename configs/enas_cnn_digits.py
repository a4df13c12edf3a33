"""A network of micro cells for the handwritten digits that come with scikit-learn.

    python launch.py --config=configs/enas_cnn_digits.py --workdir=runs/digits

Searches with the Weight Plasticity Loss and without, on images that need no download.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import enas_cnn_cifar10


def get_config() -> ConfigDict:
    """The paper's settings but for the sizes."""
    config = enas_cnn_cifar10.get_config()
    config.num_seeds = 2
    config.space.micro_cell.filters = 8
    config.space.micro_cell.layers = 3
    config.task.data.format = "digits"
    config.task.data.path = None
    config.task.data.valid = 320
    task = config.task.image_classification
    task.batch_size = 32
    task.augmentation = ConfigDict({"crop": 1, "flip": False, "cutout": 0})
    config.search.epochs = 20
    config.search.children = 12
    config.search.learn_per_call = 20
    config.search.checkpoint_seconds = 20.0
    config.optimizer.sgd.learning_rate = 0.2  # of .05, .2 and .5, on validation images
    config.optimizer.sgd.cosine.period = 20
    config.strategy.enas.steps = 40
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 20, "screen_batches": 5, "keep": 5}
    )
    config.strategy.random.candidates = ConfigDict(
        {"proposed": 100, "screen_batches": 5, "keep": 5}
    )
    config.retrain.epochs = 10
    config.retrain.baselines.names = ("residual",)
    config.retrain.space = ConfigDict(
        {"micro_cell": {"filters": 8, "layers": 3, "auxiliary": True}}
    )
    task = config.retrain.task.image_classification
    task.batch_size = 32
    task.augmentation = ConfigDict({"cutout": 2})
    task.drop_path = ConfigDict({"rate": 0.1, "epochs": 10})
    config.retrain.optimizer.sgd.cosine.period = 10
    return config
