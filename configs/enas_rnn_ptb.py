"""A recurrent cell for Penn Treebank, the paper's setting (section 4.2).

    python launch.py --config=configs/enas_rnn_ptb.py --workdir=runs/ptb \
        --config.task.data.path=PATH/ptb

150 epochs of 60 children of 7 batches and 2,000 steps of the controller, twice: with
the Weight Plasticity Loss and without. That is days on a CPU;
``configs/enas_rnn_ptb_small.py`` is the same at a size for one.

Where the paper and the authors' code differ, this is the paper; the settings that
bring the code's way back are named beside them. What is not set here has the default
of its dataclass, which says what it is.
"""

from ml_collections import ConfigDict, config_dict

from wpl_jax.engine.optimizers import OPTIMIZERS
from wpl_jax.engine.plan import SearchSettings
from wpl_jax.evaluation.ensemble import EnsembleSettings
from wpl_jax.evaluation.latency import LatencySettings
from wpl_jax.evaluation.plain_networks import Baselines
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.jobs.build import choice, settings
from wpl_jax.protections import PENALTIES
from wpl_jax.spaces import SPACES
from wpl_jax.strategies import STRATEGIES
from wpl_jax.strategies.limits import LimitSettings
from wpl_jax.strategies.rewards import REWARDS
from wpl_jax.tasks import TASKS


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

    config.space = choice(
        SPACES,
        "recurrent_cell",
        recurrent_cell={
            "hidden": 1000,
            "num_nodes": 12,
            "carry": "output",  # the code: "last"
            "init_scale": 0.025,
        },
    )
    config.task = choice(
        TASKS,
        "language_model",
        language_model={
            "length": 35,
            "batch_size": 64,
            "dropout": {
                "embedding": 0.1,
                "input": 0.65,
                "output": 0.4,
                "recurrent": 0.5,
            },
            "compute_dtype": "float32",  # "bfloat16" is faster on accelerators
        },
    )
    config.task.data = ConfigDict()
    config.task.data.format = "folder"
    config.task.data.path = config_dict.placeholder(str)
    config.task.data.level = "word"
    config.task.data.min_count = 1
    config.task.data.max_vocabulary = config_dict.placeholder(int)

    config.search = settings(
        SearchSettings,
        epochs=150,
        children=60,
        batches=7,
        eval_batches=5,
        learn_per_call=50,
        checkpoint_seconds=600.0,  # of 2.3 GB each
    )
    config.optimizer = choice(
        OPTIMIZERS,
        "sgd",
        sgd={
            "learning_rate": 20.0,
            "schedule": "exponential",
            "exponential": {"decay": 0.96, "decay_from": 15},
            "clip_norm": 0.25,
            "weight_decay": 1e-7,
        },
        optax={},
    )
    # "mnasnet": times (cost / target) to a power. It is also for strategies that learn
    # from gradients, whose loss has the logarithm of it.
    config.reward = choice(REWARDS, "task", mnasnet={"target": None})
    # The most that a child may cost: parameters, multiply_adds, latency_ms.
    config.limits = settings(LimitSettings)
    # For limits of latency_ms, and for --mode=latency.
    config.latency = settings(LatencySettings)
    config.strategy = choice(
        STRATEGIES,
        "enas",
        enas={
            "steps": 2000,
            "hidden": 100,
            "learning_rate": 3.5e-4,
            "baseline_decay": 0.95,
            "reset_baseline": False,  # the code: True
            "candidates": {"proposed": 100, "screen_batches": 10, "keep": 10},
        },
        random={"candidates": {"proposed": 1000, "screen_batches": 10, "keep": 10}},
    )
    # The strength is of a Fisher of mean 1. Calibrated at a size for a CPU,
    # enas_rnn_ptb_small.py, on validation data, with the estimator "batch": of .01, .03
    # and .1 the strongest under which children learn nearly as fast as without.
    common = {
        "strength": 0.03,  # the code: 60, of a Fisher that is not normalized
        "decay_from": 0,  # the code: 14
        "decay_epochs": None,  # the code: 60
        "step": "proximal",  # the code: "explicit"
        "normalize": "tree",  # the code: "none"
        "protect": "all",  # the code: "choices"
        "start_epoch": 5,
        "flush_every": 3,  # the code: 2
    }
    estimator = {"estimator": "per_example"}  # the paper and its code: "batch"
    of_average = {
        "eta": 0.9,
        "average": "paper",  # the code: "code"
        "max_norm": None,  # the code: 10.0
        "alpha_inside_average": False,  # the code: True
    }
    wpl = common | estimator | of_average
    config.penalty = choice(
        PENALTIES,
        "wpl",
        l2=common,
        ewc=common | estimator,
        orthogonal={},
        replay={},
        nsas={},
        wpl=wpl,
        wpl_replay=wpl,
    )

    # For --mode=rank: random architectures, each trained for so many epochs.
    config.ranking = settings(
        Ranking, architectures=30, truth="from_scratch", from_scratch={"epochs": 10}
    )
    # For --mode=ensemble.
    config.ensemble = settings(EnsembleSettings)

    # From scratch, with settings of its own for the space and the task.
    config.retrain = ConfigDict()
    config.retrain.architecture = ""  # for --mode=retrain, the file
    config.retrain.epochs = 600
    # A folder of a search or a training, whose weights are taken where they fit.
    config.retrain.start_from = config_dict.placeholder(str)
    config.retrain.checkpoint_seconds = 60.0
    config.retrain.patience = 5  # epochs without progress before averaging begins
    # Beside what is found, plain networks with as many parameters.
    config.retrain.baselines = settings(Baselines, names=())
    config.retrain.space = ConfigDict(
        {"recurrent_cell": {"hidden": 800, "output": "all"}}
    )
    config.retrain.task = ConfigDict(
        {
            "language_model": {
                "dropout": {
                    "embedding": 0.125,
                    "input": 0.725,
                    "output": 0.75,
                    "recurrent": 0.225,
                },
                "activation_penalty": 0.7,
                "slowness_penalty": 1.0,
            }
        }
    )
    config.retrain.optimizer = choice(
        OPTIMIZERS,
        "sgd",
        sgd={
            "learning_rate": 20.0,
            "schedule": "exponential",
            "clip_norm": 0.25,
            "weight_decay": 8e-7,
        },
        optax={},
    )
    return config
