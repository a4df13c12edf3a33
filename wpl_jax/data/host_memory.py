"""Free memory of the machine, checked before data is read into it."""

from wpl_jax.common.host_memory import free_memory
from wpl_jax.data.errors import DataError
from wpl_jax.errors import in_bytes


def require_memory(size: int, where: object, what: str, remedy: str) -> None:
    """Checks that there is room for what will be read.

    Args:
      size: Bytes that it will take.
      where: The file, or array in a file, for the message.
      what: What takes them, for the message, e.g. "an array of shape (9, 9)".
      remedy: What to do if there is less.

    Raises:
      DataError: Less memory is free.
    """
    free = free_memory()
    if free is not None and size > free:
        found = f"{what}, which takes {in_bytes(size)}"
        expected = f"at most the {in_bytes(free)} of memory that are free"
        raise DataError(where, found, expected, remedy)
