"""Runs the benchmarks, prints a table and writes it as JSON.

python -m benchmarks.run [--only=fisher] [--output=FILE.json]

With glibc memory comes in huge pages, where the system lends them to who asks: large
arrays are fresh memory in every call, and small pages are waited for (docs/running.md).
"""

import json
import os
import platform
import sys
from pathlib import Path

import jax
from absl import app, flags

from benchmarks import (
    calls,
    choice,
    devices,
    fisher,
    fisher_of_children,
    growth,
    micro_cell,
    nasbench201,
    penalty,
    search,
    storage,
)

BENCHMARKS = {
    "calls": calls.rows,
    "choice": choice.rows,
    "devices": devices.rows,
    "fisher": fisher.rows,
    "fisher_of_children": fisher_of_children.rows,
    "growth": growth.rows,
    "micro_cell": micro_cell.rows,
    "nasbench201": nasbench201.rows,
    "penalty": penalty.rows,
    "search": search.rows,
    "storage": storage.rows,
}

_ONLY = flags.DEFINE_multi_enum(
    "only", list(BENCHMARKS), list(BENCHMARKS), "Which benchmarks to run."
)
_OUTPUT = flags.DEFINE_string("output", "", "File for the figures as JSON.")


_MEMORY = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def main(argv: list[str]) -> None:
    """Runs what was asked for."""
    del argv
    if not _MEMORY.keys() & os.environ.keys():  # Read when a process begins.
        command = [sys.executable, "-m", "benchmarks.run", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | _MEMORY)
    output = Path(_OUTPUT.value) if _OUTPUT.value else None
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    rows = []
    for name in dict.fromkeys(_ONLY.value):
        for row in BENCHMARKS[name]():
            # Quartiles over the rounds; a memory is measured once.
            spread = f"{row['low']:.2f} to {row['high']:.2f}" if "low" in row else ""
            line = f"{row['benchmark']:36} {row['figure']:58} {row['ratio']:8.2f}"
            print(f"{line}  {spread}", flush=True)
            rows.append(row)
            if output:  # Each time, so that what is measured is not lost.
                text = json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n"
                output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
