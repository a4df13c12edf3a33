"""DARTS on recurrent cells for Penn Treebank, the paper's setting, for an accelerator.

    python launch.py --config=configs/darts_rnn_ptb.py --workdir=runs/darts_rnn \
        --config.task.data.path=PATH/ptb

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search" (ICLR 2019): 50 epochs
of a mixture with 300 units, and steps of the architecture weights on the validation
text. The cell found is trained from scratch with 850 units. It has nine nodes, of which
the first has no choice of a parent, and an activation to choose where that of the paper
has tanh. Weights are those of ENAS, one matrix for each pair of nodes. The paper has
batch normalization in the search, and here the norm of the state is limited.
``configs/methods_rnn_pydoc.py`` is the same at a size for a CPU, with GAEA, ENAS and
random search.
"""

from ml_collections import ConfigDict

from wpl_jax.configs import enas_rnn_ptb, methods_rnn_pydoc


def get_config() -> ConfigDict:
    """The paper's settings."""
    config = enas_rnn_ptb.get_config()
    small = methods_rnn_pydoc.get_config("ptb")
    config.arms = ConfigDict({"none": {"penalty": {"name": "none"}}})
    config.main_arm = "none"
    config.strategy.name = "differentiable"
    config.strategy.differentiable = small.strategy.differentiable
    cell = config.space.recurrent_cell
    cell.hidden, cell.num_nodes, cell.output, cell.init_scale = 300, 9, "all", 0.04
    task = config.task.language_model
    task.batch_size = 256
    task.dropout = ConfigDict(
        {"embedding": 0.0, "input": 0.2, "output": 0.75, "recurrent": 0.25}
    )
    task.slowness_penalty = 1e-3
    # An epoch of the search trains one mixture on one pass over the text.
    config.search.epochs = 50
    config.search.children = 1
    config.search.batches = 103
    config.search.eval_batches = 5
    config.search.learn_per_call = 1
    sgd = config.optimizer.sgd
    sgd.learning_rate, sgd.weight_decay = 20.0, 5e-7
    sgd.exponential.decay = 1.0
    config.retrain.space.recurrent_cell.hidden = 850
    config.retrain.epochs = 3600
    return config
