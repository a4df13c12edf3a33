"""A recurrent cell for Penn Treebank, the paper's setting (section 4.2).

    python launch.py --config=configs/enas_rnn_ptb.py --workdir=runs/ptb \
        --config.task.data.path=PATH/ptb

150 epochs of 60 children of 7 batches and 2,000 steps of the controller, twice: with
the Weight Plasticity Loss and without. That is days on a CPU;
``configs/enas_rnn_ptb_small.py`` is the same at a size for one.

Where the paper and the authors' code differ, this is the paper; the settings that
bring the code's way back are named beside them.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The settings; any can be overridden by ``--config.NAME=VALUE``."""
    config = ConfigDict()
    config.job = "search"
    config.seed = 0
    config.num_seeds = 1
    # Each arm is run, with its changes to this configuration, over the same seeds.
    config.arms = ConfigDict(
        {"wpl": {"penalty": {"name": "wpl"}}, "none": {"penalty": {"name": "none"}}}
    )
    config.main_arm = "wpl"  # of which the report shows more

    config.space = ConfigDict()
    config.space.name = "recurrent_cell"
    config.space.hidden = 1000
    config.space.num_nodes = 12
    config.space.output = "leaves"
    config.space.carry = "output"  # the code: "last"
    config.space.max_norm = 25.0
    config.space.init_scale = 0.025

    config.task = ConfigDict()
    config.task.name = "language_model"
    config.task.data = ConfigDict()
    config.task.data.format = "folder"
    config.task.data.path = config_dict.placeholder(str)
    config.task.data.path = "../shared/data/ptb"
    config.task.data.level = "word"
    config.task.data.min_count = 1
    config.task.data.max_vocabulary = config_dict.placeholder(int)
    config.task.length = 35
    config.task.batch_size = 64
    config.task.dropout = ConfigDict(
        {"embedding": 0.1, "input": 0.65, "output": 0.4, "recurrent": 0.5}
    )
    config.task.activation_penalty = 0.0
    config.task.slowness_penalty = 0.0
    config.task.reward_scale = 80.0
    config.task.compute_dtype = "float32"  # "bfloat16" is faster on accelerators

    config.search = ConfigDict()
    config.search.epochs = 150
    config.search.children = 60
    config.search.together = 1  # children whose gradients are averaged
    config.search.batches = 7
    config.search.eval_batches = 5  # of err1 and err2
    config.search.learn_per_call = 50  # steps of the strategy between checkpoints
    config.search.max_bad_steps = 10  # in a row, before going back
    config.search.checkpoint_seconds = 600.0  # of 2.3 GB each

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 20.0
    config.optimizer.schedule = "exponential"
    config.optimizer.exponential = ConfigDict({"decay": 0.96, "decay_from": 15})
    config.optimizer.clip_norm = 0.25
    config.optimizer.weight_decay = 1e-7
    config.optimizer.momentum = config_dict.placeholder(float)
    config.optimizer.nesterov = False

    config.strategy = ConfigDict()
    config.strategy.name = "enas"
    config.strategy.enas = ConfigDict()
    config.strategy.enas.steps = 2000
    config.strategy.enas.hidden = 100
    config.strategy.enas.learning_rate = 3.5e-4
    config.strategy.enas.samples_per_step = 1
    config.strategy.enas.baseline_decay = 0.95
    config.strategy.enas.reset_baseline = False  # the code: True
    config.strategy.enas.entropy_weight = 1e-4
    config.strategy.enas.entropy_mode = "reward"
    config.strategy.enas.temperature = 5.0
    config.strategy.enas.tanh_constant = 2.5
    config.strategy.enas.prior = "none"
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 100, "screen_batches": 10, "keep": 10}
    )
    config.strategy.random = ConfigDict()
    config.strategy.random.candidates = ConfigDict(
        {"proposed": 1000, "screen_batches": 10, "keep": 10}
    )

    config.penalty = ConfigDict()
    config.penalty.name = "wpl"
    # Of a Fisher of mean 1. Calibrated at a size for a CPU, enas_rnn_ptb_small.py, on
    # validation data, with the estimator "batch": of .01, .03 and .1 the strongest
    # under which children learn nearly as fast as without a penalty.
    config.penalty.strength = 0.03  # the code: 60, of a Fisher that is not normalized
    config.penalty.normalize = "tree"  # the code: "none"
    config.penalty.compound = False  # the code: True
    config.penalty.form = "proximal"  # the code: "explicit"
    config.penalty.protect = "all"  # the code: "choices"
    config.penalty.max_norm = config_dict.placeholder(float)  # the code: 10.0
    config.penalty.decay_from = 0  # the code: 14
    config.penalty.decay_epochs = config_dict.placeholder(int)  # the code: 60
    config.penalty.estimator = "per_example"  # the paper and its code: "batch"
    config.penalty.labels = "data"
    config.penalty.split = "valid"
    config.penalty.batches = 1
    config.penalty.chunk_size = 8  # examples, of "per_example"
    config.penalty.eta = 0.9
    config.penalty.average = "printed"  # the code: "coded"
    config.penalty.start_epoch = 5
    config.penalty.flush_every = 3  # the code: 2

    # For --mode=rank: random architectures, each trained for so many epochs.
    config.ranking = ConfigDict({"architectures": 30, "epochs": 10})

    # From scratch, with settings of its own for the space and the task.
    config.retrain = ConfigDict()
    config.retrain.architecture = ""  # for --mode=retrain, the file
    config.retrain.epochs = 600
    config.retrain.checkpoint_seconds = 60.0
    config.retrain.patience = 5  # epochs without progress before averaging begins
    config.retrain.space = ConfigDict({"hidden": 800, "output": "all"})
    config.retrain.task = ConfigDict()
    config.retrain.task.dropout = ConfigDict(
        {"embedding": 0.125, "input": 0.725, "output": 0.75, "recurrent": 0.225}
    )
    config.retrain.task.activation_penalty = 0.7
    config.retrain.task.slowness_penalty = 1.0
    config.retrain.optimizer = ConfigDict()
    config.retrain.optimizer.learning_rate = 20.0
    config.retrain.optimizer.schedule = "exponential"
    config.retrain.optimizer.exponential = ConfigDict({"decay": 1.0, "decay_from": 0})
    config.retrain.optimizer.clip_norm = 0.25
    config.retrain.optimizer.weight_decay = 8e-7
    config.retrain.optimizer.momentum = config_dict.placeholder(float)
    config.retrain.optimizer.nesterov = False
    return config
