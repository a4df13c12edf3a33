"""Shares of the searches of a configuration, in one folder and in several."""

import json
import shutil

import pytest
from helpers import tiny, toy
from helpers.tiny_search import RUNS, assert_same

from wpl_jax.errors import UserError
from wpl_jax.jobs import arms
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.modes import run as run_mode
from wpl_jax.reports import search_report
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_directory import DATA_FILE, claim, open_run
from wpl_jax.runs.share import Share


def share(number, count=2):
    return Machine(share=Share(number, count))


@pytest.fixture(scope="module", autouse=True)
def quick_report():
    """A report of what one would show; it has tests of its own."""

    def write(workdir, config, searches, *others):
        shown = [each._replace(space=None) for each in searches]
        (workdir / "report.html").write_text(f"{config} {shown} {others}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_report, "write", write)
        yield


def get_config():
    """With little to compile."""
    config = toy.get_config()
    config.strategy.name = "random"
    config.search.epochs = 2
    config.retrain.epochs = 1
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run of both searches; tests may not write to it."""
    workdir = tmp_path_factory.mktemp("toy") / "run"
    jobs.run(get_config(), workdir, "run")
    return workdir


def fingerprints(workdir):
    return json.loads((workdir / DATA_FILE).read_text())["fingerprints"]


@pytest.fixture
def divided(finished, tmp_path):
    """Folders of two shares, each with one finished search."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder, other in zip(folders, reversed(RUNS), strict=True):
        shutil.copytree(finished, folder)
        shutil.rmtree(folder / "searches" / other)
        (folder / "report.html").unlink()
    return folders


@pytest.mark.slow
def test_the_share_that_finishes_last_writes_the_report(
    finished, tmp_path, monkeypatch, capsys
):
    workdir, made = tmp_path / "run", []
    make_search = run_mode.make_search

    def watched(config, *args):
        made.append(config.penalty.name)
        return make_search(config, *args)

    monkeypatch.setattr(run_mode, "make_search", watched)
    jobs.run(get_config(), workdir, "run", share(2))
    assert made == ["none"]  # The other arm is not built.
    said = capsys.readouterr().out
    assert "Share 2/2 is finished. 1 of 2 searches are not finished in " in said
    assert "wpl, seed 0. The share that finishes last writes the report." in said
    assert "--mode=report --join=FOLDER" in said
    assert not (workdir / "report.html").exists()
    assert not (workdir / "searches" / "wpl-seed0").exists()
    # Both arms have the same data, which a share notes for the arms of others, too.
    assert fingerprints(workdir) == fingerprints(finished)
    jobs.run(get_config(), workdir, "run", share(2))
    assert "Share 2/2 is finished." in capsys.readouterr().out
    jobs.run(get_config(), workdir, "run", share(1))
    assert f"Report: {workdir / 'report.html'}" in capsys.readouterr().out
    assert_same(workdir, finished)
    assert page(workdir) == page(finished)
    jobs.run(get_config(), workdir, "run", share(1))
    assert capsys.readouterr().out.startswith("This run is finished: ")


def page(workdir):
    return (workdir / "report.html").read_bytes()


@pytest.mark.slow
def test_a_search_that_another_process_runs_is_refused_at_once(divided):
    folder = divided[0]
    with (
        open_run(folder, get_config().to_dict(), alone=False),
        claim(folder / "searches" / "none-seed0"),
    ):
        for mode in ("run", "derive"):
            with pytest.raises(UserError, match="Another process is at work in") as why:
                jobs.run(get_config(), folder, mode, share(2))
        assert "none-seed0" in str(why.value)
        with pytest.raises(UserError, match="Another process is running in"):
            jobs.run(get_config(), folder, "run")


@pytest.mark.slow
def test_a_share_derives_its_own_searches(divided, finished):
    """Whether the others are there or not."""
    path = divided[1] / "searches" / "none-seed0" / "architecture.json"
    path.write_text("lost")
    jobs.run(get_config(), divided[1], "derive", share(2))
    again = finished / "searches" / "none-seed0" / "architecture.json"
    assert path.read_bytes() == again.read_bytes()
    assert not (divided[1] / "searches" / "wpl-seed0").exists()


def test_a_share_notices_that_another_had_other_data(divided, monkeypatch):
    """Though it has other arms."""
    data = toy.make_data()
    other = data._replace(train=data.train.at[0, 0, 0].add(1))
    monkeypatch.setattr(toy.ToyTask, "put", lambda *_: other)
    with pytest.raises(UserError, match=r"other data: .* of none") as caught:
        jobs.run(get_config(), divided[0], "run", share(2))
    assert str(divided[0]) in str(caught.value)


def test_folders_of_shares_have_one_report(divided, finished, tmp_path, capsys):
    first, second = divided
    for out, joined in ((tmp_path / "out", divided), (first, [second, first])):
        machine = Machine(joined=tuple(joined))
        jobs.run(get_config(), out, "report", machine)
        assert page(out) == page(finished)
        assert f"Report: {out / 'report.html'}" in capsys.readouterr().out
    assert not (second / "report.html").exists()


def other_config(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["search"]["children"] = 8
    path.write_text(json.dumps(config))


def other_data(folder):
    (folder / DATA_FILE).write_text(json.dumps({"fingerprints": {"none": "0"}}))


WRONG = {
    "configuration": (other_config, "search.children: 4 in .*out, 8 in .*second"),
    "data": (other_data, "different data: the fingerprint of the data of none"),
    "no run": (shutil.rmtree, "There is no run in .*second"),
    "unfinished": (
        lambda folder: (folder / "searches" / "none-seed0" / "results.json").unlink(),
        "1 of 2 searches have not finished in any of .*: none, seed 0",
    ),
    "twice": (
        lambda folder: shutil.copytree(
            folder.parent / "first" / "searches",
            folder / "searches",
            dirs_exist_ok=True,
        ),
        "wpl, seed 0 has finished in .*first and in .*second",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_folders_that_do_not_belong_together_are_refused(wrong, divided, tmp_path):
    change, said = WRONG[wrong]
    change(divided[1])
    machine = Machine(joined=tuple(divided))
    with pytest.raises(UserError, match=said):
        jobs.run(get_config(), tmp_path / "out", "report", machine)


def test_more_shares_than_searches_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--share=3/3 .* has 2 searches") as caught:
        jobs.run(get_config(), tmp_path / "run", "run", share(3, 3))
    assert "at most 2 processes" in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("get_config", "mode", "machine", "said"),
    [
        (
            get_config,
            "report",
            share(1),
            "--share changes nothing in --mode=report",
        ),
        (get_config, "retrain", share(1), "--mode=run of the job search, --mode=d"),
        (tiny.get_config, "run", share(1), "in --mode=run of the job two_models"),
        (
            get_config,
            "run",
            Machine(joined=("a",)),
            "for --mode=report of the job s",
        ),
    ],
)
def test_flags_that_a_mode_does_not_read_are_refused(
    get_config, mode, machine, said, tmp_path
):
    with pytest.raises(UserError, match=said):
        jobs.run(get_config(), tmp_path / "run", mode, machine)
    assert not (tmp_path / "run").exists()


def test_before_the_turn_of_a_search_programs_are_counted(monkeypatch, tmp_path):
    counted = []
    monkeypatch.setattr(arms, "forget_programs", lambda: counted.append(True))
    each = expand(get_config())[0]
    with arms.turn_of(each, tmp_path):
        assert counted
        with pytest.raises(UserError, match="at work"), arms.turn_of(each, tmp_path):
            pass
