"""``--mode=export``: a trained model as files that run without this library."""

from pathlib import Path

from ml_collections import ConfigDict

from wpl_jax.jobs.modes.predict import load_model
from wpl_jax.models import export as models
from wpl_jax.runs.machine import Machine

EXPORT_FOLDER = "export"


def export(
    config: ConfigDict | None, workdir: Path, machine: Machine = Machine()
) -> None:
    """Writes the model of a run in each of ``machine.formats``, by default as NNX.

    Args:
      config: For the class of a space that is not registered; None otherwise.
      workdir: Folder of the run.
      machine: With the formats and the output: by default ``export`` in the folder of
        the run. Each format has a folder of its own in it.
    """
    formats = machine.formats or ("nnx",)
    for name in formats:
        models.check_format(name)
    model = load_model(config, workdir)
    for name in formats:
        folder = (machine.output or workdir / EXPORT_FOLDER) / name
        written = models.export(model, folder, name)
        files = ", ".join(sorted(path.name for path in written.iterdir()))
        print(f"{name}: {written} ({files})", flush=True)
