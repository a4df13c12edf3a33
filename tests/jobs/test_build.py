"""Parts from configurations and back: what is said of a wrong one, with its name."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import pytest
from absl import flags
from helpers import toy
from helpers.flags import parse
from ml_collections import ConfigDict

from wpl_jax.common.registry import Registry
from wpl_jax.common.settings import check_choice, check_int, check_number, chosen
from wpl_jax.engine.optimizers import OPTIMIZERS, SCHEDULES
from wpl_jax.engine.plan import SearchSettings
from wpl_jax.engine.updates import UPDATES
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.jobs.build import build, build_chosen, choice, settings
from wpl_jax.jobs.unread import of_part
from wpl_jax.protections import PENALTIES
from wpl_jax.protections.estimators import ESTIMATORS
from wpl_jax.spaces import SPACES
from wpl_jax.strategies import STRATEGIES
from wpl_jax.strategies.samplers import SAMPLERS
from wpl_jax.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 2

    def __post_init__(self):
        check_int(self, "width", 1)


@dataclasses.dataclass(frozen=True)
class Slow:
    factor: float = 0.5

    def __post_init__(self):
        check_number(self, "factor", above=0)


@dataclasses.dataclass(frozen=True)
class Fast:
    limit: int | None = None

    def __post_init__(self):
        check_int(self, "limit", 1, optional=True)

    @staticmethod
    def unread(settings):
        return {"limit": "speed is 0"} if settings.get("speed") == 0 else {}


KINDS = Registry("wpl_jax.no_group", {"slow": Slow, "fast": Fast})
NO_INNER, NO_NAMED = Inner(), {}


@dataclasses.dataclass(frozen=True)
class Part:
    size: int
    steps: int
    rate: float = 1.0
    limit: float | None = None
    mode: Literal["one", "two"] = "one"
    inner: Inner = NO_INNER
    kind: Slow | Fast = chosen(KINDS, Slow())

    def __post_init__(self):
        check_int(self, "size", 1)
        check_int(self, "steps", 1)
        check_number(self, "rate", above=0)
        check_number(self, "limit", optional=True, above=0)
        check_choice(self, "mode", ("one", "two"))


PARTS = Registry("wpl_jax.no_group", {"part": Part, "other": Inner})


@dataclasses.dataclass(frozen=True)
class Several:
    named: Mapping[str, Inner]


def make(**changes):
    """The part of a configuration with these settings."""
    config = ConfigDict({"a": {"b": {"steps": 3} | changes}})
    return build(Part, config, "a.b", size=7)


def test_what_is_not_set_has_its_default():
    assert make() == Part(7, 3)


def test_what_is_set_is_taken():
    found = make(rate=2.0, limit=3, mode="two", inner={"width": 5})
    assert found == Part(7, 3, 2.0, 3, "two", Inner(5))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "config.a.b.steps is 0, expected a whole number of at least 1"),
        ({"rate": 0.0}, "config.a.b.rate is 0.0, expected a number above 0"),
        ({"limit": -1}, "config.a.b.limit is -1, expected a number above 0, or None"),
        ({"mode": "three"}, "config.a.b.mode is 'three', expected one of"),
        ({"colour": 1}, "config.a.b.colour is not a setting"),
        # Given, so that no configuration sets it.
        ({"size": 1}, "config.a.b.size is not a setting"),
        ({"inner": {"width": 0}}, "config.a.b.inner.width is 0, expected"),
        ({"inner": {"height": 1}}, "config.a.b.inner.height is not a setting"),
        ({"inner": 3}, "config.a.b.inner is 3, expected the settings ['width']"),
        ({"inner": None}, "config.a.b.inner is None, expected the settings"),
        ({"kind": "swift"}, "config.a.b.kind is 'swift', expected one of"),
        ({"kind": 3}, "config.a.b.kind is 3, expected one of"),
        ({"kind": "none:Part"}, "config.a.b.kind is 'none:Part': No module named"),
        ({"kind": ":Part"}, "config.a.b.kind is ':Part': ':Part' is no import path"),
        ({"kind": "math:pi"}, "which is 3.14159265"),
        (
            {"kind": "collections:OrderedDict"},
            "which is <class 'collections.OrderedDict'>, expected a class that is a",
        ),
        (
            {"kind": "fast", "fast": {"limit": 0}},
            "config.a.b.fast.limit is 0, expected",
        ),
        (
            {"kind": "fast", "fast": {"factor": 1.0}},
            "config.a.b.fast.factor is not a setting",
        ),
    ],
)
def test_a_wrong_setting_is_named(changes, said):
    with pytest.raises(ConfigError) as caught:
        make(**changes)
    assert said in str(caught.value)


def test_a_wrong_setting_comes_with_its_flag():
    with pytest.raises(ConfigError, match=r"or pass --config\.a\.b\.steps=VALUE"):
        make(steps=0)


def test_a_missing_setting_without_a_default_is_named():
    config = ConfigDict({"a": {}})
    with pytest.raises(ConfigError, match=r"config\.a\.steps is missing"):
        build(Part, config, "a", size=7)
    with pytest.raises(ConfigError, match=r"config\.b is missing"):
        build(Part, config, "b", size=7)


def test_a_wrong_given_field_is_no_setting():
    config = ConfigDict({"a": {"steps": 3}})
    with pytest.raises(UserError, match=r"^size is 0, expected") as caught:
        build(Part, config, "a", size=0)
    assert not isinstance(caught.value, ConfigError)


def test_a_chosen_part_is_built_from_the_section_of_its_name():
    found = make(kind="fast", fast={"limit": 4}, slow={"factor": 9.0})
    assert found.kind == Fast(4)
    assert make(kind="fast").kind == Fast()
    assert make(slow={"factor": 9.0}).kind == Slow()  # The name alone chooses.


def test_a_part_may_be_chosen_by_its_import_path():
    assert make(kind="test_build:Fast", Fast={"limit": 4}).kind == Fast(4)


def test_parts_by_names_are_built_one_by_one():
    config = ConfigDict({"a": {"named": {"x": {"width": 3}, "y": {}}}})
    found = build(Several, config, "a")
    assert found.named == {"x": Inner(3), "y": Inner()}
    config.a.named.x.width = 0
    with pytest.raises(ConfigError, match=r"config\.a\.named\.x\.width is 0"):
        build(Several, config, "a")


def test_a_section_chooses_by_its_name():
    config = ConfigDict({"a": choice(PARTS, "other", other={"width": 3})})
    assert build_chosen(PARTS, config, "a") == Inner(3)
    config.a.colour = 3
    with pytest.raises(ConfigError, match=r"config\.a\.colour is not a setting"):
        build_chosen(PARTS, config, "a")
    assert build_chosen(PARTS, config, "a", also=("colour",)) == Inner(3)


@pytest.mark.parametrize("name", ["chess", None, 3, "no_such_package:Part"])
def test_an_unknown_name_is_said(name):
    config = ConfigDict({"a": {"name": name}})
    with pytest.raises(ConfigError, match=rf"config\.a\.name is {name!r}"):
        build_chosen(PARTS, config, "a")
    with pytest.raises(ConfigError, match=r"config\.a\.name is missing"):
        build_chosen(PARTS, ConfigDict({"a": {}}), "a")


def test_a_part_without_settings_needs_no_section():
    config = ConfigDict({"a": {"name": "other"}})
    assert build_chosen(PARTS, config, "a") == Inner()
    # One that lacks some is missing.
    config.a.name = "part"
    with pytest.raises(ConfigError, match=r"config\.a\.part is missing"):
        build_chosen(PARTS, config, "a", size=7)
    assert build_chosen(PARTS, config, "a", size=7, steps=2) == Part(7, 2)


def test_settings_of_others_are_not_read():
    sections = {"part": {"steps": 3, "kind": "fast", "fast": {"speed": 0}}}
    config = ConfigDict({"a": {"name": "part", "other": {"width": 1}, **sections}})
    config.a.part.slow = ConfigDict({"factor": 1.0})
    found = of_part(PARTS, config, "a")
    assert found["a.other"] == "config.a.name is 'part'"
    assert found["a.part.slow"] == "config.a.part.kind is 'fast'"


# From parts to configurations.


def test_settings_are_the_defaults_but_for_changes():
    found = settings(Part, steps=4, kind="fast", fast={"limit": 3}, rate=2)
    assert found.to_dict() == {
        "steps": 4,
        "rate": 2.0,
        "limit": None,
        "mode": "one",
        "inner": {"width": 2},
        "kind": "fast",
        "slow": {"factor": 0.5},
        "fast": {"limit": 3},
    }


@pytest.mark.parametrize(
    "changes", [{"colour": 1}, {"inner": {"colour": 1}}, {"slow": {"colour": 1}}]
)
def test_unknown_changes_are_refused(changes):
    with pytest.raises(TypeError, match="colour"):
        settings(Part, **changes)


# What data, other parts, or nobody but the user can give.
REQUIRED = {
    "darts_cell": {"image_shape": (8, 8, 1), "num_classes": 3},
    "genotype": {"image_shape": (8, 8, 1), "num_classes": 3},
    "micro_cell": {"image_shape": (8, 8, 1), "num_classes": 3},
    "nasbench201": {"image_shape": (8, 8, 1), "num_classes": 3},
    "plain_recurrent": {"vocabulary_size": 5, "hidden": 4},
    "recurrent_cell": {"vocabulary_size": 5, "hidden": 4},
    "residual": {"image_shape": (8, 8, 1), "num_classes": 3},
    "image_classification": {"space": None},
    "language_model": {"space": None},
    "differentiable": {"space": toy.ToySpace()},
    "enas": {"space": toy.ToySpace()},
    "nao": {"space": toy.ToySpace()},
    "pada": {"space": toy.ToySpace()},
    "random": {"space": toy.ToySpace()},
    "separate_momentum": {"learning_rate": 0.1},
    "sgd": {"learning_rate": 0.1},
}
REGISTRIES = (
    *(SPACES, TASKS, STRATEGIES, SAMPLERS, PENALTIES, ESTIMATORS, OPTIMIZERS),
    *(SCHEDULES, UPDATES),
)
ALL = [(known, name) for known in REGISTRIES for name in known]


def test_no_setting_has_the_name_of_a_method_of_a_configuration():
    parts = [known[name] for known, name in ALL] + [SearchSettings, Ranking]
    for part in parts:
        names = {field.name for field in dataclasses.fields(part)}
        assert not names & set(dir(ConfigDict)), part


@pytest.mark.parametrize(("known", "name"), ALL, ids=[name for _, name in ALL])
def test_settings_of_every_part_give_the_part(known, name):
    given = REQUIRED.get(name, {})
    cls = known[name]
    config = ConfigDict({"a": choice(known, name)})
    assert build_chosen(known, config, "a", **given) == cls(**given)
    config = ConfigDict({"a": settings(cls)})
    assert build(cls, config, "a", **given) == cls(**given)


@pytest.mark.parametrize("cls", [SearchSettings, Ranking])
def test_settings_of_other_parts_give_them(cls):
    assert build(cls, ConfigDict({"a": settings(cls)}), "a") == cls()


# From the command line.

CONFIG = """
from ml_collections import ConfigDict
from test_build import PARTS
from wpl_jax.jobs.build import choice

def get_config():
    config = ConfigDict()
    config.a = choice(PARTS, "part", part={"steps": 3})
    return config
"""


@pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("limit", "2.5", 2.5),
        ("limit", "2", 2.0),
        ("limit", "None", None),
        ("rate", "2", 2.0),
        ("steps", "5", 5),
        ("mode", "two", "two"),
        ("inner.width", "5", 5),
        ("fast.limit", "5", 5),
        ("fast.limit", "None", None),
        ("kind", "fast", "fast"),
    ],
)
def test_flags_have_the_types_of_the_fields(field, text, value, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(CONFIG)
    found = parse(file, f"a.part.{field}={text}")[0]
    build_chosen(PARTS, found, "a", size=7)
    found = found.a.part
    for name in field.split("."):
        found = found[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
@pytest.mark.parametrize("given", ["steps=2.5", "rate=fast", "limit=low"])
def test_flags_of_other_types_are_refused(given, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(CONFIG)
    with pytest.raises((flags.IllegalFlagValueError, ValueError, TypeError)):
        parse(file, f"a.part.{given}")
