"""Two models that share layers on MNIST, the experiment of section 4.1.

    python launch.py --config=configs/two_models_mnist.py --workdir=runs/mnist \
        --config.data.path=PATH/mnist.npz

About 12 minutes of one CPU core for 20 seeds and all penalties. docs/two_models.md has
what comes out.
"""

from ml_collections import ConfigDict, config_dict

from wpl_jax.engine.optimizers import Sgd
from wpl_jax.jobs.build import settings
from wpl_jax.two_models.arms import Study
from wpl_jax.two_models.rules import Rule


def get_config() -> ConfigDict:
    """The settings; any can be overridden by ``--config.NAME=VALUE``."""
    config = ConfigDict()
    config.job = "two_models"
    config.seed = 0
    config.num_seeds = 20

    config.data = ConfigDict()
    config.data.format = "npz"
    config.data.path = config_dict.placeholder(str)
    config.data.valid = 5000

    # Narrow layers: with 200 units A hardly forgets, with 30 less than in the paper.
    config.hidden = 15
    config.layers_a = 4
    config.layers_b = 6
    config.activation = "relu"
    config.batch_size = 32
    config.model_a = ConfigDict(
        {"optimizer": "sgd", "sgd": settings(Sgd, learning_rate=0.05), "steps": 2000}
    )
    config.model_b = ConfigDict(
        {"optimizer": "sgd", "sgd": settings(Sgd, learning_rate=0.05), "steps": 1500}
    )
    config.model_b.eval_every = 100

    config.fisher_examples = 200  # validation images the Fisher is estimated on
    config.eval_examples = 1000  # validation images for the curves
    # Accuracies that a loose A is stopped at: those of the paper, and one above them.
    config.stops = (0.38, 0.43, 0.55, 0.8)
    config.checkpoint_seconds = 10.0

    # What the report's tables and curves are of. A stop of 1 is a converged A.
    config.main = ConfigDict()
    config.main.penalty = "wpl"
    config.main.step = "proximal"
    config.main.normalize = "tree"
    config.main.stop = 0.55
    config.main.shared = 3
    config.main.rule = "b_within_2_points"

    config.rules = ConfigDict()
    config.rules.b_within_2_points = settings(Rule, limit="cost", value=0.02)
    config.rules.a_kept = settings(Rule, limit="prevented", value=0.99)

    alphas = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    config.studies = ConfigDict()
    config.studies.methods = settings(
        Study,
        penalties=("l2", "ewc", "wpl_batch", "wpl"),
        steps=("explicit", "proximal"),
        stops=(0.55, 0.8),
        alphas=alphas,
    )
    config.studies.raw = settings(
        Study,
        steps=("explicit", "proximal"),
        normalize="none",
        stops=(0.55,),
        alphas=tuple(10.0**i for i in range(-1, 8)),
    )
    config.studies.sharing = settings(Study, shared=(1, 2, 3, 4), alphas=alphas)
    config.studies.loose = settings(Study, stops=config.stops, alphas=alphas)
    return config
