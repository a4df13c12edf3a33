"""Whether mixtures forget: GAEA under penalties, compared with random search.

    python launch.py --config=configs/gaea_nb201_forgetting.py \
        --workdir=runs/forgetting --config.task.data.path=PATH/cifar10

6 arms over 3 seeds: GAEA with L2, EWC and WPL and without a penalty, and random search
with WPL and without. An epoch trains 4 children on 52 batches each; there are 4 epochs.
With GAEA a child is the mixture after these batches, which differs little from the one
before. With random search each child is a newly drawn architecture.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import gaea_nb201_small


def get_config() -> ConfigDict:
    """The settings of ``gaea_nb201_small`` with several children an epoch."""
    config = gaea_nb201_small.get_config()
    del config.ranking
    config.num_seeds = 3
    config.search.epochs = 4
    config.search.children = 4
    config.search.batches = 52
    config.search.eval_batches = 20  # 640 images, the same for all children
    config.optimizer.sgd.learning_rate = 0.1
    config.optimizer.sgd.cosine.period = 4
    config.strategy.random.candidates.proposed = 20
    for name in ("l2", "ewc", "wpl"):
        config.penalty[name].start_epoch = 0
    for name in ("ewc", "wpl"):
        config.penalty[name].estimator = "batch"  # as in the paper
    of_random = {"strategy": {"name": "random"}}
    arms = {name: {"penalty": {"name": name}} for name in ("none", "l2", "ewc", "wpl")}
    arms["random"] = of_random | arms["none"]
    arms["random_wpl"] = of_random | arms["wpl"]
    config.arms = ConfigDict(arms)
    return config
