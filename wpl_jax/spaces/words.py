"""What a space of language models is."""

from typing import Any, Protocol

import jax

from wpl_jax.supernet import Space


class RecurrentSpace(Space, Protocol):
    """A space of recurrent language models."""

    @property
    def vocabulary_size(self) -> int:
        """The number of words."""

    def logits(self, params: Any, hidden: jax.Array) -> jax.Array:
        """Scores of the words, ``float[..., vocabulary]``."""

    def initial_state(self, batch: int) -> jax.Array:
        """The state before the first word."""
