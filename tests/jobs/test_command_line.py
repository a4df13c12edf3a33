"""How the command line names configurations."""

from pathlib import Path

from wpl_jax.jobs.command_line import with_built_in


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
