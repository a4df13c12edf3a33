"""The built package in an environment that holds nothing else."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import QUICK_TO_COMPILE
from PIL import Image

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

# The search of a folder of images, and a short training of what it finds.
OF_IMAGES = {
    "search.epochs": 1,
    "search.batches": 2,
    "space.nasbench201.channels": 2,
    "task.data.size": "(8,8)",
    "task.image_classification.batch_size": 4,
    "task.image_classification.augmentation.crop": 1,
    "retrain.epochs": 1,
}

PROGRAM = """
import numpy as np
import wpl_jax

model = wpl_jax.load("runs/photos")
print(model(np.zeros((2, 8, 8, 3), np.uint8)).shape, *model.labels)
"""

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
def test_three_commands_lead_from_a_folder_of_images_to_ones_own_program(
    installed, tmp_path
):
    """Those of the README, with the smallest sizes."""
    page = (ROOT / "README.md").read_text("utf-8")
    section = page.split("## From a folder of images to predictions")[1]
    (block,) = re.findall(r"```\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    commands = [shlex.split(c) for c in block.replace("\\\n", "").splitlines()]
    assert [c[0] for c in commands] == ["wpl-jax"] * 3
    rng = np.random.default_rng(0)
    for label in ("cat", "dog", "owl"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(15):
            image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            image.save(tmp_path / "photos" / label / f"{i}.png")
    shutil.copytree(tmp_path / "photos" / "owl", tmp_path / "new")
    tiny = [f"--config.{name}={value}" for name, value in OF_IMAGES.items()]
    commands[0] = [c for c in commands[0] if "retrain.epochs" not in c] + tiny
    for command in commands:
        call(installed / command[0], *command[1:], cwd=tmp_path)
    rows = (tmp_path / "runs/photos/predictions.csv").read_text().splitlines()
    assert rows[0] == "image,class,probability,cat,dog,owl"
    assert len(rows) == 1 + 15
    printed = call(installed / "python", "-c", PROGRAM, cwd=tmp_path)
    assert printed.split() == ["(2,", "3)", "cat", "dog", "owl"]
    network = tmp_path / "runs/photos/export/nnx/network.py"
    assert "wpl_jax" not in re.sub(
        r'""".*?"""', "", network.read_text(), count=1, flags=re.DOTALL
    )


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
