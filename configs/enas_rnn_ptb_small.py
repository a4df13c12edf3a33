"""Penn Treebank at a size for a CPU: three penalties, three seeds.

    python launch.py --config=configs/enas_rnn_ptb_small.py --workdir=runs/ptb_small \
        --config.task.data.path=PATH/ptb

5 to 8 minutes a search and its retraining on one CPU core, nine of them. The same with
random search instead of the controller: ``--config.strategy.name=random``.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import enas_rnn_ptb


def get_config() -> ConfigDict:
    """The paper's settings but for the sizes."""
    config = enas_rnn_ptb.get_config()
    config.num_seeds = 3
    config.seed = 1  # 0 is that of the strengths' calibration
    # EWC adds up the Fishers of some 60 children between flushes; of .00005 and .0002.
    config.arms = ConfigDict(
        {
            "wpl": {"penalty": {"name": "wpl"}},
            "ewc": {"penalty": {"name": "ewc", "ewc": {"strength": 0.00005}}},
            "none": {"penalty": {"name": "none"}},
        }
    )
    config.space.recurrent_cell.hidden = 100
    config.space.recurrent_cell.num_nodes = 8
    config.space.recurrent_cell.init_scale = 0.04
    config.task.language_model.batch_size = 20
    config.task.language_model.dropout = ConfigDict(
        {"embedding": 0.0, "input": 0.1, "output": 0.1, "recurrent": 0.0}
    )
    config.search.epochs = 12
    config.search.children = 20
    config.search.eval_batches = 4
    config.search.checkpoint_seconds = 60.0
    for name in ("l2", "ewc", "wpl"):
        config.penalty[name].start_epoch = 3
    config.strategy.enas.steps = 50
    config.strategy.enas.learning_rate = 3.5e-3  # ten times, for as many fewer steps
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 20, "screen_batches": 5, "keep": 5}
    )
    config.strategy.random.candidates = ConfigDict(
        {"proposed": 100, "screen_batches": 2, "keep": 5}
    )
    config.retrain.epochs = 1
    config.retrain.patience = None
    config.retrain.space = ConfigDict({"recurrent_cell": {"hidden": 100}})
    config.retrain.task = ConfigDict(
        {"language_model": {"dropout": {"input": 0.1, "output": 0.1}}}
    )
    return config
