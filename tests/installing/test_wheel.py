"""The built package in an environment that holds nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny import QUICK_TO_COMPILE

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("LICENSE", "README.md", "configs", "pyproject.toml", "wpl_jax")
# The built-in search, of one child and no retraining.
TINY = {
    "num_seeds": 1,
    "search.epochs": 1,
    "search.children": 1,
    "search.batches": 1,
    "search.eval_batches": 1,
    "search.learn_per_call": 1,
    "strategy.enas.steps": 1,
    "strategy.enas.candidates.proposed": 2,
    "strategy.enas.candidates.screen_batches": 1,
    "strategy.enas.candidates.keep": 1,
    "space.recurrent_cell.hidden": 4,
    "space.recurrent_cell.num_nodes": 2,
    "retrain.epochs": 0,
}

ARRAYS = """
import numpy as np

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (1200, 8, 8, 1), np.uint8)
labels = rng.integers(0, 10, 1200)
"""


def call(*command, cwd):
    """Runs a command that does not see this environment."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_TO_COMPILE}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment's folder of programs."""
    folder = tmp_path_factory.mktemp("packaging")
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, sources)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    call(*pip, "wheel", "--no-deps", "--wheel-dir", folder, sources, cwd=folder)
    (wheel,) = folder.glob("wpl_jax-*.whl")
    environment = folder / "environment"
    call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    python = environment / "bin" / "python"
    call(*pip, "--python", python, "install", wheel, cwd=folder)
    return python.parent


@pytest.mark.slow
def test_the_command_runs_the_built_in_search(installed, tmp_path):
    flags = [f"--config.{name}={value}" for name, value in TINY.items()]
    command = (installed / "wpl-jax", "--config=enas_rnn_pydoc", "--workdir=run")
    call(*command, *flags, cwd=tmp_path)
    found = tmp_path / "run" / "searches" / "wpl-seed0" / "architecture.json"
    assert json.loads(found.read_text())["space"] == "recurrent_cell"
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_the_package_imports_little_and_has_its_data(installed, tmp_path):
    code = "import sys, wpl_jax; print(wpl_jax.__file__, *sys.modules)"
    file, *modules = call(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(installed.parent)
    for data in ("py.typed", "evaluation/nasbench201.npz"):
        assert (Path(file).parent / data).is_file()
    loaded = {module.partition(".")[0] for module in modules}
    assert "wpl_jax" in loaded
    assert not loaded & {"absl", "flax", "jax", "ml_collections", "numpy", "orbax"}


@pytest.mark.slow
def test_the_space_of_fifteen_lines_is_searched(installed, tmp_path):
    page = (ROOT / "docs" / "new_space.md").read_text("utf-8")
    space, search = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    (tmp_path / "ladder.py").write_text(space)
    few = {
        "epochs=4": "epochs=1",
        "children=10": "children=2",
        "batches=20": "batches=2",
    }
    for old, new in few.items():
        assert old in search
        search = search.replace(old, new)
    # The images that are built in need an extra.
    digits = 'load_images("digits")'
    assert digits in search
    search = search.replace(digits, "images_of_arrays((images, labels))")
    search = search.replace("import load_images", "import images_of_arrays")
    (tmp_path / "search.py").write_text(ARRAYS + search)
    printed = call(installed / "python", "search.py", cwd=tmp_path)
    assert "{'layer_0': " in printed
