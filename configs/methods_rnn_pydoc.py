"""Four methods on recurrent cells, on the text inside Python, at a size for a CPU.

    python launch.py --config=configs/methods_rnn_pydoc.py --workdir=runs/methods_rnn

Differentiable strategies train a mixture of all parents and activations (DARTS; Liu,
Simonyan, Yang, ICLR 2019), as ENAS and random search train one child after the other.
GAEA is that of Li et al. (ICLR 2021). A step of a mixture costs several of a child.
``--mode=time`` finds the epochs with which all arms take equally long on your machine.
The same on Penn Treebank: ``--config=configs/methods_rnn_pydoc.py:ptb
--config.task.data.path=PATH/ptb``.
"""

from typing import Any

from ml_collections import ConfigDict

from wpl_jax.configs import enas_rnn_ptb_small, enas_rnn_pydoc
from wpl_jax.jobs.build import choice
from wpl_jax.strategies import STRATEGIES

_FILES = {"pydoc": enas_rnn_pydoc, "ptb": enas_rnn_ptb_small}
_RATES_OF_DARTS = {"pydoc": 5.0, "ptb": 1.25}  # It diverges at 20.


def get_config(text: str = "pydoc") -> ConfigDict:
    """The settings of all four methods.

    Args:
      text: ``"pydoc"``, or ``"ptb"`` for Penn Treebank.
    """
    if text not in _FILES:
        raise ValueError(f"{text!r} is no text of this file, but pydoc and ptb are.")
    config = _FILES[text].get_config()
    config.space.recurrent_cell.output = "all"  # The mean of leaves has no mixture.
    strategy = choice(
        STRATEGIES,
        "differentiable",
        differentiable={
            "split": "valid",
            "optimizer": "adam",
            "adam": {"learning_rate": 3e-3},
            "exponentiated_gradient": {"learning_rate": 0.01},
        },
    )
    config.strategy.differentiable = strategy.differentiable
    config.arms = ConfigDict(
        {
            "gaea": _mixtures("exponentiated_gradient", learning_rate=20.0),
            "darts": _mixtures("adam", learning_rate=_RATES_OF_DARTS[text]),
            "enas": _children("enas"),
            "random": _children("random"),
        }
    )
    config.main_arm = "gaea"
    return config


def _mixtures(optimizer: str, learning_rate: float) -> dict[str, Any]:
    """A method that trains a mixture, with a step of its weights before each batch."""
    differentiable = {"optimizer": optimizer}
    return {
        "optimizer": {"sgd": {"learning_rate": learning_rate}},
        "penalty": {"name": "none"},
        "strategy": {"name": "differentiable", "differentiable": differentiable},
        "search": {"children": 1, "batches": 35, "epochs": 4},
    }


def _children(strategy: str) -> dict[str, Any]:
    return {"penalty": {"name": "none"}, "strategy": {"name": strategy}}
