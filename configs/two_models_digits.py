"""The two-model experiment on scikit-learn's digits: nothing to download.

    python launch.py --config=configs/two_models_digits.py --workdir=runs/digits

Three minutes of one CPU core. The images are real (8x8 pixels, 1,797 of them), and so
is the forgetting. With few images the accuracies of a seed are less certain than on
MNIST, hence more seeds.
"""

from ml_collections import ConfigDict, config_dict

from wpl_jax.configs import two_models_mnist


def get_config() -> ConfigDict:
    """The settings of the MNIST experiment, on less data and with fewer arms."""
    config = two_models_mnist.get_config()
    config.num_seeds = 30
    config.data.format = "digits"
    config.data.path = config_dict.placeholder(str)  # for --config.data.path
    config.data.valid = 400
    config.eval_examples = 200
    config.model_a.steps = 1000
    config.model_b.steps = 1000
    config.stops = (0.55, 0.8)
    config.studies.loose.stops = config.stops
    return config
