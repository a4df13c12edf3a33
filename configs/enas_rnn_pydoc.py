"""A recurrent cell for the documentation that ships inside Python.

    python launch.py --config=configs/enas_rnn_pydoc.py --workdir=runs/pydoc

Searches twice, with the Weight Plasticity Loss and without, on text that needs no
download.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The settings; any can be overridden by ``--config.NAME=VALUE``."""
    config = ConfigDict()
    config.job = "search"
    config.seed = 0
    config.num_seeds = 1
    config.main_arm = "wpl"
    config.arms = ConfigDict({"wpl": {}, "none": {"penalty": {"name": "none"}}})

    config.space = ConfigDict()
    config.space.name = "recurrent_cell"
    config.space.hidden = 64
    config.space.num_nodes = 8
    config.space.output = "leaves"
    config.space.carry = "output"
    config.space.max_norm = 25.0
    config.space.init_scale = 0.04

    config.task = ConfigDict()
    config.task.name = "language_model"
    config.task.data = ConfigDict({"format": "pydoc", "level": "word", "min_count": 2})
    config.task.length = 35
    config.task.batch_size = 20
    config.task.dropout = ConfigDict(
        {"embedding": 0.0, "input": 0.1, "output": 0.1, "recurrent": 0.0}
    )
    config.task.activation_penalty = 0.0
    config.task.slowness_penalty = 0.0
    config.task.reward_scale = 80.0

    config.strategy = ConfigDict()
    config.strategy.name = "enas"
    config.strategy.enas = ConfigDict()
    config.strategy.enas.steps = 40
    config.strategy.enas.hidden = 100
    config.strategy.enas.learning_rate = 3.5e-3
    config.strategy.enas.samples_per_step = 1
    config.strategy.enas.baseline_decay = 0.95
    config.strategy.enas.reset_baseline = False
    config.strategy.enas.entropy_weight = 1e-4
    config.strategy.enas.entropy_mode = "reward"
    config.strategy.enas.temperature = 5.0
    config.strategy.enas.tanh_constant = 2.5
    config.strategy.enas.prior = "none"
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 20, "screen_batches": 10, "keep": 20}
    )
    config.strategy.random = ConfigDict()
    config.strategy.random.candidates = ConfigDict(
        {"proposed": 100, "screen_batches": 2, "keep": 10}
    )

    config.penalty = ConfigDict()
    config.penalty.name = "wpl"
    config.penalty.strength = 1.0
    config.penalty.decay_from = 0
    config.penalty.decay_epochs = None
    config.penalty.form = "proximal"
    config.penalty.estimator = "batch"
    config.penalty.labels = "data"
    config.penalty.split = "valid"
    config.penalty.batches = 1
    config.penalty.chunk_size = 20
    config.penalty.eta = 0.9
    config.penalty.average = "printed"
    config.penalty.max_norm = None
    config.penalty.normalize = "tree"
    config.penalty.protect = "all"
    config.penalty.compound = False
    config.penalty.start_epoch = 3
    config.penalty.flush_every = 3

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 20.0
    config.optimizer.decay = 0.96
    config.optimizer.decay_from = 15
    config.optimizer.clip_norm = 0.25
    config.optimizer.weight_decay = 1e-7
    config.optimizer.momentum = None

    config.search = ConfigDict()
    config.search.epochs = 12
    config.search.children = 12
    config.search.batches = 7
    config.search.eval_batches = 5
    config.search.learn_per_call = 20
    config.search.max_bad_steps = 10
    config.search.checkpoint_seconds = 30.0

    # From scratch, with settings of its own for the space and the task.
    config.retrain = ConfigDict()
    config.retrain.architecture = ""  # for --mode=retrain, the file
    config.retrain.epochs = 6
    config.retrain.batches_per_call = 50
    config.retrain.checkpoint_seconds = 30.0
    config.retrain.patience = 3
    config.retrain.space = ConfigDict({"hidden": 64})
    config.retrain.task = ConfigDict({"dropout": {"input": 0.2, "output": 0.2}})
    config.retrain.optimizer = ConfigDict(
        {
            "learning_rate": 20.0,
            "decay": 1.0,
            "decay_from": 0,
            "clip_norm": 0.25,
            "weight_decay": 8e-7,
            "momentum": None,
        }
    )
    return config
