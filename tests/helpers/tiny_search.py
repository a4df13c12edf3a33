"""The smallest search of a recurrent cell on real text.

This file is a configuration (``--config=tests/helpers/tiny_search.py``) and a module
of what tests of searches share.
"""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from configs import enas_rnn_pydoc

RUNS = ("wpl-seed0", "none-seed0")
# What a search leaves that may not depend on when or where it ran.
SAME_BYTES = (
    "metrics.jsonl",
    "architecture.json",
    "results.json",
    "retrain/metrics.jsonl",
    "retrain/retrained.json",
)


def assert_same(workdir: Path, expected: Path, runs: Sequence[str] = RUNS) -> None:
    """Two runs of the same searches left the same."""
    for run in runs:
        for name in SAME_BYTES:
            path = f"searches/{run}/{name}"
            assert (workdir / path).read_bytes() == (expected / path).read_bytes(), path


def get_config() -> ConfigDict:
    """Two arms of two epochs, and a retraining of each."""
    config = enas_rnn_pydoc.get_config()
    config.num_seeds = 1
    config.space.recurrent_cell.hidden = 6
    config.space.recurrent_cell.num_nodes = 3
    config.task.data.min_count = 1
    config.task.data.max_vocabulary = 50
    config.task.language_model.batch_size = 4
    config.task.language_model.length = 6
    config.search.epochs = 2
    config.search.children = 3
    config.search.batches = 2
    config.search.eval_batches = 2
    config.search.learn_per_call = 2
    config.search.checkpoint_seconds = 0.0
    for name in ("ewc", "l2", "wpl"):
        config.penalty[name].start_epoch = 0
    for name in ("ewc", "wpl"):  # It compiles faster than "per_example".
        config.penalty[name].estimator = "batch"
    config.strategy.enas.steps = 4
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 4, "screen_batches": 1, "keep": 1}
    )
    config.retrain.epochs = 1
    config.retrain.checkpoint_seconds = 0.0
    config.retrain.baselines.names = ()
    config.retrain.optimizer.sgd.learning_rate = 0.5  # At 20 it amplifies rounding.
    config.retrain.space = ConfigDict({"recurrent_cell": {"hidden": 5}})
    config.retrain.task = ConfigDict({"language_model": {"batch_size": 20}})
    return config
