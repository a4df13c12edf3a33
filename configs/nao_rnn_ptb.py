"""A recurrent cell for Penn Treebank by NAO with weight sharing, as published.

    python launch.py --config=configs/nao_rnn_ptb.py --workdir=runs/nao_ptb \
        --config.task.data.path=PATH/ptb

Luo et al., "Neural Architecture Optimization" (NeurIPS 2018). Days on a CPU;
``configs/nao_rnn_ptb_small.py`` has a size for one. The settings are those of the
authors' code. docs/strategies.md has the differences.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import enas_rnn_ptb
from wpl_jax.jobs.build import choice
from wpl_jax.strategies import STRATEGIES


def get_config() -> ConfigDict:
    """The settings; any can be overridden by ``--config.NAME=VALUE``."""
    config = enas_rnn_ptb.get_config()
    config.space.recurrent_cell.hidden = 300
    config.space.recurrent_cell.num_nodes = 12
    config.space.recurrent_cell.output = "all"
    task = config.task.language_model
    task.batch_size = 256
    task.slowness_penalty = 1e-3
    # The code also drops .2 of the embedded words, before the .75 of the input.
    task.dropout = ConfigDict(
        {"embedding": 0.0, "input": 0.75, "output": 0.75, "recurrent": 0.25}
    )
    # An architecture for each batch, and as many batches as the text has.
    config.search.epochs = 1000
    config.search.children = 104
    config.search.batches = 1
    config.search.eval_batches = 1
    config.search.learn_per_call = 100
    config.optimizer.sgd.learning_rate = 0.25
    config.optimizer.sgd.exponential.decay = 1.0
    config.optimizer.sgd.clip_norm = 10.0
    config.optimizer.sgd.weight_decay = 5e-7
    candidates = {"proposed": 100, "screen_batches": 8, "keep": 10}
    config.strategy = choice(
        STRATEGIES,
        "nao",
        nao={"candidates": candidates},
        random={"candidates": candidates},
    )
    return config
