"""A recurrent cell for the documentation that ships inside Python.

    python launch.py --config=configs/enas_rnn_pydoc.py --workdir=runs/pydoc

Searches with the Weight Plasticity Loss and without, on text that needs no download:
3 to 8 minutes on two CPU cores, compilation included.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import enas_rnn_ptb


def get_config() -> ConfigDict:
    """The paper's settings but for the sizes."""
    config = enas_rnn_ptb.get_config()
    config.num_seeds = 3
    config.space.recurrent_cell.hidden = 64
    config.space.recurrent_cell.num_nodes = 8
    config.space.recurrent_cell.init_scale = 0.04
    # Words that come once become <unk>, so that a model can learn when to expect it.
    config.task.data.format = "pydoc"
    config.task.data.path = None
    config.task.data.min_count = 2
    config.task.language_model.batch_size = 20
    config.task.language_model.dropout = ConfigDict(
        {"embedding": 0.0, "input": 0.1, "output": 0.1, "recurrent": 0.0}
    )
    config.search.epochs = 12
    config.search.children = 12
    config.search.learn_per_call = 20
    config.search.checkpoint_seconds = 20.0
    # Calibrated with enas_rnn_pydoc_strength.py: of .01, .03 and .1 the strongest whose
    # children's mean reward stays within a standard error of that without a penalty.
    for name in ("l2", "ewc", "wpl"):
        config.penalty[name].strength = 0.01
        config.penalty[name].start_epoch = 3
    for name in ("ewc", "wpl"):
        config.penalty[name].per_example.chunk_size = 10
    config.strategy.enas.steps = 40
    config.strategy.enas.learning_rate = 3.5e-3
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 20, "screen_batches": 5, "keep": 5}
    )
    config.strategy.random.candidates = ConfigDict(
        {"proposed": 100, "screen_batches": 2, "keep": 5}
    )
    config.retrain.epochs = 6
    config.retrain.patience = 3
    config.retrain.baselines.names = ("lstm", "gru")
    config.retrain.space = ConfigDict({"recurrent_cell": {"hidden": 64}})
    config.retrain.task = ConfigDict(
        {"language_model": {"dropout": {"input": 0.2, "output": 0.2}}}
    )
    return config
