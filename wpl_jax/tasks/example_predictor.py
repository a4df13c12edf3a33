"""What predictors of independent examples, such as images, have in common."""

from abc import ABC, abstractmethod
from typing import Any

import jax
import numpy as np

from wpl_jax.supernet import Architecture, Space
from wpl_jax.tasks.network_call import call


class ExamplePredictor(ABC):
    """Calls the network as the task does in training (:mod:`.network_call`)."""

    @abstractmethod
    def to_network(self, inputs: jax.Array) -> jax.Array:
        """A batch as the network takes it."""

    @abstractmethod
    def predictions(self, outputs: jax.Array) -> jax.Array:
        """What :meth:`apply` returns, from what the network returns for a batch."""

    @abstractmethod
    def form(self) -> tuple[tuple[int | str, ...], np.dtype]:
        """Shape and dtype of a batch, with a name for the number of examples."""

    def apply(
        self,
        space: Space,
        child: Any,
        architecture: Architecture,
        statistics: Any,
        inputs: jax.Array,
    ) -> jax.Array:
        """Log-probabilities of the classes, or what the network returns.

        An example is judged by itself: activations are normalized with ``statistics``.
        """
        given = statistics if jax.tree.leaves(statistics) else None
        network = self.to_network(inputs)
        outputs = call(space, child, architecture, network, batch_stats=given).logits
        return self.predictions(outputs)

    def statistics_form(
        self, space: Space, child: Any, architecture: Architecture
    ) -> Any:
        """Shapes of the batch statistics, those of a batch of two examples.

        Without batch statistics it is a tree without leaves.
        """

        def found(child, inputs):
            network = self.to_network(inputs)
            return call(space, child, architecture, network).batch_stats

        (_, *shape), dtype = self.form()
        return jax.eval_shape(found, child, jax.ShapeDtypeStruct((2, *shape), dtype))
