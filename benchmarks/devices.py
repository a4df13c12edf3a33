"""What sharing work among devices costs, on forced CPU devices.

They all run on the same cores: a ratio of 1 is no overhead, and below 1 is what one
device leaves idle of them, which small operations do. What it says of accelerators is
how much of a step is collectives and what every device does again: noise for the whole
batch, the optimizer, the penalty.

Expected before measuring: in ``batch`` mode the recurrent cell's backward pass is the
same arithmetic cut into parts, with smaller products, and one average of a child's
gradient a step, some 3 % of the bytes that the step reads; the optimizer is done by
each device, N times the work on shared cores. In ``children`` mode each step also adds
up gradients of the whole supernet.
"""

import json
import os
import subprocess
import sys
from typing import Any

COUNTS = (1, 2, 4, 8)


def rows() -> list[dict]:
    """The benchmark's figures, from a process with eight devices."""
    flags = f"--xla_force_host_platform_device_count={max(COUNTS)}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.devices"]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure() -> list[dict]:
    # Not before JAX has been told of its devices.
    import jax
    import numpy as np

    from benchmarks import measure
    from configs import enas_rnn_pydoc
    from wpl_jax.jobs.search_config import make_search

    def call(count: int, children_per_step: int) -> Any:
        config = enas_rnn_pydoc.get_config()
        config.task.language_model.batch_size = 32
        config.search.children_per_step = children_per_step
        config.search.children = 8
        search, data, _ = make_search(config, num_devices=count)
        state = search.begin_epoch(search.init(jax.random.key(0)), np.int32(0))
        running = [search.evaluate_again(state, data, np.int32(0))]

        def train() -> Any:
            zero = np.int32(0)
            running[0] = search.train_child(running[0], data, zero, zero)
            return running[0].shared.params

        def evaluate() -> Any:
            state = running[0]
            for first in range(0, 8, search.at_once("evaluate")):
                state = search.evaluate_again(state, data, np.int32(first))
            return state.epoch.err2

        return train, evaluate

    calls = {}
    for count in COUNTS:
        calls[f"child {count}"], calls[f"err2 {count}"] = call(count, 1)
        calls[f"children {count}"], _ = call(count, 8)
    seconds = measure.interleaved_seconds(calls, rounds=7)
    labels = {
        "child": "a child's training, its batch shared",
        "children": "8 children trained together, shared",
        "err2": "8 children evaluated, shared",
    }
    return [
        {
            "benchmark": f"{label}",
            "figure": f"{count} devices / 1 device, on the same cores",
            **measure.ratio(seconds[f"{name} {count}"], seconds[f"{name} 1"]),
        }
        for name, label in labels.items()
        for count in COUNTS[1:]
    ]


if __name__ == "__main__":
    print(json.dumps(_measure()))
