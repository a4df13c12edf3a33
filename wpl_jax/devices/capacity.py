"""Whether a device has the memory that an estimate asks for."""

from collections.abc import Mapping

from wpl_jax.devices import parallel
from wpl_jax.errors import UserError, in_bytes


def check(
    what: str, parts: Mapping[str, int], devices: int, advice: Mapping[str, str]
) -> str:
    """A line about what will be needed of each device.

    Args:
      what: What needs it, for the line.
      parts: Bytes of a device, by name; those of "data" are there already.
      devices: How many are used.
      advice: How to reduce each of the parts.

    Raises:
      UserError: If it is more than there is, with what to reduce.
    """
    total = sum(parts.values())
    limit = parallel.memory_of_each(devices, there=parts["data"])
    told = ", ".join(f"{name} {in_bytes(count)}" for name, count in parts.items())
    line = f"Memory of a device for {what}, estimated: {in_bytes(total)} ({told})"
    if limit is None or total <= limit:
        return line
    largest = max(parts, key=lambda name: parts[name])
    raise UserError(
        f"{line}, but it has {in_bytes(limit)}. Most is of the {largest}. "
        f"{advice[largest]}."
    )
