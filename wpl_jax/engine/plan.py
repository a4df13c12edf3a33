"""The sequence of calls that a search is made of, computed and never stored."""

from collections.abc import Sequence
from typing import NamedTuple, overload


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


class Calls(Sequence[Call]):
    """The calls of all epochs, then those of the selection, in order."""

    def __init__(
        self, epochs: int, of_epoch: tuple[Phase, ...], of_selection: tuple[Phase, ...]
    ):
        """Takes the phases of an epoch, and those after the last."""
        self._epochs, self._phases, self._selecting = epochs, of_epoch, of_selection
        self._per_epoch = sum(count for _, count, _ in of_epoch)
        self.selection = epochs * self._per_epoch  # number of its first call
        self._total = self.selection + sum(count for _, count, _ in of_selection)

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
            return Call(self._epochs, phase, first, last=False)
        epoch, place = divmod(number, self._per_epoch)
        phase, first = _find(self._phases, place)
        return Call(epoch, phase, first, last=place == self._per_epoch - 1)

    def begins_epoch(self, number: int) -> bool:
        """Whether an epoch, or the selection, begins with this call."""
        return number <= self.selection and number % self._per_epoch == 0


def _find(phases: tuple[Phase, ...], place: int) -> tuple[str, int]:
    """The phase of a place among all its calls, and where the call begins."""
    for name, count, step in phases:
        if place < count:
            return name, place * step
        place -= count
    raise IndexError(place)
