"""The reference of the documentation site has every public name."""

import ast
import importlib
import inspect
import re
import types
from pathlib import Path

import pytest
from helpers.notebooks import NOTEBOOKS, read

import wpl_jax
from wpl_jax import data, penalty
from wpl_jax.data.images.formats import FORMATS
from wpl_jax.data.text.formats import TEXT_FORMATS
from wpl_jax.engine.optimizers import OPTIMIZERS, SCHEDULES
from wpl_jax.engine.updates import UPDATES
from wpl_jax.evaluation.truth import TRUTHS
from wpl_jax.protections import PENALTIES
from wpl_jax.protections.estimators import ESTIMATORS
from wpl_jax.runs import importance
from wpl_jax.spaces import SPACES
from wpl_jax.strategies import STRATEGIES
from wpl_jax.strategies.samplers import SAMPLERS
from wpl_jax.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
REGISTRIES = (
    *(SPACES, STRATEGIES, PENALTIES, ESTIMATORS, TASKS, OPTIMIZERS, SCHEDULES),
    *(TRUTHS, SAMPLERS, UPDATES),
)
# What parts of one's own implement, and where their names are looked up.
PROTOCOLS = (
    "wpl_jax.devices.axis",
    "wpl_jax.engine.optimizers",
    "wpl_jax.engine.updates",
    "wpl_jax.evaluation.truth",
    "wpl_jax.protections.protection",
    "wpl_jax.common.registry",
    "wpl_jax.strategies.strategy",
    "wpl_jax.supernet",
    "wpl_jax.tasks.task",
)


def read_reference():
    """Modules whose members the pages list, and names that they list one by one."""
    modules, names = [], []
    for page in sorted((DOCS / "reference").glob("*.rst")):
        current, lines = "", page.read_text("utf-8").splitlines()
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            directive = re.match(r"\.\. (auto|current)(\w+):: (\S+)$", line)
            if not directive:
                continue
            _, kind, name = directive.groups()
            if line.startswith(".. currentmodule"):
                current = name
            elif kind != "module":
                names.append(name if "." in name else f"{current}.{name}")
            elif ":no-members:" not in following:
                modules.append(name)
    return modules, names


MODULES, NAMES = read_reference()


def assert_has(needed, listed):
    missing = sorted(set(needed).difference(listed))
    assert not missing, f"Add to a page of docs/reference: {missing}"


def test_it_has_each_name_once():
    """Sphinx warns of a second description, and warnings are errors."""
    assert len(set(MODULES)) == len(MODULES)
    assert len(set(NAMES)) == len(NAMES)


def test_it_has_every_name_of_the_package():
    assert_has([f"wpl_jax.{name}" for name in wpl_jax.__all__], NAMES)


def test_it_has_every_name_of_the_package_of_data():
    public = {
        f"wpl_jax.data.{name}"
        for name, found in vars(data).items()
        if inspect.isclass(found) or inspect.isfunction(found)
    }
    assert len(public) > 10
    assert_has(public, NAMES)
    readers = [*FORMATS.values(), *TEXT_FORMATS.values()]
    assert_has([f"{r.__module__}.{r.__name__}" for r in readers], NAMES)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_it_has_the_modules_that_parts_implement(name):
    assert_has([name], MODULES)


@pytest.mark.parametrize(
    "registry", REGISTRIES, ids=lambda registry: next(iter(registry))
)
def test_it_has_the_modules_of_all_parts(registry):
    assert_has([registry[name].__module__ for name in registry], MODULES)


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *DOCS.glob("*.md"), *NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_it_has_what_guides_and_notebooks_import(page):
    if page in NOTEBOOKS:
        text = "\n".join(cell.code for cell in read(page))
    else:
        text = page.read_text("utf-8")
    for module, imported in re.findall(r"from (wpl_jax\S*) import (.+)", text):
        # Configurations are files to read, and not in the reference.
        if module in {*MODULES, "wpl_jax.configs"}:
            continue
        names = re.findall(r"\w+", imported)
        assert_has([f"{module}.{name}" for name in names], NAMES)


def test_what_it_names_is_there():
    for module in MODULES:
        importlib.import_module(module)
    for name in NAMES:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_a_name_is_imported_from_its_module_alone(monkeypatch):
    """Asking for the penalty must not import the spaces."""
    asked = []

    def import_module(name):
        asked.append(name)
        return importlib.import_module(name)

    recording = types.SimpleNamespace(import_module=import_module)
    monkeypatch.setattr(wpl_jax, "importlib", recording)
    monkeypatch.delitem(vars(wpl_jax), "weight_plasticity", raising=False)
    assert wpl_jax.weight_plasticity is penalty.weight_plasticity
    assert asked == ["wpl_jax.penalty"]


def test_each_name_is_what_its_module_defines():
    """And not what another module has under the same name."""
    for name in wpl_jax.__all__:
        assert getattr(wpl_jax, name).__module__.startswith("wpl_jax.")
    assert wpl_jax.fingerprint is importance.fingerprint
    imported = {
        (alias.name, node.module)
        for node in ast.walk(ast.parse(Path(wpl_jax.__file__).read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("wpl_jax.")
        for alias in node.names
    }
    assert imported == set(wpl_jax._MODULES.items())  # For type checkers.


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'wieght_plasticity'"):
        wpl_jax.wieght_plasticity  # noqa: B018
