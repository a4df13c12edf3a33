"""A network for CIFAR-10 by NAO with weight sharing, as published.

    python launch.py --config=configs/nao_cnn_cifar10.py --workdir=runs/nao_cifar10 \
        --config.task.data.path=PATH/cifar10

Luo et al., "Neural Architecture Optimization" (NeurIPS 2018), with the settings of the
authors' code. ``--config=configs/nao_cnn_cifar10.py:2`` is the second version, which
trains architectures in proportion to their numbers of parameters. Days on a CPU.
docs/strategies.md has the differences.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import enas_cnn_cifar10
from wpl_jax.jobs.build import choice
from wpl_jax.strategies import STRATEGIES


def get_config(version: str = "1") -> ConfigDict:
    """The settings; any can be overridden by ``--config.NAME=VALUE``.

    Args:
      version: ``"1"`` or ``"2"``.
    """
    if version not in ("1", "2"):
        raise ValueError(f"{version!r} is no version of NAO, expected 1 or 2.")
    second = version == "2"
    config = enas_cnn_cifar10.get_config()
    config.space.micro_cell.layers = 9
    task = config.task.image_classification
    task.batch_size = 64
    task.dropout = 0.0
    task.drop_path = ConfigDict({"rate": 0.1, "epochs": 200 if second else 150})
    # An architecture for each batch, and as many batches as there are images.
    config.search.epochs = 200 if second else 150
    config.search.children = 703
    config.search.batches = 1
    config.search.eval_batches = 1
    config.search.learn_per_call = 100
    config.optimizer.sgd.learning_rate = 0.025
    # The second version starts the schedule anew after each round.
    config.optimizer.sgd.cosine = ConfigDict(
        {"lowest": 0.001, "period": 50 if second else 150, "growth": 1}
    )
    config.optimizer.sgd.nesterov = False
    config.optimizer.sgd.weight_decay = 3e-4
    candidates = {"proposed": 100, "screen_batches": 5, "keep": 5}
    nao = {
        "target": "reward",
        "updates": 6000,
        "reset_optimizer": True,
        "random": 0,
        "candidates": candidates,
    }
    if second:
        # The first 1,000, and 300 from each of three rounds, of which none is replaced.
        nao |= {"pool": 1900, "initial": 1000, "every": 50, "most_steps": 51}
        nao |= {"sampling": "parameters", "trains": "newest", "updates": 10_000}
        networks = {"embedding": 32, "hidden": 64, "layers": 0, "weight_decay": 0.0}
    else:
        nao |= {"pool": 600, "every": 30, "held_out": 0.0}
        networks = {"layers": 3, "dropout": 0.0, "predictor_dropout": 0.1}
    config.strategy = choice(
        STRATEGIES,
        "nao",
        nao=nao | {"networks": networks},
        random={"candidates": candidates},
    )
    return config
