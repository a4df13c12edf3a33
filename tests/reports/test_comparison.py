"""The comparison of runs: numbers by hand, and runs that are missing or differ."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.runs_by_hand import write_run, write_search

from wpl_jax.errors import UserError
from wpl_jax.evaluation.table import nasbench201
from wpl_jax.jobs.compare import compare, labelled, main
from wpl_jax.reports import comparison, found
from wpl_jax.runs.loggers.tensorboard import wall_seconds

SKIP, ALL_3X3, BEST = [1] * 6, [3] * 6, [3, 3, 1, 1, 3, 3]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders that tests only read; "gaea" lacks one of three seeds."""
    root = tmp_path_factory.mktemp("runs")
    gaea = {("none", 0): ALL_3X3, ("none", 1): BEST}
    write_run(root / "gaea", gaea, num_seeds=3, strategy={"name": "gaea"})
    write_run(root / "darts", {("none", 0): SKIP}, strategy={"name": "darts"})
    write_run(root / "darts_2", {("none", 1): SKIP}, strategy={"name": "darts"})
    both = {("none", 0): SKIP, ("wpl", 0): BEST}
    write_run(root / "arms", both, arms=("none", "wpl"), strategy={"name": "gaea"})
    return root


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    """The tables in Markdown, and the folder."""
    arguments = ["gaea", "DARTS=darts", "DARTS=darts_2", "arms", "absent"]
    given = [
        argument.replace("=", f"={runs}/") if "=" in argument else f"{runs}/{argument}"
        for argument in arguments
    ]
    out = tmp_path_factory.mktemp("out") / "comparison"
    return compare(labelled(given), out, budgets=[1000.0]), out


def tables(text):
    """Of each heading, the rows of its table."""
    sections = {}
    for section in text.split("### ")[1:]:
        lines = [line for line in section.splitlines() if line.startswith("|")]
        rows = [re.split(r" \| ", line.strip("| ")) for line in lines]
        sections[section.splitlines()[0]] = rows[:1] + rows[2:]
    return sections


def test_accuracies_are_means_and_standard_errors_by_the_table(written):
    rows = tables(written[0])["Test accuracy by method"]
    assert rows[0] == ["method", "CIFAR-10", "CIFAR-100", "ImageNet16-120", "seeds"]
    by_name = {row[0]: row[1:] for row in rows[1:]}
    # All skip connections have 54.30, 15.61 and 16.32 (published).
    assert by_name["DARTS"] == ["54.30 ± 0.00", "15.61 ± 0.00", "16.32 ± 0.00", "2"]
    assert by_name["none"] == ["54.30", "15.61", "16.32", "1"]
    columns = nasbench201().columns
    one, two = columns["cifar10_test"][1462], float(by_name["wpl"][0])
    mean, error = (one + two) / 2, abs(one - two) / 2  # of two seeds
    assert by_name["gaea"][0] == f"{mean:.2f} ± {error:.2f}"
    assert by_name["gaea"][-1] == "2"
    assert by_name["best there is"][:3] == ["94.37", "73.51", "47.31"]
    assert by_name["random architecture"][0] == "87.06 (12.93)"
    assert "random search, 1,000 s" in by_name


@pytest.mark.parametrize("ranking", [{"truth": "from_scratch"}, {}])
def test_a_table_that_is_not_the_truth_of_a_run_judges_it_only_if_given(
    ranking, tmp_path
):
    """On a user's own images, an architecture of the table has other accuracies."""
    write_run(tmp_path / "own", {("none", 0): SKIP}, ranking=ranking)
    rows = tables(compare([(None, tmp_path / "own")], tmp_path / "out"))
    assert [row[2:5] for row in rows["Searches"][1:]] == [["-"] * 3]
    assert "own" not in [row[0] for row in rows.get("Test accuracy by method", [])]
    table = tmp_path / "table.csv"
    table.write_text("space,choice,photos_test\nnasbench201,0 0 0 0 0 0,12.5\n")
    rows = tables(compare([(None, tmp_path / "own")], tmp_path / "out", str(table)))
    assert rows["Searches"][1][2] == "12.50"


def test_choices_and_errors_are_counted(written):
    rows = tables(written[0])["Searches by method"]
    found_rows = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    gaea = found_rows["gaea"]
    assert gaea["conv 3x3"] == "5.0 ± 1.0"  # 6 and 4
    assert gaea["skip connect"] == "1.0 ± 1.0"  # 0 and 2
    assert gaea["validation error %, shared weights"] == "40.50 ± 0.50"
    assert gaea["test error %, from scratch"] == "-"
    assert "avg pool 3x3" not in gaea  # Nobody has one.


def test_each_search_has_its_string_and_number(written):
    rows = tables(written[0])["Searches"]
    assert len(rows) == 1 + 6
    assert rows[1][:3] == ["gaea", "0", "93.76"]
    text = rows[1][-1].replace("\\|", "|")
    assert text.count("nor_conv_3x3") == 6
    assert rows[1][-2] == "1462"
    assert [row[-2] for row in rows if row[0] == "DARTS"] == ["1835", "1835"]


def test_what_is_missing_is_said(written):
    notes = written[0].split("### Missing or different runs")[1]
    assert "gaea: 2 of 3 searches in " in notes
    assert "without seeds 2." in notes
    assert "absent is left out. There is no run in " in notes


def test_seeds_that_another_folder_of_the_method_has_are_not_missing(tmp_path):
    """As those of the shares of a run, each in a folder of its own."""
    for name, seed in (("a", 0), ("b", 2)):
        write_run(tmp_path / name, {("none", seed): BEST}, seed=0, num_seeds=4)
    read = found.read(labelled([f"M={tmp_path}/a", f"M={tmp_path}/b"]))
    assert [one.seed for one in read.found] == [0, 2]
    (note,) = read.notes
    of_both = f"{tmp_path}/a, {tmp_path}/b"
    assert note == (
        f"M: 2 of 4 searches in {of_both} have finished, without seeds 1, 3."
    )


def test_page_has_figure_and_settings(written):
    _, out = written
    page = (out / "comparison.html").read_text("utf-8")
    assert "<svg" in page
    assert "strategy.name" in page  # in which methods differ
    assert (out / "comparison.md").read_text("utf-8") == written[0]
    assert (out / "figures" / "accuracies.png").stat().st_size > 10_000


def test_bars_begin_at_a_random_architecture_and_end_at_the_mean(runs):
    read = found.read(labelled([f"{runs}/gaea", f"{runs}/darts"]))
    table = nasbench201()
    figure = comparison.bars(comparison.judge(read, table, [1000.0]))
    ax = figure.axes[0]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["gaea", "darts", "random search, 1,000 s", "best by validation"]
    mean = table.columns["cifar10_test"].mean()
    for bar, end in ((ax.patches[1], 54.297), (ax.patches[3], 94.373)):
        assert bar.get_x() + max(bar.get_width(), 0) in (
            pytest.approx(mean),
            pytest.approx(end, abs=0.01),
        )
        ends = sorted([bar.get_x(), bar.get_x() + bar.get_width()])
        assert ends == pytest.approx(sorted([mean, end]), abs=0.01)


def test_seeds_of_different_configurations_are_named(runs, tmp_path):
    write_run(tmp_path / "other", {("none", 5): SKIP}, strategy={"name": "random"})
    given = [("one", runs / "darts"), ("one", tmp_path / "other")]
    (note,) = found.read(given).notes
    assert note.startswith("Runs of one have different configurations: ")
    assert note.endswith("differs in strategy.name.")


def test_several_arms_are_methods_of_their_own_names(runs):
    read = found.read([(None, runs / "arms"), ("wide", runs / "arms")])
    methods = [one.method for one in read.found]
    assert methods == ["none", "wpl", "wide, none", "wide, wpl"]


def test_a_seed_counts_once(runs):
    read = found.read([("one", runs / "darts"), ("one", runs / "darts")])
    assert len(read.found) == 1
    assert read.notes == [
        f"one has seed 0 twice; that of {runs / 'darts'} is left out."
    ]


def test_damaged_searches_are_left_out_and_named(runs, tmp_path):
    folder = shutil.copytree(runs / "gaea", tmp_path / "gaea")
    (folder / "searches" / "none-seed1" / "results.json").write_text("{")
    read = found.read([("gaea", folder)])
    assert [one.seed for one in read.found] == [0]
    assert read.notes[0].startswith("gaea, seed 1 is left out. ")
    shutil.rmtree(folder / "searches")
    with pytest.raises(UserError, match=r"No search has finished\. gaea: 0 of 3"):
        found.read([("gaea", folder)])


def test_runs_of_another_job_are_left_out(runs, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"job": "two_models"}))
    read = found.read([("two", tmp_path), ("gaea", runs / "gaea")])
    assert "two is left out. " in read.notes[0]
    assert "lacks arms" in read.notes[0]


def test_searches_of_other_spaces_have_no_accuracies(runs, tmp_path):
    folder = tmp_path / "cell"
    write_run(folder, {("none", 0): SKIP})
    path = folder / "searches" / "none-seed0" / "architecture.json"
    path.write_text(path.read_text().replace("nasbench201", "another"))
    text = compare([("cell", folder)], tmp_path / "out")
    assert list(tables(text)) == ["Searches by method", "Searches"]
    assert not (tmp_path / "out" / "figures").exists()


def test_tables_of_ones_own_judge_by_numbers(runs, tmp_path):
    rows = "\n".join(f"nasbench201,{c} {c} {c} {c} {c} {c},{c}" for c in range(4))
    (tmp_path / "own.csv").write_text(f"space,choice,images_test\n{rows}\n")
    given = [("darts", runs / "darts")]
    text = compare(given, tmp_path / "out", str(tmp_path / "own.csv"))
    rows = tables(text)["Test accuracy by method"]
    assert rows == [
        ["method", "images", "seeds"],
        ["darts", "0.00", "1"],  # Skip is the first choice of its space.
        ["random architecture", "1.50 (1.12)"],
        ["best there is", "3.00"],
    ]
    assert tables(text)["Searches"][1][-1] == "0 0 0 0 0 0"


def test_folders_of_one_name_need_labels():
    with pytest.raises(UserError, match="Two runs have the name 'gaea'"):
        labelled(["a/gaea", "b/gaea"])
    assert labelled(["A=a/gaea", "A=b/gaea"]) == [
        ("A", Path("a/gaea")),
        ("A", Path("b/gaea")),
    ]


def test_command_prints_the_tables_or_an_error(runs, tmp_path, capsys):
    main([f"--out={tmp_path}", "--budget=500", str(runs / "darts")])
    said = capsys.readouterr().out
    assert "| darts | 54.30 |" in said
    assert "random search, 500 s" in said
    with pytest.raises(SystemExit) as caught:
        main([f"--out={tmp_path}", str(tmp_path / "nothing")])
    assert caught.value.code == 2
    assert "Error: No search has finished." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([f"--out={tmp_path}", "--budget=-1", str(runs / "darts")])


def test_seconds_are_those_of_all_processes(tmp_path, monkeypatch):
    """Two processes of 7 and 5 seconds, hours apart."""
    for start, stop in ((1000.0, 1007.0), (9000.0, 9005.0)):
        times = iter(np.linspace(start, stop, 3))
        monkeypatch.setattr("time.time", lambda times=times: next(times))
        monkeypatch.setattr("time.time_ns", lambda times=times: int(next(times) * 1e9))
        write_search(tmp_path, SKIP)
    assert wall_seconds(tmp_path) == pytest.approx(12)
    assert wall_seconds(tmp_path / "nothing") is None
