"""How long an epoch of the paper's search should take on accelerators: arithmetic only.

python -m benchmarks.scaling [--product_us=5 --product_us=10] [--inside_gbs=300]

Nothing is run. The work of ``configs/enas_rnn_ptb.py`` is counted, and divided by what
the flags assume of the hardware; ``docs/scaling.md`` explains both. A range is that of
the two times of a product.
"""

from typing import NamedTuple

from absl import app, flags

from configs import enas_rnn_ptb

_PRODUCT_US = flags.DEFINE_multi_float(
    "product_us", [5.0, 10.0], "Microseconds of one dependent product: least, most."
)
_TFLOPS = flags.DEFINE_float("tflops", 400.0, "10^12 operations a second, sustained.")
_MEMORY_GBS = flags.DEFINE_float("memory_gbs", 3350.0, "GB/s of a device's memory.")
_INSIDE_GBS = flags.DEFINE_float(
    "inside_gbs", 300.0, "GB/s from a device to another one of its machine."
)
_BETWEEN_GBS = flags.DEFINE_float(
    "between_gbs", 25.0, "GB/s from a device to one of another machine."
)

WORDS = 10_000  # of the vocabulary of Penn Treebank
TRAINED = 3  # A training step takes as long as so many forward passes.
FLOAT = 4  # bytes
CHILDREN = UPDATES = 64  # an epoch, in the plans for 64 devices
REWARDS = 32  # of an update


class Work(NamedTuple):
    """The work of an epoch of the paper's search."""

    gflop: float  # of the forward pass of a batch
    chain: int  # its products that depend on each other
    product: int  # numbers in the kernel of one
    child: int  # parameters
    supernet: int
    forward: dict[str, int]  # passes of a batch, by phase


class Range(NamedTuple):
    """Seconds, with the shortest and with the longest time of a product."""

    least: float
    most: float

    def plus(self, other: "Range") -> "Range":
        """The sum."""
        return Range(self.least + other.least, self.most + other.most)

    def times(self, factor: float) -> "Range":
        """The product."""
        return Range(factor * self.least, factor * self.most)


def count() -> Work:
    """Counts the work from the configuration."""
    config = enas_rnn_ptb.get_config()
    cell, task = config.space.recurrent_cell, config.task.language_model
    search, nodes = config.search, cell.num_nodes
    kernel = 2 * cell.hidden**2
    embedding = cell.hidden * WORDS  # also the softmax's
    used, edges = nodes + 1, nodes * (nodes - 1) // 2
    return Work(
        gflop=2 * task.batch_size * task.length * (used * kernel + embedding) / 1e9,
        chain=nodes * task.length,
        product=kernel,
        child=used * kernel + embedding,
        supernet=(2 + edges) * kernel + embedding,
        forward={
            "training": search.children * search.batches * TRAINED,
            "Fisher": search.children * TRAINED,
            "err1 and err2": search.children * 2 * search.eval_batches,
            "controller": config.strategy.enas.steps,
        },
    )


def averaging(numbers: int, gbs: float) -> float:
    """Seconds in which a ring averages float32 numbers: it moves each twice."""
    return 2 * FLOAT * numbers / gbs / 1e9


def epoch(
    work: Work, forward: Range, devices: int, gbs: float, batches: int
) -> dict[str, Range]:
    """Seconds of the phases of an epoch of one search, as many children as devices."""
    groups = CHILDREN // devices
    average = averaging(work.supernet, gbs)
    step = forward.times(TRAINED).plus(Range(average, average))
    evaluated = 2 * groups * enas_rnn_ptb.get_config().search.eval_batches
    return {
        "training and Fisher": step.times(groups * (batches + 1)),
        "err1 and err2": forward.times(evaluated),
        "controller": forward.times(UPDATES * -(-REWARDS // devices)),
    }


def main(argv: list[str]) -> None:
    """Prints the estimates."""
    del argv
    work = count()
    least, most = (us * 1e-6 for us in _PRODUCT_US.value)
    forward = Range(work.chain * least, work.chain * most)
    passes = sum(work.forward.values())
    print(f"forward pass: {work.gflop:.0f} GFLOP, a chain of {work.chain} products")
    for phase, number in work.forward.items():
        tflop = number * work.gflop / 1e3
        print(f"{phase}: {number} passes, {tflop:.0f} TFLOP, {number / passes:.0%}")
    tflop = passes * work.gflop / 1e3
    print(f"all: {passes} passes, {tflop:.0f} TFLOP")
    print(f"  arithmetic alone: {tflop / _TFLOPS.value:.1f} s")
    print(f"  chains: {_said(forward.times(passes))}; 150 epochs: ", end="")
    print(_said(forward.times(150 * passes / 60), "min"))
    for name, size in (("bfloat16", 2), ("float32", 4)):
        us = size * work.product / _MEMORY_GBS.value / 1e3
        print(
            f"a product reads {size * work.product / 1e6:.0f} MB ({name}): {us:.1f} us"
        )
    print(f"step: {_said(forward.times(TRAINED * 1e3), 'ms')}")
    links = {"inside": _INSIDE_GBS.value, "between": _BETWEEN_GBS.value}
    for link, gbs in links.items():
        for what in ("child", "supernet"):
            numbers = getattr(work, what)
            ms = 1e3 * averaging(numbers, gbs)
            print(
                f"averaging a {what}, {4 * numbers / 1e6:.0f} MB, {link}: {ms:.1f} ms"
            )
    plans = {
        "one search on 64 devices": (64, "between", 1, 7),
        "one search on 64 devices, 100 batches": (64, "between", 1, 100),
        "eight searches on 8 devices each": (8, "inside", 8, 7),
    }
    for plan, (devices, link, searches, batches) in plans.items():
        found = epoch(work, forward, devices, links[link], batches)
        total = Range(0, 0)
        for phase, seconds in found.items():
            print(f"{plan}: {phase}: {_said(seconds)}")
            total = total.plus(seconds)
        rate = Range(searches / total.most, searches / total.least)
        print(f"{plan}: an epoch: {_said(total)}; epochs: {_said(rate, 'a second')}")


def _said(found: Range, unit: str = "s") -> str:
    return f"{found.least:.2g} to {found.most:.2g} {unit}"


if __name__ == "__main__":
    app.run(main)
