"""The two-model experiment on CIFAR-10.

    python launch.py --config=configs/two_models_cifar10.py --workdir=runs/cifar10 \
        --config.data.path=PATH/cifar10

About 17 minutes of one CPU core. A fully connected network reaches about 41 % here, so
A is stopped at 25 %.
"""

from ml_collections import ConfigDict, config_dict

from wpl_jax.configs import two_models_mnist


def get_config() -> ConfigDict:
    """The settings of the MNIST experiment, with wider layers and lower rates."""
    config = two_models_mnist.get_config()
    config.num_seeds = 10
    config.data.format = "folder"
    config.data.path = config_dict.placeholder(str)
    config.hidden = 30
    config.model_a.sgd.learning_rate = 0.02
    config.model_b.sgd.learning_rate = 0.02
    config.stops = (0.25,)
    config.main.stop = 0.25
    for study in (config.studies.methods, config.studies.raw, config.studies.loose):
        study.stops = config.stops
    return config
