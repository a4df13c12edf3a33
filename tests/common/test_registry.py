"""Parts by name: own ones, those of installed packages, import paths."""

import sys
import types
from importlib import metadata

import pytest
from helpers import toy

from wpl_jax.common.registry import Registry, import_path, settings_name

GROUP = "wpl_jax.tests"


@pytest.fixture
def installed(monkeypatch):
    """A package that gives the group two names, one of them also the library's."""
    points = [
        metadata.EntryPoint("ladder", "helpers.toy:ToySpace", GROUP),
        metadata.EntryPoint("own", "helpers.toy:ToySpace", GROUP),
        metadata.EntryPoint("broken", "no_such_package:Part", GROUP),
        metadata.EntryPoint("renamed", "helpers.toy:Part", GROUP),
    ]

    def entry_points(*, group):
        return metadata.EntryPoints(points if group == GROUP else [])

    monkeypatch.setattr(metadata, "entry_points", entry_points)


def test_own_names_come_first(installed):
    found = Registry(GROUP, {"own": int, "lazy": "helpers.toy:ToyTask"})
    assert found["own"] is int
    assert found["lazy"] is toy.ToyTask
    assert list(found) == ["own", "lazy", "ladder", "broken", "renamed"]
    assert len(found) == 5


def test_entry_points_of_the_group_are_found(installed):
    assert Registry(GROUP, {})["ladder"] is toy.ToySpace
    assert "ladder" in Registry(GROUP, {})
    other = Registry("wpl_jax.others", {})
    assert "ladder" not in other
    with pytest.raises(KeyError):
        other["ladder"]


def test_an_installed_distribution_gives_a_name(tmp_path, monkeypatch):
    folder = tmp_path / "rungs-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: rungs\nVersion: 1\n")
    lines = f"[{GROUP}]\nladder = rungs.spaces:Ladder\n"
    (folder / "entry_points.txt").write_text(lines)
    package = tmp_path / "rungs"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "spaces.py").write_text("class Ladder:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = Registry(GROUP, {})
    assert list(found) == ["ladder"]
    assert "rungs.spaces" not in sys.modules
    assert found["ladder"].__name__ == "Ladder"
    for name in ("rungs", "rungs.spaces"):
        monkeypatch.delitem(sys.modules, name)


def test_a_part_is_imported_when_it_is_asked_for(monkeypatch):
    found = Registry(GROUP, {"lazy": "later:Part"})
    assert list(found) == ["lazy"]
    module = types.ModuleType("later")
    module.Part = object()
    monkeypatch.setitem(sys.modules, "later", module)
    assert found["lazy"] is module.Part


@pytest.mark.parametrize("name", ["helpers.toy:ToyTask", "tests_of_nothing:Part"])
def test_an_import_path_is_a_name_that_is_not_listed(name):
    found = Registry(GROUP, {})
    assert name in found
    assert name not in list(found)


def test_an_import_path_is_imported():
    assert Registry(GROUP, {})["helpers.toy:ToyTask"] is toy.ToyTask
    assert import_path("helpers.toy:ToyTask") is toy.ToyTask


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_package:Part", "no_such_package"),
        ("helpers.toy:Part", "helpers.toy has no Part"),
        ("broken", "no_such_package"),
        ("lazy", "helpers.toy has no Part"),
        ("renamed", "the entry point renamed: module 'helpers.toy' has no"),
        (":Part", "':Part' is no import path: write it as package.module:Name"),
        ("..toy:Part", "is no import path"),
        ("helpers.toy:", "is no import path"),
        ("helpers/toy.py:Part", "is no import path"),
    ],
)
def test_what_cannot_be_imported_is_an_import_error(name, said, installed):
    found = Registry(GROUP, {"lazy": "helpers.toy:Part"})
    assert name in found
    with pytest.raises(ImportError, match=said):
        found[name]


@pytest.mark.parametrize("name", ["chess", "", None, 3])
def test_unknown_names_are_not_in_it(name):
    found = Registry(GROUP, {"own": int})
    assert name not in found
    with pytest.raises(KeyError):
        found[name]


def test_names_can_be_added_and_removed(monkeypatch):
    found = Registry(GROUP, {"own": int})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(found, "new", float)
        assert (found["new"], len(found)) == (float, 2)
    assert dict(found) == {"own": int}
    del found["own"]
    assert not found


@pytest.mark.slow
def test_settings_of_an_import_path_lie_under_the_parts_own_name():
    assert settings_name("package.module:Part") == "Part"
    assert settings_name("part") == "part"
