"""What messages and guides advise can be given on the command line."""

import functools
import re
from pathlib import Path

import pytest
from helpers.flags import parse
from ml_collections import ConfigDict

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))
CONFIGS += [ROOT / "tests" / "helpers" / name for name in ("tiny.py", "tiny_search.py")]
TEXTS = [
    *(ROOT / "docs").glob("*.md"),
    ROOT / "README.md",
    *(ROOT / "wpl_jax").rglob("*.py"),
    *CONFIGS,
]
METHODS = {*dir(ConfigDict), "json", "ignore_type", "field"}
SECTIONS = (
    "penalty|optimizer|search|strategy|space|task|retrain|ranking|data|model_[ab]"
)


def leaves(config, field=""):
    for name in config:
        below = f"{field}.{name}" if field else name
        if isinstance(config[name], ConfigDict):
            yield from leaves(config[name], below)
        else:
            yield below, config[name]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda path: path.stem)
def test_every_field_of_a_configuration_can_be_given(file):
    config, _ = parse(file)
    # A text cannot be None: None is a text as well.
    texts = re.compile(r"path|start_from")
    given = {k: v for k, v in leaves(config) if v is not None or not texts.search(k)}
    again, names = parse(file, *(f"{field}={value}" for field, value in given.items()))
    assert set(names) == set(given)
    assert again.to_dict() == config.to_dict()


def advised():
    """Fields with values, as they stand in guides and messages."""
    found = set()
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        for field, value in re.findall(
            r"\bconfig\.([a-z0-9_.]*[a-z0-9_])(=[\w.]*)?", text
        ):
            # In code methods of a configuration stand beside its fields.
            if not set(field.split(".")) & METHODS:
                found.add((field, value[1:]))
        if path.suffix == ".md":
            for field, value in re.findall(
                rf'`((?:{SECTIONS})\.[a-z0-9_.]+)=("?[\w.]+"?)`', text
            ):
                found.add((field, value.strip('"')))
    return sorted(found)


@functools.cache
def with_arguments():
    """Configurations as guides name them with an argument, which changes the fields."""
    text = "".join(path.read_text(encoding="utf-8") for path in TEXTS)
    named = re.findall(r"\bconfigs/[a-z0-9_]+\.py:[\w.,]*\w", text)
    return [ROOT / name for name in sorted(set(named))]


@functools.cache
def own_leaves(file):
    config, _ = parse(file)
    return dict(leaves(config))


def taken(field, value):
    """Whether some configuration takes a field, with this value or its own."""
    tiny = ROOT / "tests" / "helpers" / "tiny_search.py"
    for file in (tiny, *CONFIGS, *with_arguments()):
        own = own_leaves(file)
        # An arm takes each field that the configuration has itself.
        arm = re.match(r"arms\.[\w-]+\.", field)
        if arm and field not in own:
            own = {arm[0] + name: at for name, at in own.items()}
        if field not in own and ".data." not in f".{field}":
            if any(name.startswith(f"{field}.") for name in own):
                return True
            continue
        text = own.get(field) if value.isupper() or not value else value
        try:
            parse(file, f"{field}={text}")
        except Exception:
            continue
        return True
    return False


def test_the_advice_is_found():
    assert ("penalty.wpl.max_norm", "None") in advised()
    assert ("task.data.size", "") in advised()
    assert len(advised()) > 40


@pytest.mark.parametrize(("field", "value"), advised(), ids=str)
def test_what_is_advised_can_be_given(field, value):
    assert taken(field, value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ('size="(8, 8)"', '"(8, 8)"'),
        ("size=(8, 8)", (8, 8)),
        ("size=[8, 8]", [8, 8]),
        ("channels=1", 1),
        ("valid=0.25", 0.25),
        ("train_images=pictures", "pictures"),
        ("test_split=None", None),
        ("path=8", "8"),
    ],
)
@pytest.mark.parametrize(
    ("file", "section"),
    [("configs/enas_cnn_digits.py", "task.data"), ("tests/helpers/tiny.py", "data")],
)
def test_options_of_data_can_be_given(option, value, file, section):
    config, names = parse(file, f"{section}.{option}")
    name = option.partition("=")[0]
    assert names == [f"{section}.{name}"]
    found = config.to_dict()
    for part in section.split("."):
        found = found[part]
    value = "(8, 8)" if value == '"(8, 8)"' else value
    assert found[name] == value or repr(found[name]) == repr(value)


def test_other_fields_must_be_there():
    with pytest.raises(Exception, match="nonsense"):
        parse("tests/helpers/tiny.py", "nonsense.data=3")
    with pytest.raises(Exception, match="nonsense"):
        parse("tests/helpers/tiny.py", "nonsense.data.size=3")
