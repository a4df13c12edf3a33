"""Compiled programs are forgotten before a process has too many of them.

XLA's CPU backend keeps each function of a program in memory mappings of its own: about
3,000 for a search. Linux lends a process 65,530 (``vm.max_map_count``), and ends it
where a compilation needs more.
"""

from pathlib import Path

import jax

_MAPPINGS = Path("/proc/self/maps")
_MOST = Path("/proc/sys/vm/max_map_count")


def forget_programs(share: float = 0.5) -> bool:
    """Forgets all compiled programs if they may soon be too many.

    Those that are still needed are compiled again when they are called. To be called
    where one search ends and another begins.

    Args:
      share: Of the mappings that the process may have; nothing is forgotten below it.

    Returns:
      Whether they were forgotten. False where the system does not tell.
    """
    try:
        most = int(_MOST.read_text(encoding="utf-8"))
        with _MAPPINGS.open("rb") as lines:
            used = sum(1 for _ in lines)
    except (OSError, ValueError):
        return False
    if used < share * most:
        return False
    jax.clear_caches()
    return True
