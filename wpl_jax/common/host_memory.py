"""Free memory of the machine."""

import os
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 2**60  # version 1 of cgroups writes a number like this for "no limit"


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take.

    The least of what the machine has free, of what the control groups of the process
    (those of a container or a batch job) leave, and of its limit on address space.

    Args:
      root: Where /proc and /sys are.

    Returns:
      The number of bytes, or None where the system does not tell.
    """
    limits = [
        *_of_machine(root),
        *_of_groups(root / "sys/fs/cgroup", root),
        *_of_address_space(root),
    ]
    return max(min(limits), 0) if limits else None


def _of_machine(root: Path) -> Iterator[int]:
    fields = _numbers(root / "proc/meminfo")
    if "MemAvailable:" in fields:
        yield fields["MemAvailable:"] * 1024  # The file counts in kB.


def _of_groups(mount: Path, root: Path) -> Iterator[int]:
    """What each group above the process leaves; files in cache can be dropped."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            top, of_v1 = mount / "memory", True
        elif controllers == "":
            top, of_v1 = mount, False
        else:
            continue
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            if of_v1
            else ("memory.max", "memory.current", "")
        )
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            yield from _of_group(folder, *names)
            if folder == top:
                break


def _of_group(folder: Path, limit: str, used: str, prefix: str) -> Iterator[int]:
    most, now = _text(folder / limit).strip(), _text(folder / used).strip()
    if most.isdigit() and now.isdigit() and int(most) < _UNLIMITED:
        fields = _numbers(folder / "memory.stat")
        cached = sum(
            fields.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive")
        )
        yield int(most) - int(now) + cached


def _of_address_space(root: Path) -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Not a Unix.
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _text(root / "proc/self/statm").split()
    if limit != resource.RLIM_INFINITY and pages:
        yield limit - int(pages[0]) * os.sysconf("SC_PAGE_SIZE")


def _numbers(file: Path) -> dict[str, int]:
    """The numbers of a file of names and numbers, one pair a line."""
    words = (line.split() for line in _text(file).splitlines())
    return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}


def _text(file: Path) -> str:
    """What is in a file of the system; nothing where it is not there."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
