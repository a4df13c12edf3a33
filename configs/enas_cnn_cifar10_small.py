"""CIFAR-10 at a size for a CPU: with the Weight Plasticity Loss and without, 3 seeds.

    python launch.py --config=configs/enas_cnn_cifar10_small.py \
        --workdir=runs/cifar_small --config.task.data.path=PATH/cifar10

The images are halved to 16x16. The same with random search instead of the controller:
``--config.strategy.name=random``.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import enas_cnn_cifar10


def get_config() -> ConfigDict:
    """The paper's settings but for the sizes."""
    config = enas_cnn_cifar10.get_config()
    config.num_seeds = 3
    config.seed = 1  # 0 is that of the penalty's calibration
    config.space.micro_cell.filters = 8
    config.space.micro_cell.layers = 3
    task = config.task.image_classification
    task.shrink = 2
    task.batch_size = 64
    task.augmentation = ConfigDict({"crop": 2, "flip": True, "cutout": 0})
    config.search.epochs = 20
    config.search.children = 12
    config.search.checkpoint_seconds = 60.0
    config.optimizer.sgd.learning_rate = 0.2
    config.optimizer.sgd.cosine.period = 20
    config.strategy.enas.steps = 50
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 20, "screen_batches": 5, "keep": 5}
    )
    config.strategy.random.candidates = ConfigDict(
        {"proposed": 100, "screen_batches": 2, "keep": 5}
    )
    config.retrain.epochs = 2
    config.retrain.space = ConfigDict(
        {"micro_cell": {"filters": 8, "layers": 3, "auxiliary": True}}
    )
    task = config.retrain.task.image_classification
    task.batch_size = 64
    task.augmentation = ConfigDict({"cutout": 4})
    task.drop_path = ConfigDict({"rate": 0.0, "epochs": 1})
    config.retrain.optimizer.sgd.cosine.period = 2
    return config
