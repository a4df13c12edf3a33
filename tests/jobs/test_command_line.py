"""How the command line names configurations."""

from pathlib import Path

import pytest
from absl import flags
from helpers import tiny_search
from helpers.flags import parse

from wpl_jax.errors import ConfigError
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.command_line import (
    ConfigFileError,
    with_built_in,
    with_config_of_run,
)
from wpl_jax.jobs.expand import expand
from wpl_jax.runs.run_files import to_json

# ml_collections loads files by a method that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")

METHODS = "configs/methods_nb201_small.py:gdas,darts"


def test_a_built_in_configuration_goes_by_its_name_with_an_argument_or_without():
    found = with_built_in(
        ["--config=methods_nb201_small:darts", "--config", "enas_rnn_ptb"]
    )
    file, _, argument = found[0].removeprefix("--config=").partition(":")
    assert Path(file).name == "methods_nb201_small.py"
    assert argument == "darts"
    assert Path(file).is_file()
    assert Path(found[2]).is_file()
    for kept in ("--config=configs/mine.py:darts", "--config=nothing_like_it:darts"):
        assert with_built_in([kept]) == [kept]


@pytest.mark.parametrize("file", [METHODS, "configs/two_models_digits.py"])
def test_what_a_run_has_written_is_its_configuration(file, tmp_path):
    config, _ = parse(file)
    written = tmp_path / "config.json"
    written.write_text(to_json(config.to_dict()))
    found, _ = parse(written)
    assert to_json(found.to_dict()) == written.read_text()
    assert list(found) == list(config)
    found, fields = parse(written, "num_seeds=9")
    assert (found.num_seeds, fields) == (9, ["num_seeds"])


def test_tuples_of_a_run_can_be_set(tmp_path):
    written = tmp_path / "config.json"
    written.write_text('{"job": "search", "a": {"names": [["b"], []], "c": null}}')
    found, _ = parse(written, "a.names=('x','y')", "a.c=3")
    assert found.to_dict() == {"job": "search", "a": {"names": ("x", "y"), "c": 3}}


def test_the_folder_of_a_run_stands_for_its_configuration(tmp_path):
    flags = [f"--workdir={tmp_path}", "--config.seed=3"]
    command, written = ["launch.py", *flags], tmp_path / "config.json"
    assert with_config_of_run(command) == command
    nobody = ["launch.py", "--workdir=~nobody_here/run"]  # Refused with its own words.
    assert with_config_of_run(nobody) == nobody
    written.write_text('{"job": "search"}')
    expected = ["launch.py", f"--config={written}", *flags]
    assert with_config_of_run(command) == expected
    assert with_config_of_run([*command, "--config", "a.py"])[1:] == [
        *(*flags, "--config", "a.py"),
    ]
    apart = ["launch.py", "-workdir", str(tmp_path)]
    assert with_config_of_run(apart) == ["launch.py", f"--config={written}", *apart[1:]]
    written.write_text('{"search": "of Python"}')
    assert with_config_of_run(command) == command
    written.write_text("{")
    assert with_config_of_run(command) == expected
    with pytest.raises(ConfigFileError, match=r"config.json is damaged: not JSON"):
        parse(written)


def test_an_arm_takes_a_field_that_the_file_does_not_have_there():
    overrides = ["arms.wpl.search.epochs=9", "arms.none.retrain.epochs=7"]
    config, fields = parse(tiny_search.__file__, *overrides)
    jobs.check_overrides(config, fields, "run")
    found = {each.arm: each.config for each in expand(config)}
    assert found["wpl"].search.epochs == 9
    assert found["none"].search.epochs == config.search.epochs == 2
    assert found["none"].retrain.epochs == 7
    assert found["wpl"].penalty.name == "wpl"


def test_schedules_of_methods_follow_the_epochs_of_their_arms():
    config, _ = parse(METHODS, "arms.gdas.search.epochs=9")
    found = {each.arm: each.config for each in expand(config)}
    lengths = {
        arm: (one.search.epochs, one.optimizer.sgd.cosine.period)
        for arm, one in found.items()
    }
    assert lengths == {"gdas": (9, 9), "darts": (8, 8)}
    assert found["gdas"].strategy.differentiable.temperature_epochs == 9


@pytest.mark.parametrize(
    ("override", "error", "said"),
    [
        ("arms.wpl.search.epoch=9", KeyError, "search"),
        ("arms.nobody.search.epochs=9", KeyError, "nobody"),
        ("arms.wpl.search.epochs=x", flags.IllegalFlagValueError, "invalid literal"),
        (
            "arms.wpl.penalty.l2.strength=1.0",
            ConfigError,
            "'wpl'; in the arm none, it ch",
        ),
        ("arms.wpl.num_seeds=3", ConfigError, "an arm cannot change it"),
        ("arms.wpl.ranking.top=0.3", ConfigError, "an arm cannot change it"),
    ],
)
def test_an_arm_takes_no_field_that_it_does_not_read(override, error, said):
    def check():
        config, fields = parse(tiny_search.__file__, override)
        jobs.check_overrides(config, fields, "run")

    with pytest.raises(error, match=said):
        check()
