"""The strength of the built-in search's penalty, chosen on validation data.

    python launch.py --config=configs/enas_rnn_pydoc_strength.py --workdir=runs/strength

Three strengths and no penalty, over 3 seeds that no other configuration has: about
10 minutes on two CPU cores. The first table of the report has the children's mean
reward and what they forget. enas_rnn_pydoc.py takes the strongest penalty whose reward
is within a standard error of the reward without one.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import enas_rnn_pydoc


def get_config() -> ConfigDict:
    """The built-in search at three strengths, without retraining."""
    config = enas_rnn_pydoc.get_config()
    config.seed = 100
    config.retrain.epochs = 0
    strengths = {"weak": 0.01, "middle": 0.03, "strong": 0.1}
    config.arms = ConfigDict(
        {
            name: {"penalty": {"name": "wpl", "wpl": {"strength": strength}}}
            for name, strength in strengths.items()
        }
        | {"none": {"penalty": {"name": "none"}}}
    )
    config.main_arm = "weak"
    return config
