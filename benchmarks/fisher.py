"""The per-example Fisher: time against a loop and one gradient, and memory.

Expected before measuring: where every weight meets one vector per example, the
estimator does one batched backward pass and one more matrix product per layer for
the squares, so about 1 to 1.5 times one batched gradient. A convolution's weight
gradient has to be written out per example; its products are as many as in the
batched gradient, so the ratio is set by how XLA runs them.
"""

import functools
import sys

import jax
import jax.numpy as jnp

from benchmarks import measure, models
from wpl_jax import per_example_fisher

MODELS = {"MLP": models.mlp, "convnet": models.convnet}
COUNT = 1000


def rows() -> list[dict]:
    """The benchmark's figures."""
    return [*_time_rows(), *_memory_rows()]


def _time_rows() -> list[dict]:
    found = []
    for name, make in MODELS.items():
        params, loss = make(jax.random.key(0))
        data = models.examples(jax.random.key(1), COUNT)
        functions = _functions(loss)
        seconds = measure.interleaved_seconds(
            {key: functools.partial(f, params, data) for key, f in functions.items()}
        )
        loop = _loop_seconds(loss, params, data)
        unit = seconds.pop("one batched gradient")
        for key, value in [*seconds.items(), ("Python loop over examples", loop)]:
            found.append(
                {
                    "benchmark": f"Fisher of {COUNT} examples, {name}",
                    "figure": f"{key} / one batched gradient",
                    "ratio": value / unit,
                    "seconds": value,
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


def _loop_seconds(loss, params, data, count: int = 100) -> float:
    """A jitted gradient called once an example, as PyTorch code does it."""
    gradient = jax.jit(jax.grad(loss))
    add = jax.jit(lambda total, g: jax.tree.map(lambda t, x: t + x**2, total, g))

    def loop():
        total = jax.tree.map(jnp.zeros_like, params)
        for i in range(count):
            example = jax.tree.map(lambda x, i=i: x[i], data)
            total = add(total, gradient(params, example))
        return total

    return measure.interleaved_seconds({"": loop}, rounds=3)[""] * COUNT / count


def _memory_rows() -> list[dict]:
    found = []
    for name in MODELS:
        peaks = {
            n: measure.peak_mebibytes("benchmarks.fisher", name, str(n))
            for n in (100, 10_000)
        }
        temporary = {n: _temporary_mebibytes(name, n) for n in peaks}
        for what, sizes in (("process", peaks), ("temporary buffers", temporary)):
            found.append(
                {
                    "benchmark": f"Fisher's peak memory, {name}",
                    "figure": f"10,000 examples / 100 examples, {what}",
                    "ratio": sizes[10_000] / sizes[100],
                    "mebibytes": sizes[10_000],
                }
            )
    return found


def _compiled(name: str, n: int):
    params, loss = MODELS[name](jax.random.key(0))
    shapes = jax.eval_shape(lambda: models.examples(jax.random.key(1), n))
    fisher = jax.jit(functools.partial(per_example_fisher, loss))
    return params, fisher.lower(params, shapes).compile()


def _temporary_mebibytes(name: str, n: int) -> float:
    _, compiled = _compiled(name, n)
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def main(name: str, n: str) -> None:
    """One Fisher in a process of its own; prints the peak memory."""
    params, compiled = _compiled(name, int(n))
    jax.block_until_ready(compiled(params, models.examples(jax.random.key(1), int(n))))
    measure.print_own_peak()


if __name__ == "__main__":
    main(*sys.argv[1:])
