"""All penalties on the built-in text, and what a lower learning rate does instead.

    python launch.py --config=configs/enas_rnn_pydoc_penalties.py \
        --workdir=runs/penalties

5 arms over 3 seeds. A penalty that moves its anchor after each child slows learning
down; so does a lower learning rate, and the comparison tells which forgets less for the
same progress.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import enas_rnn_pydoc


def get_config() -> ConfigDict:
    """The built-in search under each penalty, without retraining."""
    config = enas_rnn_pydoc.get_config()
    config.retrain.epochs = 0
    none = {"penalty": {"name": "none"}}
    # "slower" has no penalty and half the learning rate. EWC's strength is lower, since
    # it adds up the Fishers of many children.
    config.arms = ConfigDict(
        {
            "wpl": {"penalty": {"name": "wpl"}},
            "ewc": {"penalty": {"name": "ewc", "ewc": {"strength": 0.0001}}},
            "l2": {"penalty": {"name": "l2", "l2": {"strength": 0.03}}},
            "none": none,
            "slower": {**none, "optimizer": {"sgd": {"learning_rate": 10.0}}},
        }
    )
    return config
