"""The choice of one operation among several, by a number that is data."""

from collections.abc import Callable, Sequence
from typing import Any

import jax


def switch(
    index: jax.Array,
    branches: Sequence[Callable[..., Any]],
    *operands: Any,
    keep: Callable[..., bool] | None = None,
) -> Any:
    """``jax.lax.switch`` whose backward pass computes the chosen branch again.

    So a branch keeps its operands alone. Otherwise each branch returns, as zeros, what
    the backward passes of the others need: for a 3x3 convolution nine copies of the
    image. That takes longer than the operation.

    Args:
      index: Number of the branch, ``int32[]``.
      branches: Functions of the operands, with results of the same form.
      *operands: Of the branch.
      keep: Policy of :func:`jax.checkpoint` that names what is kept and not computed
        again. All branches return as many arrays as the one that keeps most.
    """
    return jax.lax.switch(
        index, [jax.checkpoint(b, policy=keep) for b in branches], *operands
    )
