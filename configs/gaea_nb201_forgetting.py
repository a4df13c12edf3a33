"""Whether mixtures forget: GAEA under each penalty, and single children beside it.

    python launch.py --config=configs/gaea_nb201_forgetting.py \
        --workdir=runs/forgetting --config.task.data.path=PATH/cifar10

6 arms over 3 seeds, 4 epochs each. An epoch trains 4 children on 52 batches each. Under
GAEA a child is the mixture after these batches, which differs little from the one
before. Under random search it is an architecture of its own.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import gaea_nb201_small


def get_config() -> ConfigDict:
    """The search of NAS-Bench-201's space in stretches, without a ranking."""
    config = gaea_nb201_small.get_config()
    del config.ranking
    config.num_seeds = 3
    config.search.epochs = 4
    config.search.children = 4
    config.search.batches = 52
    config.search.eval_batches = 20  # 640 images, the same for all
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
