"""The devices of a search or a training: a given number, or as many as divide it."""

import math
from collections.abc import Iterable

import jax

from wpl_jax.common.settings import SettingError
from wpl_jax.devices.parallel import Devices, by_process
from wpl_jax.errors import UserError, option


def check_count(count: int | None) -> None:
    """Checks that there are so many devices, of several processes as many of each.

    Args:
      count: Number of devices; None for as many as divide the work equally.

    Raises:
      UserError: If there are fewer, or the processes do not divide the number.
    """
    found, processes = jax.device_count(), jax.process_count()
    if count is not None and not (1 <= count <= found and count % processes == 0):
        several = f" that is a multiple of the {processes} processes"
        raise UserError(
            f"{option('devices')} is {count}, expected 1 to {found}, the number of "
            f"{jax.devices()[0].platform} devices that JAX finds"
            f"{', one' + several if processes > 1 else ' here'}."
        )


def choose(
    count: int | None,
    rows_per_batch: int,
    children_per_step: int = 1,
    rows_setting: str = "rows_per_batch",
) -> Devices:
    """The devices for a search that trains so many children together.

    Args:
      count: Number of devices: the first ones, of several processes the first ones of
        each. None for the most that divide the batches, and the children that are
        trained together, equally.
      rows_per_batch: Rows of a batch.
      children_per_step: Children that are trained together.
      rows_setting: Whose value the rows are, for errors.

    Raises:
      UserError: If there are not so many devices, or processes have different numbers
        of them.
      SettingError: If they cannot divide the batches, or the children, equally.
    """
    of_each = [len(own) for own in by_process()]
    if len(set(of_each)) > 1:
        raise UserError(
            f"The processes have {', '.join(map(str, of_each))} devices, "
            "expected as many each. Show them as many, as CUDA_VISIBLE_DEVICES does."
        )
    processes = len(of_each)
    check_count(count)
    if count is None:
        sharded = math.gcd(
            rows_per_batch, children_per_step if children_per_step > 1 else 0
        )
        numbers = range(processes, sum(of_each) + 1, processes)
        count = max((n for n in numbers if sharded % n == 0), default=processes)
    devices = Devices(count, "batch" if children_per_step == 1 else "children")
    check(devices, rows_per_batch, children_per_step, rows_setting)
    return devices


def check(
    devices: Devices,
    rows_per_batch: int,
    children_per_step: int = 1,
    rows_setting: str = "rows_per_batch",
) -> None:
    """Checks that devices are there, and divide the work of a search or a training.

    Args:
      devices: The devices.
      rows_per_batch: Rows of a batch.
      children_per_step: Children that are trained together; 1 in a training.
      rows_setting: Whose value the rows are, for errors.

    Raises:
      UserError: If there are not so many devices.
      SettingError: If they cannot divide the batches, or the children, equally.
    """
    count = devices.count
    check_count(count)
    if rows_per_batch % count:
        raise SettingError(
            rows_setting,
            rows_per_batch,
            f"a multiple of {count}, the devices that share a batch; {_fewer(count)}",
        )
    check_children(devices, children_per_step)


def check_children(devices: Devices, children_per_step: int) -> None:
    """Checks that devices divide the children that are trained together.

    Args:
      devices: The devices.
      children_per_step: How many children these are.

    Raises:
      SettingError: If they cannot divide them equally.
    """
    several = devices.mode == "children" and children_per_step > 1
    if several and children_per_step % devices.count:
        raise SettingError(
            "children_per_step",
            children_per_step,
            f"1 or a multiple of {devices.count}, the devices that divide the "
            f"children; {_fewer(devices.count)}",
        )


def _fewer(count: int) -> str:
    """How to take fewer than so many devices."""
    if count == jax.process_count() > 1:
        return "start fewer processes"
    return f"{option('devices')} takes fewer"


def told(used: Iterable[Devices], asked: int | None) -> str:
    """A line about the devices that are used, and why not all that there are.

    Args:
      used: The devices of each search and training.
      asked: Number of devices, as of :func:`choose`.
    """
    counts, found = sorted({devices.count for devices in used}), jax.device_count()
    platform = jax.devices()[0].platform
    if counts == [found]:
        return f"Devices: {found} ({platform})"
    line = f"Devices: {' and '.join(map(str, counts))} of {found} ({platform})"
    if asked is not None:
        return line
    return (
        f"{line}: more cannot divide the rows of a batch, or "
        "children_per_step of the search, equally."
    )
