"""``--mode=latency``: milliseconds of the parts of the children, on this device."""

from pathlib import Path

from ml_collections import ConfigDict

from wpl_jax.devices import processes
from wpl_jax.evaluation.latency import Table
from wpl_jax.jobs import latency
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.modes.report import open_all
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_directory import open_run
from wpl_jax.tasks import DataCache


def measure_latency(
    config: ConfigDict, workdir: Path, machine: Machine = Machine()
) -> None:
    """Measures the parts of the spaces of all arms, and some whole children.

    Writes ``latency.json``, which later runs in the folder use. What it holds is not
    measured again.

    Args:
      config: Of the searches.
      workdir: Folder of the run.
      machine: Not used: one device is measured.

    Raises:
      UserError: If something is wrong with the configuration or the data, or a space
        does not list its parts.
    """
    del machine
    opened = open_all(expand(config), DataCache())
    spaces = list(dict.fromkeys(one.task.space for one in opened.values()))
    with open_run(workdir, config.to_dict()):
        found = latency.measure(config, spaces, workdir)
        if processes.is_primary() and found is not None:
            for table in found.tables:
                print(_shown(table), flush=True)


def _shown(table: Table) -> str:
    """Milliseconds of the parts and of whole children, in columns."""
    rows = [("part", f"ms, times {table.factor:.3g} to fit children")]
    rows += [("a call", f"{table.call:.4f}")]
    rows += [(name, f"{value:.4f}") for name, value in table.parts.items()]
    rows += [
        (
            f"child {' '.join(map(str, c.choice))}",
            f"{c.measured:.4f}, sum {c.summed:.4f}{', fitted' if c.fitted else ''}",
        )
        for c in table.children
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)
