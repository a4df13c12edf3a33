"""The two kinds of networks with choices: functions, and Flax NNX modules.

Both are used as a function of parameters and inputs, so that nothing else of this
package knows which of the two a network is.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from wpl_jax.devices.axis import NAME, NO_AXIS, Axis
from wpl_jax.spaces.batch_normalization import Moments


class Mode(NamedTuple):
    """How a network is run.

    Attributes:
      key: PRNG key of dropout and the like, in training; None in evaluation.
      batch_stats: Batch statistics to normalize with, as a run returned them; None for
        those of the batch.
      axis: Devices that divide the batch.
    """

    key: jax.Array | None = None
    batch_stats: Any = None
    axis: Axis = NO_AXIS


class Network(Protocol):
    """A network as a function of its parameters."""

    def init(self, key: jax.Array) -> Any:
        """The parameters of all branches, a tree of arrays."""

    def run(self, params: Any, inputs: tuple[Any, ...], mode: Mode) -> tuple[Any, Any]:
        """What the network returns, and its batch statistics."""


class FunctionNetwork(Network):
    """A plain function of parameters and inputs.

    If the function has an argument ``key`` or ``axis``, it is given that of the mode;
    other keyword arguments are given here.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        init: Callable[[jax.Array], Any],
        **settings: Any,
    ):
        """Takes the function, what draws its parameters, and keyword arguments."""
        self._init = init
        names = inspect.signature(function).parameters
        self._takes = {"key", "axis"}.intersection(names)
        own = {name: value for name, value in settings.items() if name in names}
        self._function = functools.partial(function, **own)

    def init(self, key: jax.Array) -> Any:
        """Draws the parameters."""
        return self._init(key)

    def run(self, params: Any, inputs: tuple[Any, ...], mode: Mode) -> tuple[Any, Any]:
        """Calls the function; there are no batch statistics."""
        keywords = {name: getattr(mode, name) for name in self._takes}
        return self._function(params, *inputs, **keywords), ()


class ModuleNetwork(Network):
    """A Flax NNX module; ``nnx.Param`` are the parameters.

    Batch statistics are those of ``flax.nnx.BatchNorm``. Other variables are
    constants: each run starts from what the module was made with.
    """

    def __init__(self, make: Callable[[Any], Any]):
        """Takes a function that makes the module from ``nnx.Rngs``."""
        from flax import nnx

        self._nnx, self._make = nnx, make
        abstract = nnx.eval_shape(lambda: make(nnx.Rngs(jax.random.key(0))))
        parts: Any = nnx.split(abstract, nnx.Param, ...)
        self._graph: Any = parts[0]
        self._params_tree = jax.tree.structure(parts[1])
        self._has_rest = bool(jax.tree.leaves(parts[2]))

    def init(self, key: jax.Array) -> Any:
        """The parameters, nested by the names of the module's attributes."""
        module = self._make(self._nnx.Rngs(key))
        return self._nnx.to_pure_dict(self._nnx.state(module, self._nnx.Param))

    def module(self, params: Any, batch_stats: Any = None, rest: Any = None) -> Any:
        """The module with given parameters.

        Args:
          params: As :meth:`init` returns them.
          batch_stats: As :meth:`run` returns them; None for those that it was made
            with.
          rest: Variables that are no parameters; None for those that it was made with.
        """
        nnx = self._nnx
        state = jax.tree.unflatten(self._params_tree, jax.tree.leaves(params))
        found = nnx.merge(
            self._graph, state, self._seeded(None) if rest is None else rest
        )
        for name, norm in self._norms(found) if batch_stats else ():
            given = batch_stats[name]
            norm.mean[...], norm.var[...] = given.mean, given.variance
        return found

    def _norms(self, module: Any) -> list[tuple[str, Any]]:
        """Batch normalizations of a module, with their paths."""
        nnx = self._nnx
        return [
            ("/".join(map(str, path)), node)
            for path, node in nnx.iter_graph(module)
            if isinstance(node, nnx.BatchNorm)
        ]

    @functools.cached_property
    def _constants(self) -> Any:
        """Variables that are no parameters, as the module was made with them."""
        nnx = self._nnx
        if not self._has_rest:
            return nnx.State({})

        def rest(key: jax.Array) -> Any:
            module = self._make(nnx.Rngs(key))
            return nnx.split(module, nnx.Param, ...)[2]

        with jax.ensure_compile_time_eval():
            # With the key as an argument nothing is computed while this is traced, and
            # the parameters, which are not returned, are not drawn.
            return jax.jit(rest)(jax.random.key(0))

    def run(self, params: Any, inputs: tuple[Any, ...], mode: Mode) -> tuple[Any, Any]:
        """Calls the module in training or evaluation mode."""
        module = self.module(params, mode.batch_stats, self._seeded(mode.key))
        module.set_attributes(
            deterministic=mode.key is None,
            use_running_average=mode.batch_stats is not None,
            raise_if_not_found=False,
        )
        norms = self._norms(module)
        for _, norm in norms:
            norm.momentum = 0.0  # The running average is then that of the batch.
            if mode.axis.size > 1:
                norm.axis_name = NAME
        found = module(*inputs)
        stats = {name: Moments(norm.mean[...], norm.var[...]) for name, norm in norms}
        return found, jax.lax.stop_gradient(stats)

    def _seeded(self, key: jax.Array | None) -> Any:
        """Variables that are no parameters, their keys derived from ``key``."""
        nnx, rest = self._nnx, self._constants
        # New variables, which belong to the current trace.
        rest = jax.tree.map(lambda x: x, rest)
        if key is None:
            return rest
        for number, (_, variable) in enumerate(nnx.to_flat_state(rest)):
            if isinstance(variable, nnx.RngKey):
                shape = np.shape(variable[...])
                own = jax.random.fold_in(key, number)
                variable[...] = jax.random.split(own, shape) if shape else own
        return rest
