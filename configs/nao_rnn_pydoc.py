"""NAO on the documentation that ships inside Python.

    python launch.py --config=configs/nao_rnn_pydoc.py --workdir=runs/nao_pydoc

With the Weight Plasticity Loss and without, on text that needs no download: six
searches, each with its retraining a minute and a half of one core, compilation
included.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import enas_rnn_pydoc
from wpl_jax.jobs.build import choice
from wpl_jax.strategies import STRATEGIES


def get_config() -> ConfigDict:
    """The search of ``enas_rnn_pydoc.py`` with NAO instead of the controller."""
    config = enas_rnn_pydoc.get_config()
    candidates = {"proposed": 20, "screen_batches": 5, "keep": 5}
    config.strategy = choice(
        STRATEGIES,
        "nao",
        nao={
            "pool": 60,
            "every": 3,
            "updates": 300,
            "score_batches": 2,
            "held_out": 0.2,
            "seeds": 15,
            "new": 15,
            "random": 3,
            "networks": {
                "embedding": 16,
                "hidden": 32,
                "layers": 2,
                "units": 64,
                "batch_size": 32,
            },
            "candidates": candidates,
        },
        random={"candidates": candidates},
    )
    config.search.learn_per_call = 100
    return config
