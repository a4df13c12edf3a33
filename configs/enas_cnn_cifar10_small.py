"""CIFAR-10 at a size for a CPU: with the Weight Plasticity Loss and without, 3 seeds.

    python launch.py --config=configs/enas_cnn_cifar10_small.py \
        --workdir=runs/cifar_small --config.task.data.path=PATH/cifar10

The images are halved to 16x16. The same with random search instead of the controller:
``--config.strategy.name=random``.
"""

from ml_collections import ConfigDict

from configs import enas_cnn_cifar10


def get_config() -> ConfigDict:
    """The paper's settings but for the sizes."""
    config = enas_cnn_cifar10.get_config()
    config.num_seeds = 3
    config.seed = 1  # 0 is that of the penalty's calibration
    config.space.filters = 8
    config.space.layers = 3
    config.task.shrink = 2
    config.task.batch_size = 64
    config.task.augmentation = ConfigDict({"crop": 2, "flip": True, "cutout": 0})
    config.search.epochs = 20
    config.search.children = 12
    config.search.checkpoint_seconds = 60.0
    config.optimizer.learning_rate = 0.2
    config.optimizer.cosine.period = 20
    config.strategy.enas.steps = 50
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 20, "screen_batches": 5, "keep": 5}
    )
    config.strategy.random.candidates = ConfigDict(
        {"proposed": 100, "screen_batches": 2, "keep": 5}
    )
    config.retrain.epochs = 2
    config.retrain.space = ConfigDict({"filters": 8, "layers": 3, "auxiliary": True})
    config.retrain.task.batch_size = 64
    config.retrain.task.augmentation = ConfigDict({"cutout": 4})
    config.retrain.task.drop_path = ConfigDict({"rate": 0.0, "epochs": 1})
    config.retrain.optimizer.cosine.period = 2
    return config
