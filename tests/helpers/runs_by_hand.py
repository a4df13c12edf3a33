"""Folders of runs, written by hand, as far as a comparison reads them."""

import json

from wpl_jax.runs.monitor import Metrics
from wpl_jax.spaces.nasbench201_architectures import EDGES, OPERATIONS


def write_run(folder, found, arms=("none",), num_seeds=None, **config):
    """A run on NAS-Bench-201.

    Args:
      folder: Of the run.
      found: Of each finished search, by arm and seed, the choice by the benchmark's
        numbers.
      arms: All of them.
      num_seeds: Of the configuration; None for as many as have finished.
      **config: Further settings; a table is the truth unless they say otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [seed for _, seed in found]
    config = {
        "job": "search",
        "arms": {arm: {} for arm in arms},
        "seed": min(seeds, default=0),
        "num_seeds": num_seeds or len(set(seeds)),
        "ranking": {"truth": "table"},
        **config,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for (arm, seed), choice in found.items():
        write_search(folder / "searches" / f"{arm}-seed{seed}", choice, seed)


def write_search(folder, choice, seed=0):
    """What a finished search leaves; the space is one without ``none``."""
    metrics = Metrics(folder, resume_at=0)
    metrics.write(0, {"children/error": 1.0})
    metrics.close()
    decisions = {
        f"edge_{s}_{t}": OPERATIONS[number]
        for (s, t), number in zip(EDGES, choice, strict=True)
    }
    architecture = {"space": "nasbench201", "decisions": decisions}
    (folder / "architecture.json").write_text(json.dumps(architecture))
    results = {
        "architecture": [number - 1 for number in choice],
        "error_name": "error %",
        "valid_error": 40.0 + seed,
        "valid_loss": 1.0,
    }
    (folder / "results.json").write_text(json.dumps(results))
