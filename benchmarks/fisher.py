"""The per-example Fisher: time against a loop and one gradient, and memory.

    python -m benchmarks.run --only=fisher
    python -m benchmarks.fisher  # temporary buffers alone, which needs no idle machine

Expected before measuring: where every weight meets one vector per example, the
estimator does one batched backward pass and one more matrix product per layer for
the squares, so about 1 to 1.5 times one batched gradient. Where it meets several, as
in convolutions, over time or in attention, the gradient of each example has to be
written to memory; its products are as many as in the batched gradient, and one buffer
of the weight's size is squared and added for each example: 1 to 2. Standardized weights
need three more products for the two sums over them: 2.3 times the operations.
"""

import functools
import statistics
import sys

import jax
import jax.numpy as jnp

from benchmarks import measure, models
from wpl_jax import per_example_fisher

MODELS = {"MLP": models.mlp, "convnet": models.convnet}
CHANGED = {
    "weights / sqrt(n)": models.changed_mlp(lambda w: w / len(w) ** 0.5),
    "weight standardization": models.changed_mlp(models.standardize),
    "a dense layer used twice": models.changed_mlp(lambda w: w, times=2),
    "batch normalization, evaluation": models.normalized_convnet,
    "GRU over 16 steps": models.gru,
    "transformer block": models.transformer,
}
COUNT = 1000
FEW, MANY = 100, 10_000
MORE_THAN_CHUNKS = 256, 1024  # examples; a chunk has 128


def rows() -> list[dict]:
    """The benchmark's figures."""
    return [*_time_rows(), *_memory_rows(), *temporary_rows()]


def _time_rows() -> list[dict]:
    found = []
    for name, make in (MODELS | CHANGED).items():
        params, loss = make(jax.random.key(0))
        data = models.examples(jax.random.key(1), COUNT)
        functions = _functions(loss)
        if name in MODELS:
            functions["Python loop over examples"] = _loop(loss)
        seconds = measure.interleaved_seconds(
            {key: functools.partial(f, params, data) for key, f in functions.items()},
            rounds=9,
        )
        unit = seconds.pop("one batched gradient")
        for key, value in seconds.items():
            found.append(
                {
                    "benchmark": f"Fisher of {COUNT} examples, {name}",
                    "figure": f"{key} / one batched gradient",
                    **measure.ratio(value, unit),
                    "seconds": statistics.median(value),
                }
            )
    return found


def _functions(loss):
    @jax.jit
    def gradient(params, data):
        losses = jax.vmap(loss, (None, 0))
        return jax.grad(lambda p: jnp.mean(losses(p, data)))(params)

    @jax.jit
    def vmapped(params, data):
        gradients = jax.vmap(jax.grad(loss), (None, 0))(params, data)
        return jax.tree.map(lambda g: jnp.mean(g**2, 0), gradients)

    return {
        "one batched gradient": gradient,
        "per_example_fisher": jax.jit(functools.partial(per_example_fisher, loss)),
        "vmap of the gradient": vmapped,
    }


def _loop(loss):
    """A jitted gradient called once an example, as PyTorch code does it."""
    gradient = jax.jit(jax.grad(loss))
    add = jax.jit(lambda total, g: jax.tree.map(lambda t, x: t + x**2, total, g))

    def loop(params, data):
        total = jax.tree.map(jnp.zeros_like, params)
        for i in range(COUNT):
            example = jax.tree.map(lambda x, i=i: x[i], data)
            total = add(total, gradient(params, example))
        return total

    return loop


def _memory_rows() -> list[dict]:
    found = []
    for name in MODELS:
        few, many = (
            measure.peak_mebibytes("benchmarks.fisher", name, str(n))
            for n in (FEW, MANY)
        )
        found.append(
            {
                "benchmark": f"Fisher's peak memory, {name}",
                "figure": f"{MANY} examples / {FEW} examples, whole process",
                "ratio": many / few,
                "mebibytes": many,
            }
        )
    return found


def temporary_rows() -> list[dict]:
    """How the temporary buffers of the compiled program grow with the examples.

    That is XLA's count of what is stored between arguments and results. The peak of a
    process also has the data, the program and JAX, which hide a small growth.
    """
    found = []
    few, many = MORE_THAN_CHUNKS
    for name, make in (MODELS | CHANGED).items():
        params, loss = make(jax.random.key(0))
        functions = _functions(loss)
        for key in ("per_example_fisher", "one batched gradient"):
            small, large = (
                _compile(functions[key], params, n).memory_analysis().temp_size_in_bytes
                for n in MORE_THAN_CHUNKS
            )
            found.append(
                {
                    "benchmark": f"temporary buffers, {name}",
                    "figure": f"{key}, {many} examples / {few} examples",
                    "ratio": large / small,
                    "mebibytes": large / 2**20,
                }
            )
    return found


def _compile(function, params, n: int):
    shapes = jax.eval_shape(lambda: models.examples(jax.random.key(1), n))
    return function.lower(params, shapes).compile()


def main(name: str, n: str) -> None:
    """One Fisher in a process of its own; prints the peak memory."""
    params, loss = MODELS[name](jax.random.key(0))
    fisher = jax.jit(functools.partial(per_example_fisher, loss))
    compiled = _compile(fisher, params, int(n))
    # All are in memory however many are used: the data set is not the Fisher's.
    data = models.examples(jax.random.key(1), MANY)
    used = jax.tree.map(lambda x: x[: int(n)], data)
    jax.block_until_ready(compiled(params, used))
    measure.print_own_peak()


if __name__ == "__main__":
    if sys.argv[1:]:
        main(*sys.argv[1:])
    else:
        for row in temporary_rows():
            print(f"{row['benchmark']:52} {row['figure']:52}", end="")
            print(f" {row['ratio']:5.2f} {row['mebibytes']:7.1f} MiB")
