"""Variants of a computation for a platform, and the only place that chooses by it.

XLA's CPU backend is slow at some of what its GPU and TPU backends are built for, and a
core has a cache where they have wide memory. Each function here says which variant a
platform gets, and why. The choice is made when a program is lowered: it contains the
variant of its platform alone, unless it is exported for several.

The modules that call these functions say what they gain (jax 0.10.2).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_cache_or_at_once(
    *arguments: Any,
    in_cache: Callable[..., Any],
    at_once: Callable[..., Any],
) -> Any:
    """Computes in pieces that stay in the cache on a CPU, all at once elsewhere.

    A CPU that computes all at once writes large intermediates to memory and reads them
    again. An accelerator is idle where pieces are small and wait for each other. Used
    for scores of all words for a whole batch (``tasks/word_losses.py``), for the
    gradients of all examples (``curvature/squared_gradients.py``), and for sums over
    all pixels of a batch (``spaces/depthwise.py``).

    Args:
      *arguments: Trees of arrays, of both functions.
      in_cache: For CPUs.
      at_once: For all other platforms; computes the same, but for rounding.

    Returns:
      What the chosen function returns.
    """
    return jax.lax.platform_dependent(*arguments, cpu=in_cache, default=at_once)


def product_or_convolution(
    *arguments: Any,
    product: Callable[..., Any],
    convolution: Callable[..., Any],
) -> Any:
    """Computes a convolution as patches times kernel on a CPU, directly elsewhere.

    XLA's CPU backend is 8 to 30 times slower at the gradient of a convolution within a
    loop or a conditional than outside, and not slower at a product. An accelerator has
    kernels for convolutions, and would write the patches to memory. Used where cells
    are a loop and operations are a choice (``spaces/nasbench201.py``).

    Args:
      *arguments: Arrays, of both functions.
      product: For CPUs.
      convolution: For all other platforms; computes the same, but for rounding.

    Returns:
      What the chosen function returns.
    """
    return jax.lax.platform_dependent(*arguments, cpu=product, default=convolution)


def computed_once(x: jax.Array, one: jax.Array) -> jax.Array:
    """Keeps XLA's CPU backend from computing an array again for each of its users.

    The CPU backend fuses what is cheap into each of its users. In a chain of arrays,
    each used by all later ones, the work then grows with the square of their number,
    and faster. An optimization barrier is removed before XLA decides what to fuse. A
    division is not cheap to the CPU backend; one by a 1 that the compiler does not
    know changes no bit.

    Args:
      x: The array.
      one: ``[]``, a 1 that is computed from an argument of the program.

    Returns:
      ``x / one`` on a CPU, ``x`` on all other platforms.
    """
    return jax.lax.platform_dependent(x, one, cpu=jnp.divide, default=lambda x, one: x)
