"""``--mode=predict``: a CSV file of what a trained model says of files."""

import csv
import io
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from wpl_jax.common.counted import counted
from wpl_jax.errors import UserError
from wpl_jax.jobs.build import find_class
from wpl_jax.models.files import load
from wpl_jax.models.model import Model
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_files import check_can_be_written, write_atomically
from wpl_jax.spaces import SPACES

PREDICTIONS_FILE = "predictions.csv"


def predict(
    config: ConfigDict | None, workdir: Path, machine: Machine = Machine()
) -> None:
    """Writes the predictions for ``machine.input``, a row for each example.

    Args:
      config: For the class of a space that is not registered; None otherwise.
      workdir: Folder of the run.
      machine: With the input, and the output: by default ``predictions.csv`` in the
        folder of the run.
    """
    if machine.input is None:
        raise UserError(
            "--mode=predict needs --input=FILE_OR_FOLDER: images, or a file of text."
        )
    model = load_model(config, workdir)
    output = machine.output or workdir / PREDICTIONS_FILE
    check_can_be_written(output)
    table = model.table(machine.input)
    text, count = io.StringIO(), 0
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    for count, row in enumerate(table.rows, 1):  # noqa: B007 - the last one counts.
        writer.writerow(row)
    write_atomically(output, text.getvalue())
    if table.note:
        print(table.note)
    print(f"{counted(count, 'row')} in {output}", flush=True)


def load_model(config: ConfigDict | None, workdir: Path) -> Model:
    """The model of a run; prints which one it is, and how good."""
    space: Any = None
    if config is not None:
        space = find_class(SPACES, config, "space.name")
    model = load(workdir, space)
    metrics = model.metrics
    errors = [
        f"{metrics[f'{split}_error']:.2f} on {name} data"
        for split, name in (("valid", "validation"), ("test", "test"))
        if metrics.get(f"{split}_error") is not None
    ]
    print(f"{model.path}: {metrics['error_name']} {' and '.join(errors)}", flush=True)
    return model
