"""Fisher diagonals in JAX: ours, and those of optax, kfac-jax and laplax.

Each is a compiled call without arguments, which computes the diagonal as a dictionary
of arrays. Imports stand in the functions: each library may be missing.
"""

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.field.models import UnsupportedError
from benchmarks.field.networks import LOGITS, cross_entropy


class Call:
    """A compiled function with its arguments.

    Attributes:
      mebibytes: Memory of the results and of what is stored in between, by XLA.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        """Compiles a jitted function."""
        self._compiled = function.lower(*arguments).compile()
        self._arguments = arguments
        sizes = self._compiled.memory_analysis()
        used = sizes.temp_size_in_bytes + sizes.output_size_in_bytes
        self.mebibytes = used / 2**20

    def __call__(self) -> Any:
        """What the function returns, when it is there."""
        return jax.block_until_ready(self._compiled(*self._arguments))


LARGEST_LAPLAX = 2e4  # weights; each takes a forward and a backward derivative
MOST = 2**31  # bytes of the gradients that are in memory at a time


def gradient(name: str, weights: Any, x: Any, y: Any) -> Call:
    """One batched gradient of the mean loss."""

    @jax.jit
    def of(weights, x, y):
        return jax.grad(lambda w: jnp.mean(cross_entropy(LOGITS[name](w, x), y)))(
            weights
        )

    return Call(of, weights, x, y)


def _loss(name: str) -> Callable[[Any, Any], jax.Array]:
    def loss(weights, example):
        x, y = example
        return cross_entropy(LOGITS[name](weights, x[None]), y[None])[0]

    return loss


def ours(name: str, weights: Any, x: Any, y: Any) -> Call:
    """``wpl_jax.per_example_fisher`` with its defaults."""
    import wpl_jax

    of = jax.jit(functools.partial(wpl_jax.per_example_fisher, _loss(name)))
    return Call(of, weights, (x, y))


def ours_exact(name: str, weights: Any, x: Any, y: Any) -> Call:
    """``wpl_jax.exact_fisher``: the expectation over all classes."""
    del y
    import wpl_jax

    def logits(weights, x):
        return LOGITS[name](weights, x[None])[0]

    of = jax.jit(functools.partial(wpl_jax.exact_fisher, logits))
    return Call(of, weights, x)


def optax_micro_grad(name: str, weights: Any, x: Any, y: Any) -> Call:
    """``optax.microbatching.micro_grad`` with its fastest number of examples at once.

    Numbers whose gradients take more than 2 GiB are not tried.
    """
    import optax
    from optax import microbatching

    del optax
    count = sum(w.size for w in weights.values())

    def of_size(size):
        squares = microbatching.micro_grad(
            lambda w, x, y: cross_entropy(LOGITS[name](w, x), y)[0],
            batch_argnums=(1, 2),
            microbatch_size=size,
            accumulator=microbatching.AccumulationType.MEAN,
            transform_fn=lambda g: jax.tree.map(jnp.square, g),
        )
        return Call(jax.jit(lambda *given: squares(*given)[0]), weights, x, y)

    sizes = {s for s in (8, len(x)) if len(x) % s == 0 and 4 * s * count <= MOST}
    return fastest(map(of_size, sorted({1, *sizes})))


def fastest(calls: Iterable[Call]) -> Call:
    """The call that takes the least CPU time; each is tried once."""

    def seconds(call):
        start = time.process_time()
        call()
        return time.process_time() - start

    return min(calls, key=seconds)


def kfac_jax_diagonal(name: str, weights: Any, x: Any, y: Any) -> Call:
    """The diagonal blocks of kfac-jax, with the labels of the data."""
    import kfac_jax
    from kfac_jax._src.curvature_blocks import diagonal

    def loss(weights, batch):
        x, y = batch
        logits = LOGITS[name](weights, x)
        kfac_jax.register_softmax_cross_entropy_loss(logits, y)
        return jnp.mean(cross_entropy(logits, y))

    estimator = kfac_jax.BlockDiagonalCurvature(
        loss,
        default_estimation_mode="fisher_empirical",
        layer_tag_to_block_ctor={
            "dense": diagonal.DenseDiagonal,
            "conv2d": diagonal.Conv2DDiagonal,
            "scale_and_shift": diagonal.ScaleAndShiftDiagonal,
        },
    )
    n, arguments = len(x), (weights, (x, y))
    settings = {
        "exact_powers_to_cache": None,
        "approx_powers_to_cache": None,
        "cache_eigenvalues": False,
    }
    try:
        state = estimator.init(jax.random.key(0), arguments, **settings)
    except ValueError as error:  # for example weights in a loop
        raise UnsupportedError(str(error).split(":")[0]) from error
    other = {type(b).__name__ for b in estimator.blocks} & {
        "NaiveDiagonal",  # the square of the batch's gradient
        "RepeatedDenseKroneckerFactored",
    }
    if other:
        raise UnsupportedError(f"its blocks here are {', '.join(sorted(other))}")

    @jax.jit
    def of(state, weights, batch):
        state = estimator.update_curvature_matrix_estimate(
            state,
            ema_old=0.0,
            ema_new=1.0,
            identity_weight=0.0,
            batch_size=n,
            rng=jax.random.key(0),
            func_args=(weights, batch),
        )
        found = estimator.blocks_vectors_to_params_vector(
            [[f.value for f in s.diagonal_factors] for s in state.blocks_states]
        )
        # It divides by the number of examples twice.
        return jax.tree.map(lambda f: n * f, found)

    return Call(of, state, *arguments)


def laplax_diagonal(name: str, weights: Any, x: Any, y: Any) -> Call:
    """The diagonal of laplax's Gauss-Newton matrix, which is the exact Fisher here."""
    from laplax.curv import create_ggn_mv
    from laplax.util.mv import diagonal

    count = sum(w.size for w in weights.values())
    if count > LARGEST_LAPLAX:
        raise UnsupportedError(f"{count:,} products with the matrix, one a weight")
    product = create_ggn_mv(
        lambda input, params: LOGITS[name](params, input[None])[0],
        weights,
        {"input": x, "target": y},
        "cross_entropy",
    )
    keys = sorted(weights)  # the order of the leaves
    ends = np.cumsum([weights[key].size for key in keys])[:-1]

    @jax.jit
    def of():
        flat = diagonal(product, layout=weights) / len(x)
        return {
            key: part.reshape(weights[key].shape)
            for key, part in zip(keys, jnp.split(flat, ends), strict=True)
        }

    return Call(of)


CALLS = {
    "gradient": gradient,
    "wpl_jax": ours,
    "wpl_jax, exact": ours_exact,
    "optax micro_grad": optax_micro_grad,
    "kfac-jax": kfac_jax_diagonal,
    "laplax": laplax_diagonal,
}
