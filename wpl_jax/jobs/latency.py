"""The measured latency of a run: when it is needed, and where it comes from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from wpl_jax.devices import processes
from wpl_jax.evaluation import latency
from wpl_jax.evaluation.latency import LatencySettings, Measurements, Stopwatch, Timer
from wpl_jax.jobs.build import build, section_of
from wpl_jax.jobs.config_fields import wrong
from wpl_jax.jobs.expand import Run
from wpl_jax.runs.run_directory import in_turn
from wpl_jax.spaces.costs import LATENCY, Latency
from wpl_jax.supernet import Space

# Of a space, the measured latency of its parts; None if it has not been measured.
LatencyOf = Callable[[Space], Latency | None]


def is_needed(config: ConfigDict) -> bool:
    """Whether a limit of an arm, or its reward, is about latency."""
    limits = config.get("limits", {})
    reward = config.reward.get(section_of(config, "reward").rpartition(".")[2], {})
    return limits.get(LATENCY) is not None or reward.get("cost") == LATENCY


def is_missing(runs: list[Run], workdir: Path) -> bool:
    """Whether it is needed and has not been measured; the same on all processes."""
    needed = any(is_needed(each.config) for each in runs)
    there = (workdir / latency.LATENCY_FILE).exists()
    return needed and not processes.broadcast(there)


def unknown(space: Space) -> Latency:
    """No milliseconds for any part, until they are measured."""
    return Latency(0.0, (0.0,) * len(space.parts))


def measured(workdir: Path) -> LatencyOf:
    """What the folder of a run has; all processes have to call it alike."""
    found = latency.read(workdir) if processes.is_primary() else None

    def of(space: Space) -> Latency | None:
        own = found.of(space) if found is not None else None
        if not processes.broadcast(own is not None):
            return None
        shape = np.zeros(1 + len(space.parts))
        values = shape if own is None else np.array([own.call, *own.parts])
        call, *parts = processes.from_primary(values, shape).tolist()
        return Latency(call, tuple(parts))

    return of


def measure(
    config: ConfigDict,
    spaces: list[Space],
    workdir: Path,
    timer: Timer | None = None,
) -> Measurements | None:
    """Measures the parts of spaces, unless the folder has them; writes them there.

    Args:
      config: With ``config.latency``.
      spaces: Of the arms.
      workdir: Folder of the run, which is open.
      timer: What times; None for a stopwatch.

    Returns:
      What the folder has now; None in other processes than the primary one.

    Raises:
      UserError: If a space lists no parts, or the folder has other measurements.
    """
    settings = LatencySettings()
    if "latency" in config:
        settings = build(LatencySettings, config, "latency")
    if not processes.is_primary():
        return None
    with in_turn(workdir):
        found = latency.read(workdir)
        if found is None:
            found = Measurements(latency.device_name(), settings.batch_size, [])
        if found.batch_size != settings.batch_size:
            expected = f"{found.batch_size}, as in {workdir / latency.LATENCY_FILE}"
            raise wrong("latency.batch_size", settings.batch_size, expected)
        for space in spaces:
            if found.of(space) is None:
                print(
                    f"Latency of the parts of {space.name}: measuring ...", flush=True
                )
                clock = timer or Stopwatch(settings.rounds)
                table = latency.measure(space, settings, clock)
                found = found._replace(tables=[*found.tables, table])
                latency.write(workdir, found)
    print(found.describe(), flush=True)
    return found
