"""Networks that no search has found, as large as one that a search has found.

Is what a search finds better than what one would use without it? A baseline is a
network of a space of its own, with the sizes that the data gives. Its width makes its
number of parameters as close as possible to that of the architecture that it is
compared with. It is trained from scratch like that architecture
(``wpl_jax.evaluation.retraining``).

Zaremba et al., "Recurrent Neural Network Regularization" (2014), Cho et al. (2014) and
He et al. (2016) are the baselines' sources; ``enas_cell`` is the cell that Pham et al.
(2018) found on Penn Treebank.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from wpl_jax.common.registry import Registry, settings_name
from wpl_jax.common.settings import check_int, require
from wpl_jax.errors import UserError
from wpl_jax.spaces import SPACES
from wpl_jax.supernet import Architecture, Space

_MOST_WIDTH = 2**20


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A network without its width.

    Attributes:
      space: Name of its space in :data:`wpl_jax.spaces.SPACES`, or an import path.
      width: The field of the space that scales it, such as ``"hidden"``. The number of
        parameters grows with it.
      settings: Other fields of the space, but for those that the data gives.
      decisions: The choice of each decision of the space, by names.
      step: The width is a multiple of this.
    """

    space: str
    width: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    decisions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    step: int = 1

    def space_like(self, other: Space, width: int) -> Space:
        """The space of the baseline, for the data of another space.

        Args:
          other: A space for the same data.
          width: Of the baseline.

        Raises:
          UserError: If the baseline is for other data.
        """
        cls = SPACES[self.space]
        given = {**self.settings, self.width: width}
        for field in dataclasses.fields(cls):
            if field.name in given or field.default is not dataclasses.MISSING:
                continue
            if not hasattr(other, field.name):
                raise UserError(
                    f"the space {self.space} needs {field.name}, which the space "
                    f"{other.name} of the search does not have"
                )
            given[field.name] = getattr(other, field.name)
        return cls(**given)

    def choice(self, space: Space) -> np.ndarray:
        """The architecture, ``int32[num_decisions]``.

        Args:
          space: Of the baseline.
        """
        chosen = [d.choices.index(self.decisions[d.name]) for d in space.decisions]
        return np.array(chosen, np.int32)


def _enas_cell() -> dict[str, str]:
    """The published cell: of each node after the first the parent and the activation.

    Pham et al. (2018), figure 6.
    """
    nodes = (
        *((0, "tanh"), (1, "relu"), (2, "relu"), (2, "tanh"), (2, "tanh")),
        *((5, "relu"), (1, "tanh"), (6, "relu"), *3 * ((8, "relu"),)),
    )
    found = {"activation_0": "tanh"}
    for node, (parent, activation) in enumerate(nodes, 1):
        found[f"parent_{node}"] = f"node_{parent}"
        found[f"activation_{node}"] = activation
    return found


# By name: baselines, or their import paths.
BASELINES = Registry(
    "wpl_jax.baselines",
    {
        "enas_cell": Baseline(
            "recurrent_cell", "hidden", {"num_nodes": 12}, _enas_cell()
        ),
        "gru": Baseline("plain_recurrent", "hidden", {"cell": "gru"}),
        "lstm": Baseline("plain_recurrent", "hidden", {"cell": "lstm"}),
        "residual": Baseline("residual", "channels", {"blocks": 1}),
    },
)


@dataclasses.dataclass(frozen=True)
class Baselines:
    """Which baselines are trained beside what a search has found, and how large.

    Attributes:
      names: Of :data:`BASELINES`, or import paths.
      parameters: How many parameters each is to have; None for as many as the
        architecture that it is compared with.
    """

    names: tuple[str, ...] = ()
    parameters: int | None = None

    def __post_init__(self) -> None:
        """Checks the settings."""
        listed = isinstance(self.names, tuple) and all(
            isinstance(name, str) and name in BASELINES for name in self.names
        )
        known = f'some of {sorted(BASELINES)} or "package.module:NAME"'
        require(self, "names", listed, known)
        own = [settings_name(name) for name in self.names]
        require(self, "names", len(set(own)) == len(own), f"each once, {known}")
        check_int(self, "parameters", 1, optional=True)


class Fitted(NamedTuple):
    """A baseline with a width.

    Attributes:
      space: Of the baseline.
      choice: Its architecture, ``int32[num_decisions]``.
      width: As ``"hidden=81"``.
      parameters: How many it has.
    """

    space: Space
    choice: np.ndarray
    width: str
    parameters: int


def fit(baseline: Baseline, other: Space, parameters: int) -> Fitted:
    """The baseline with the width whose number of parameters is the closest.

    Found by bisection, from shapes.

    Args:
      baseline: The baseline.
      other: The space that it is compared with, for the same data.
      parameters: How many it is to have.

    Raises:
      UserError: If the baseline is for other data.

    Examples:
      >>> from wpl_jax.spaces.recurrent_cell import RecurrentCell
      >>> space = RecurrentCell(vocabulary_size=1000, hidden=64, num_nodes=8)
      >>> fit(BASELINES["lstm"], space, 139_000)[2:]
      ('hidden=83', 139444)
    """

    def at(units: int) -> Fitted:
        width = units * baseline.step
        space = baseline.space_like(other, width)
        choice = baseline.choice(space)
        name = f"{baseline.width}={width}"
        return Fitted(space, choice, name, count_parameters(space, choice))

    low = high = at(1)
    lower, upper = 1, 1
    while high.parameters < parameters and upper < _MOST_WIDTH:
        low, lower, upper = high, upper, 2 * upper
        high = at(upper)
    while upper - lower > 1:
        middle = (lower + upper) // 2
        found = at(middle)
        if found.parameters < parameters:
            low, lower = found, middle
        else:
            high, upper = found, middle
    return min(low, high, key=lambda one: abs(one.parameters - parameters))


def count_parameters(space: Space, choice: np.ndarray) -> int:
    """How many parameters an architecture has.

    Args:
      space: Its space.
      choice: ``int32[num_decisions]``.
    """
    return int(space.costs(Architecture(jnp.asarray(choice)))["parameters"])
