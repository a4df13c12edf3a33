"""The plan of a search: the sequence of its calls of compiled functions.

    plan = Plan(search, epochs=10)
    state, number = search.init(key), 0
    while number < len(plan):
        state = plan.advance(state, data, number)
        number += plan.count_taken(number)

The sequence is computed and never stored.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from wpl_jax.common.settings import (
    MOST_INT,
    MOST_OF_A_CALL,
    SettingError,
    check_int,
    check_number,
    check_parts,
    chosen,
    require,
)
from wpl_jax.engine.state import State
from wpl_jax.engine.updates import UPDATES, Joint, Update
from wpl_jax.tasks import Data

if TYPE_CHECKING:
    from wpl_jax.search import Search


MOST_EPOCHS = 1_000_000  # whose calls a plan counts


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """The length of a search, and its division into calls.

    Attributes:
      epochs: How often children are trained and the strategy learns.
      children: How many an epoch trains.
      children_per_step: How many of them are trained in one call; divides
        ``children``.
      update_rule: How these change the shared weights.
      batches: Batches that each is trained on.
      eval_batches: Validation batches of err1 and err2, the same for all.
      average_epochs: Number of last epochs whose shared weights, as they are at the end
        of each, are averaged for the selection and for ``--mode=rank``.
      learn_per_call: Steps of the strategy in a call; divides its steps.
      max_bad_steps: Steps in a row that are not finite, after which the search goes
        back to the start of the epoch.
      checkpoint_seconds: Between two checkpoints.
      start_from: Folder of another search, or of a training from scratch, whose weights
        are taken where they fit; None for initial weights.
    """

    epochs: int = 12
    children: int = 12
    children_per_step: int = 1
    update_rule: Update = chosen(UPDATES, Joint())
    batches: int = 7
    eval_batches: int = 5
    average_epochs: int = 1
    learn_per_call: int = 20
    max_bad_steps: int = 10
    checkpoint_seconds: float = 20.0
    start_from: str | None = None

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        check_int(self, "epochs", 1, most=MOST_EPOCHS)
        check_counts(self)
        check_int(self, "max_bad_steps", 1)
        check_int(self, "learn_per_call", 1, "in one call", most=MOST_OF_A_CALL)
        check_number(self, "checkpoint_seconds", least=0)
        check_int(self, "average_epochs", 1, "of the search", most=self.epochs)
        most = most_epochs(self.children, self.batches)
        require(self, "epochs", self.epochs <= most, f"at most {most}: {COUNTED}")

    @property
    def average_from(self) -> int | None:
        """First epoch of those that are averaged; None for the last epoch alone."""
        if self.average_epochs == 1:
            return None
        return self.epochs - self.average_epochs


COUNTED = "training batches are counted over all epochs, by int32"


def check_counts(search: Any) -> None:
    """Checks what a search counts in an epoch: its children and their batches.

    Args:
      search: An object with the fields ``children``, ``children_per_step``,
        ``batches`` and ``eval_batches``.

    Raises:
      SettingError: About one of them.
    """
    for name in ("children", "children_per_step", "eval_batches"):
        check_int(search, name, 1)
    check_int(search, "batches", 1, "in one call", most=MOST_OF_A_CALL)
    most = MOST_INT // search.batches
    require(search, "children", search.children <= most, f"at most {most}: {COUNTED}")
    valid = search.children % search.children_per_step == 0
    divisor = f"a divisor of the {search.children} children of an epoch"
    require(search, "children_per_step", valid, divisor)


def check_train_batches(search: "Search", data: Data) -> None:
    """Checks that children that are trained together see different batches.

    Args:
      search: The search.
      data: Of its task.

    Raises:
      SettingError: If there are fewer training batches than such children.
    """
    batches = search.task.num_batches(data, "train")
    expected = f"at most {batches}, the batches of the training data"
    fits = search.children_per_step <= batches
    require(search, "children_per_step", fits, expected)


class Excess(NamedTuple):
    """Settings that ask for more validation batches than there are.

    Attributes:
      numbers: Of batches, by the setting, which may be that of a part of the search.
      available: Batches of the validation data.
    """

    numbers: dict[str, int]
    available: int

    @property
    def expected(self) -> str:
        """What the settings should be, in words."""
        return f"at most {self.available}, the batches of the validation data"


def excess_of(search: "Search", data: Data) -> Excess:
    """The settings of a search with more batches than the validation data has.

    Batches would be counted twice. All settings are found together, because with less
    data most searches have several.

    Args:
      search: The search.
      data: Of its task.
    """
    candidates = search.strategy.candidates
    numbers = {
        "eval_batches": search.eval_batches,
        "strategy.candidates.screen_batches": candidates.screen_batches,
        "strategy.candidates.judge_batches": candidates.judge_batches or 0,
    }
    available = search.task.num_batches(data, "valid")
    over = {name: number for name, number in numbers.items() if number > available}
    return Excess(over, available)


def most_epochs(children: int, batches: int) -> int:
    """The most epochs of a search whose training batches int32 can count.

    Args:
      children: Children that an epoch trains.
      batches: Batches that each is trained on.
    """
    return min(MOST_EPOCHS, MOST_INT // (children * batches))


class Call(NamedTuple):
    """A call of a search for one child, candidate or stretch of learning.

    Several of a phase are one call where devices divide them among each other; what is
    counted and saved does not depend on how many devices there are.
    """

    epoch: int
    phase: str
    first: int  # child or step that it begins with
    last: bool  # whether the epoch is over after it


# A phase's name, how many calls it has, and by how much ``first`` grows.
Phase = tuple[str, int, int]


class Plan(Sequence[Call]):
    """The calls of all epochs, then those of the selection, in order.

    Attributes:
      epochs: How many there are.
      selection: Number of the first call of the selection.
    """

    def __init__(
        self, search: "Search", epochs: int, learn_per_call: int | None = None
    ):
        """Plans a search.

        Args:
          search: Its compiled functions.
          epochs: How many there are.
          learn_per_call: Steps of the strategy in a call; divides its steps. None for
            all of an epoch.

        Raises:
          SettingError: If it does not divide them, the strategy needs more epochs, or
            weights are averaged from an epoch on that does not come.
        """
        comes = search.average_from is None or search.average_from < epochs
        expected = f"an epoch before {epochs}, the number of epochs, or None"
        require(search, "average_from", comes, expected)
        search.strategy.check_epochs(epochs)
        self._search, self.epochs = search, epochs
        self._learn_per_call = learn_per_call
        calls = (sum(n for _, n, _ in self._phases(epoch)) for epoch in range(epochs))
        # Number of the first call of each epoch, and of the selection.
        self._starts = np.cumsum([0, *calls])
        self._selecting: tuple[Phase, ...] = (
            ("propose", 1, 1),
            ("screen", search.strategy.candidates.proposed, 1),
            ("keep", 1, 1),
            ("judge", search.num_judged, 1),
        )
        self.selection = int(self._starts[-1])
        self._total = self.selection + sum(count for _, count, _ in self._selecting)

    def advance(self, state: State, data: Data, number: int) -> State:
        """Makes the call with a number, and those that devices make with it.

        Args:
          state: After the call before it; its arrays are used up.
          data: Of the task.
          number: Of the call.

        Returns:
          The state after :meth:`count_taken` calls.
        """
        call, search = self[number], self._search
        epoch, first = np.int32(call.epoch), np.int32(call.first)
        match call.phase:
            case "train":
                if call.first == 0:
                    state = search.begin_epoch(state, epoch)
                return search.train_child(state, data, epoch, first)
            case "evaluate":
                return search.evaluate_again(state, data, first)
            case "learn":
                steps = self._phases(call.epoch)[-1][2]
                return search.learn(state, data, epoch, first, steps)
            case "propose":
                return search.propose(state)
            case "screen":
                return search.screen(state, data, first)
            case "keep":
                return search.keep(state)
            case "judge":
                return search.judge(state, data, first)
            case phase:
                raise ValueError(f"There is no phase {phase!r}.")

    def count_taken(self, number: int) -> int:
        """How many calls the one with this number makes at once."""
        call, count = self[number], self._search.at_once(self[number].phase)
        some = (self[i] for i in range(number, min(number + count, len(self))))
        return sum(one[:2] == call[:2] for one in some)

    def __len__(self) -> int:
        """How many calls there are."""
        return self._total

    @overload
    def __getitem__(self, number: int) -> Call: ...
    @overload
    def __getitem__(self, number: slice) -> list[Call]: ...
    def __getitem__(self, number):
        """The call with a number, or those of a slice."""
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(self._total))]
        if number < 0:
            number += self._total
        if not 0 <= number < self._total:
            raise IndexError(f"there are {self._total} calls, got number {number}")
        if number >= self.selection:
            phase, first = _find(self._selecting, number - self.selection)
            return Call(self.epochs, phase, first, last=False)
        epoch = int(np.searchsorted(self._starts, number, side="right")) - 1
        phase, first = _find(self._phases(epoch), number - int(self._starts[epoch]))
        return Call(epoch, phase, first, last=number + 1 == self._starts[epoch + 1])

    def _phases(self, epoch: int) -> tuple[Phase, ...]:
        children = self._search.children
        steps = self._search.strategy.steps_after(epoch)
        each = self._learn_per_call or max(steps, 1)
        if steps % each:
            expected = f"a divisor of the strategy's {steps} steps"
            raise SettingError("learn_per_call", each, expected)
        return (
            ("train", children, 1),
            ("evaluate", children, 1),
            ("learn", steps // each, each),
        )

    def begins_epoch(self, number: int) -> bool:
        """Whether an epoch, or the selection, begins with this call."""
        place = np.searchsorted(self._starts, number)
        return bool(place < len(self._starts) and self._starts[place] == number)


def _find(phases: tuple[Phase, ...], place: int) -> tuple[str, int]:
    """The phase of a place among all its calls, and where the call begins."""
    for name, count, step in phases:
        if place < count:
            return name, place * step
        place -= count
    raise IndexError(place)
