"""GAEA on NAS-Bench-201's space, the paper's setting, for an accelerator.

    python launch.py --config=configs/gaea_nb201.py \
        --workdir=runs/gaea_nb201 --config.task.data.path=PATH/cifar10

Li, Khodak, Balcan, Talwalkar, "Geometry-Aware Gradient Algorithms for Neural
Architecture Search" (ICLR 2021): the first 25 epochs of a learning rate schedule over
50, in a single level, with independent batches for the two kinds of weights. The
authors' text and AutoDL-Projects have 16 channels, the released configuration of the
authors has 24. They train on all 50,000 images. Here 1,000 of these are validation
images, on which the result is evaluated. ``configs/gaea_nb201_small.py`` is the same at
a size for a CPU.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import gaea_nb201_small


def get_config() -> ConfigDict:
    """The settings of the paper, for images of 32x32."""
    config = gaea_nb201_small.get_config()
    config.num_seeds = 3
    config.space.nasbench201.channels = 16
    config.space.nasbench201.cells = 5
    task = config.task.image_classification
    task.shrink = 1
    task.batch_size = 64
    task.augmentation.crop = 4
    config.task.data.train, config.task.data.valid = 49_000, 1_000
    strategy = config.strategy.differentiable
    strategy.shared_pass, strategy.own_batch = False, True
    config.search.epochs = 25
    config.search.batches = 765
    config.search.eval_batches = strategy.candidates.judge_batches = 15
    config.optimizer.sgd.learning_rate = 0.025
    config.optimizer.sgd.cosine.period = 50
    return config
