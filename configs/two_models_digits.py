"""The two-model experiment on scikit-learn's digits: nothing to download.

    python launch.py --config=configs/two_models_digits.py --workdir=runs/digits

Under a minute on two CPU cores, compilation included. The images are real
(8x8 pixels, 1,797 of them), and so is the forgetting, on a smaller scale than on
MNIST.
"""

from ml_collections import ConfigDict, config_dict

from wpl_jax.configs import two_models_mnist


def get_config() -> ConfigDict:
    """The settings of the MNIST experiment, on less data and with fewer arms."""
    config = two_models_mnist.get_config()
    config.data.format = "digits"
    config.data.path = config_dict.placeholder(str)  # for --config.data.path
    config.data.valid = 400
    config.eval_examples = 300
    config.model_a.steps = 1000
    config.model_b.steps = 1000

    alphas = (1e-4, 1e-2, 1.0, 10.0, 100.0, 1000.0)
    config.studies.methods.alphas = alphas
    config.studies.raw.alphas = (1e-1, 1e1, 1e3, 1e5, 1e7)
    config.studies.sharing.alphas = alphas[3:]
    config.studies.loose.alphas = alphas[2:]
    return config
