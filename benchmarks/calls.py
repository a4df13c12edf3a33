"""What one call for many steps saves, and what a program for all children costs.

A search's calls are each many steps of training, or of the controller, on the device;
the alternative is a call a step with its result fetched, as a loop in Python does.
Expected before measuring, at the size of the built-in search: a call costs some 0.2 ms
beside a step of some 10 ms, and the loop's loss of the program's fusion about as much:
ratios just above 1. On an accelerator, where steps are shorter and a fetch waits, more.

The supernet's program for any child is beside that of one child written statically:
more to compile for what chooses, and memory for the shared weights that it updates in
place. Both at 200 units and 12 nodes, an epoch's call for one child of 7 steps.
"""

import functools
import time
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks import search as recurrent
from configs import enas_rnn_pydoc
from wpl_jax.jobs.search_config import make_search

STEPS, HIDDEN, BATCHES = 7, 200, 7
COMPILED = 5  # times
EPOCH = 5  # children


def rows() -> list[dict]:
    """The benchmark's figures."""
    return [*_loops(), *_programs()]


def _loops() -> list[dict]:
    config = enas_rnn_pydoc.get_config()
    calls = {}
    for steps in (1, STEPS):
        config.search.batches = steps
        search, data, _ = make_search(config)
        calls[f"train {steps}"] = functools.partial(_train, search, data, steps)
        calls[f"learn {steps}"] = functools.partial(_learn, search, data, steps)
        calls[f"epoch {steps}"] = functools.partial(_epoch, search, data, steps)
    seconds = measure.interleaved_seconds(calls, rounds=9)
    return [
        {
            "benchmark": f"{STEPS} {of}",
            "figure": "a call a step, result fetched / one call",
            **measure.ratio(seconds[f"{name} 1"], seconds[f"{name} {STEPS}"]),
        }
        for name, of in (
            ("train", "steps of training, recurrent"),
            ("learn", "steps of the controller"),
            (
                "epoch",
                f"steps of each of {EPOCH} children and of the controller",
            ),
        )
    ]


@functools.cache
def _state(search: Any) -> list:
    """A state that calls use up and replace."""
    return [search.init(jax.random.key(0))]


def _train(search: Any, data: Any, steps: int) -> Any:
    running, zero = _state(search), np.int32(0)
    for _ in range(STEPS // steps):
        running[0] = search.train_and_protect(running[0], data, zero, zero)
        jax.device_get(running[0].epoch.train_loss)
    return running[0].shared.params


def _learn(search: Any, data: Any, steps: int) -> Any:
    running, zero = _state(search), np.int32(0)
    for first in range(0, STEPS, steps):
        number = np.int32(first)
        running[0] = search.learn(running[0], data, zero, number, steps)
        jax.device_get(running[0].epoch.reward)
    return running[0].strategy.params


def _epoch(search: Any, data: Any, steps: int) -> Any:
    for _ in range(EPOCH):
        _train(search, data, steps)
    return _learn(search, data, steps)


def _programs() -> list[dict]:
    data = recurrent.make_data()
    running = recurrent.Running(HIDDEN, "wpl", BATCHES, data)
    static, params = recurrent.static_program(HIDDEN, BATCHES, data)
    zero = np.int32(0)
    programs = {
        "any child": (
            running.search.train_and_protect,
            (running.state, data, zero, zero),
        ),
        "one child": (static, (params,)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    sizes = {}
    for _ in range(COMPILED):
        for name, (program, arguments) in programs.items():
            jax.clear_caches()  # It would be remembered.
            lowered = program.lower(*arguments)
            start = time.perf_counter()
            analysis = lowered.compile().memory_analysis()
            seconds[name].append(time.perf_counter() - start)
            sizes[name] = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    benchmark = f"program, recurrent, hidden {HIDDEN}"
    label = "any child with WPL / one child statically"
    return [
        {
            "benchmark": benchmark,
            "figure": f"compilation, {label}",
            **measure.ratio(seconds["any child"], seconds["one child"]),
        },
        {
            "benchmark": benchmark,
            "figure": f"memory, {label}",
            "ratio": sizes["any child"] / sizes["one child"],
        },
    ]
