"""NAO on Penn Treebank at a size for a CPU: four dropout rates, with and without WPL.

    python launch.py --config=configs/nao_rnn_ptb_small.py --workdir=runs/nao_ptb \
        --config.task.data.path=PATH/ptb

The arms are those of the authors' poster on WPL: dropout of 0, .25, .5 and .75, each
with the Weight Plasticity Loss and without (``wpl_25``, ``none_25``). This selects some
of the rates: ``--config=configs/nao_rnn_ptb_small.py:0,0.5``.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from wpl_jax.configs import nao_rnn_pydoc

_RATES = "0,0.25,0.5,0.75"


def get_config(rates: str = _RATES) -> ConfigDict:
    """The search of ``nao_rnn_pydoc.py`` on the 2,000 most frequent words.

    Args:
      rates: Of dropout, with commas between them.
    """
    config = nao_rnn_pydoc.get_config()
    config.seed = 1  # 0 is that of the strengths' calibration
    config.task.data.format = "folder"
    config.task.data.path = config_dict.placeholder(str)
    config.task.data.min_count = 1
    config.task.data.max_vocabulary = 2000
    config.search.epochs = 24
    config.search.batches = 3
    config.search.eval_batches = 2
    config.search.checkpoint_seconds = 60.0
    config.strategy.nao.every = 4
    for name in ("ewc", "wpl"):
        config.penalty[name].estimator = "batch"
    config.retrain.epochs = 0
    config.arms = ConfigDict(
        {
            f"{penalty}_{round(100 * float(rate))}": _arm(penalty, float(rate))
            for rate in rates.split(",")
            for penalty in ("wpl", "none")
        }
    )
    config.main_arm = next(iter(config.arms))
    return config


def _arm(penalty: str, rate: float) -> dict[str, Any]:
    """Dropout of the cell's inputs and outputs."""
    dropout = {"input": rate, "output": rate}
    return {
        "penalty": {"name": penalty},
        "task": {"language_model": {"dropout": dropout}},
    }
