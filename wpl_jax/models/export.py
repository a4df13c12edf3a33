"""Models as files that run without this library."""

import tempfile
import types
from pathlib import Path

import jax
from jax import export as jax_export

from wpl_jax.common.paths import as_path
from wpl_jax.common.registry import Registry
from wpl_jax.errors import UserError, for_caller
from wpl_jax.models.files import describe
from wpl_jax.models.model import Model
from wpl_jax.models.source import DIALECTS, write_source
from wpl_jax.runs.run_files import make_folder, to_json, write_atomically
from wpl_jax.runs.safetensors import to_safetensors
from wpl_jax.spaces.network import Network

NETWORK_FILE = "network.py"
WEIGHTS_FILE = "weights.safetensors"
ABOUT_FILE = "architecture.json"

Files = dict[str, bytes]  # contents by name


def export(model: Model, folder: str | Path, format: str = "nnx") -> Path:
    """Writes a model as files that run without this library.

    Args:
      model: The model.
      folder: For the files; made if it does not exist.
      format: ``"nnx"`` or ``"linen"``, a Flax module as source, with weights and
        architecture beside it, to be read, changed and trained on. ``"onnx"``, for
        other runtimes; needs ``jax2onnx``. ``"stablehlo"``, a compiled program of
        :func:`jax.export.export` for CPU, GPU and TPU, which later versions of JAX read
        for a limited time.

    Returns:
      The folder.

    Raises:
      UserError: If the format is not known, or the space of the model cannot be
        written in it.
    """
    check_format(format)
    path = as_path(folder, "folder", "the path of a folder")
    files = EXPORTS[format](model)  # All of it, before anything is written.
    folder = make_folder(path, for_caller("output", "folder"))
    for name, content in files.items():
        write_atomically(folder / name, content)
    return folder


def check_format(name: str) -> None:
    """Checks the name of a format; a UserError if there is none."""
    if name not in EXPORTS:
        raise UserError(f"The format is {name!r}, expected one of {sorted(EXPORTS)}.")


def to_flax(model: Model, dialect: str) -> Files:
    """A module as source, its weights, and what they are."""
    network, about = _network(model), describe(model)
    inputs, prepare = model.predictor.source()
    title = f"A network of the space {model.space.name}, found by wpl_jax."
    source = write_source(network, DIALECTS[dialect], title, inputs, prepare)
    return {
        NETWORK_FILE: source.encode(),
        WEIGHTS_FILE: to_safetensors(network.weights),
        ABOUT_FILE: to_json(about).encode(),
    }


def _network(model: Model) -> Network:
    on_host = jax.device_get((model.params, model.statistics))
    network = model.space.network(model.choice, *on_host)
    if network is None:
        raise UserError(
            f"The space {model.space.name} does not say how a network is written out "
            "(Space.network). Export it with the format stablehlo."
        )
    return network


def to_stablehlo(model: Model) -> Files:
    """The whole model, from unprepared inputs to predictions."""
    shape, dtype = model.predictor.form()
    sizes = ", ".join(map(str, shape))
    inputs = jax.ShapeDtypeStruct(jax_export.symbolic_shape(sizes), dtype)
    exported = jax_export.export(
        jax.jit(lambda inputs: model.apply(model.params, inputs)),
        platforms=("cpu", "cuda", "tpu"),
    )(inputs)
    versions = exported.calling_convention_version
    about = describe(model) | {
        "stablehlo": {
            "jax": jax.__version__,
            "calling_convention_version": versions,
            "inputs": f"{dtype.name}[{sizes}]",
            "compatibility": (
                "JAX reads it for 6 months at least, and no longer for certain; see "
                "https://docs.jax.dev/en/latest/export/export.html"
            ),
        }
    }
    return {
        "model.stablehlo": bytes(exported.serialize()),
        ABOUT_FILE: to_json(about).encode(),
    }


def to_onnx(model: Model) -> Files:
    """The whole model as a graph of ONNX, by way of the NNX module."""
    try:
        import jax2onnx
    except ImportError as error:
        raise UserError(
            "The format onnx needs jax2onnx: pip install 'wpl-jax[onnx]'."
        ) from error
    predictor = model.predictor
    if not hasattr(predictor, "predictions"):
        raise UserError(
            f"{type(predictor).__name__} has no method predictions, which makes "
            "predictions of what a network returns: see wpl_jax.tasks.predictor. Or "
            "export the model with the format stablehlo."
        )
    with tempfile.TemporaryDirectory() as folder:
        network = import_network(export(model, folder, "nnx")).load()

    def predict(inputs: jax.Array) -> jax.Array:
        found = network(predictor.to_network(inputs))
        outputs = found[0] if isinstance(found, tuple) else found
        return predictor.predictions(outputs)

    shape, dtype = predictor.form()
    graph = jax2onnx.to_onnx(
        predict,
        [jax.ShapeDtypeStruct(shape, dtype)],
        model_name=model.space.name,
        input_names=["inputs"],
        output_names=["log_probabilities" if predictor.labels else "outputs"],
    )
    return {
        "model.onnx": graph.SerializeToString(),
        ABOUT_FILE: to_json(describe(model)).encode(),
    }


def import_network(folder: Path) -> types.ModuleType:
    """The module in a folder that :func:`export` has written."""
    path = folder / NETWORK_FILE
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    return module


EXPORTS: Registry = Registry(
    "wpl_jax.exports",
    {
        "nnx": lambda model: to_flax(model, "nnx"),
        "linen": lambda model: to_flax(model, "linen"),
        "onnx": to_onnx,
        "stablehlo": to_stablehlo,
    },
)
