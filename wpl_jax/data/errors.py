"""The one exception for data that cannot be used as it is."""

from wpl_jax.errors import UserError, printable

_LONGEST_WHERE = 500


class DataError(UserError):
    """A file, folder or argument that the data cannot be read from.

    It takes the four parts of its message, so that none can be left out: a reader of
    the message knows which file it is about, what is in it, what should be in it and
    what to do.

    Attributes:
      where: The file, folder, array in a file, or argument.
      found: What is there.
      expected: What should be there.
      remedy: What to do about it, as an order ("rename it to ...").
      option: The argument of the loading function that another value of could mend
        it; None if there is none.

    Examples:
      >>> print(DataError("a.npz", "0 bytes", "an npz file", "download it again"))
      a.npz: found 0 bytes; expected an npz file. To mend it: download it again.
    """

    def __init__(
        self,
        where: object,
        found: str,
        expected: str,
        remedy: str,
        option: str | None = None,
    ) -> None:
        """Keeps the parts; the message is made of them when it is shown."""
        # All five go to Exception.args, which is what pickle calls the class with:
        # the error survives the way back from a worker process.
        super().__init__(str(where), found, expected, remedy, option)
        self.where = str(where)
        self.found = found
        self.expected = expected
        self.remedy = remedy
        self.option = option

    def __str__(self) -> str:
        """The message in one line, whatever is in a file's name or a cause's text."""
        where = self.where
        if len(where) > _LONGEST_WHERE:  # Some are longer than any system allows.
            half = _LONGEST_WHERE // 2
            where = f"{where[:half]}...{where[-half:]}"
        return printable(
            f"{where}: found {self.found}; expected {self.expected}."
            f" To mend it: {self.remedy}."
        )
