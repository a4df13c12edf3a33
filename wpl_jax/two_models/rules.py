"""Rules that choose alpha on validation images, and what each choice is worth."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from wpl_jax.common.settings import check_choice, check_number
from wpl_jax.two_models.analysis import (
    Outcome,
    Reduction,
    relative_reduction,
    standard_error,
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Holds one model to a limit, and then makes the other as accurate as possible.

    Attributes:
      limit: What is limited: ``"prevented"`` is the share of A's loss that is at least
        prevented, ``"cost"`` the accuracy that B at most loses to no penalty.
      value: The limit, in [0, 1].
    """

    limit: Literal["prevented", "cost"]
    value: float

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_choice(self, "limit", ("prevented", "cost"))
        check_number(self, "value", least=0, most=1)

    def __str__(self) -> str:
        """The limit in words."""
        if self.limit == "cost":
            return f"B within {100 * self.value:g} points of no penalty"
        return f"{self.value:.0%} of A's loss prevented"


class Chosen(NamedTuple):
    """A penalty at the alpha that a rule chose for it."""

    without: Outcome  # the same setting without a penalty
    chosen: Outcome
    within: bool  # whether any alpha is within the rule's limit
    reduction: Reduction | None  # on test images; None where A did not forget

    @property
    def cost(self) -> np.ndarray:
        """What B loses to no penalty on the test images, ``float[seeds]``."""
        return self.without.final_test[:, 1] - self.chosen.final_test[:, 1]

    @property
    def cost_error(self) -> float:
        """Standard error of the mean cost."""
        return standard_error(self.cost)


def choose(without: Outcome, candidates: Sequence[Outcome], rule: Rule) -> Chosen:
    """Chooses alpha by a rule, from means over seeds on validation images.

    Args:
      without: The arm without a penalty.
      candidates: Arms of one penalty in the same setting, one for each alpha.
      rule: The rule.

    Returns:
      Among the alphas within the limit, the one under which the other model is most
      accurate; where none is, the one nearest to it. Test images have no part in the
      choice.
    """
    if rule.limit == "prevented":
        allowed, other = (1 - rule.value) * max(without.lost_valid.mean(), 0), 1
        losses = [arm.lost_valid.mean() for arm in candidates]
    else:
        allowed, other = rule.value, 0
        reached = without.final_valid[:, 1]
        losses = [(reached - arm.final_valid[:, 1]).mean() for arm in candidates]
    within = [i for i, loss in enumerate(losses) if loss <= allowed]
    if within:
        best = max(within, key=lambda i: candidates[i].final_valid[:, other].mean())
    else:
        best = int(np.argmin(losses))
    chosen = candidates[best]
    reduction = relative_reduction(without.lost_test, chosen.lost_test)
    return Chosen(without, chosen, bool(within), reduction)
