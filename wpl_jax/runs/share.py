"""A share of a list of work, for processes that know nothing of each other."""

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeVar

from wpl_jax.errors import UserError, shorten

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Share:
    """Every ``count``-th item of a list, from item ``number`` on, counted from 1.

    Attributes:
      number: Which share it is, from 1 to ``count``.
      count: How many shares there are; 1 for the whole list.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Reads ``I/N``.

        Raises:
          UserError: If it is anything else, or I is not from 1 to N.

        Examples:
          >>> Share.parse("2/3").of("abcdefgh")
          ['b', 'e', 'h']
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise UserError(
                f"--share={shorten(text)} is not I/N with whole numbers 1 <= I <= N. "
                "The shares of 3 processes are --share=1/3, --share=2/3 and "
                "--share=3/3."
            )
        return cls(number, count)

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole list."""
        return self.count == 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The items of the share, in order; none if there are fewer than ``number``."""
        return list(items[self.number - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
