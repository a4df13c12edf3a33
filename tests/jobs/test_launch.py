"""The command line as a user meets it: what it says, and how it ends."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from helpers import tiny
from helpers.forked import launch_each
from helpers.tiny import ARMS, arguments, call, environment

from wpl_jax.errors import ConfigError, UserError
from wpl_jax.jobs import registry as jobs


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The undisturbed run."""
    return tiny.undisturbed_run(tmp_path_factory)


WRONG_FLAGS = {
    "flag": (["--nonsense"], ["nonsense"]),
    "field": (["--config.nonsense=3"], ["config.nonsense"]),
    "field below": (["--config.model_a.step=3"], ["config.model_a.step", "steps"]),
    "type": (["--config.num_seeds=abc"], ["--config.num_seeds=abc", "int"]),
    "value": (["--config.hidden=0"], ["config.hidden is 0", "--config.hidden="]),
    "mode": (["--mode=reprot"], ["--mode=reprot", "'run'", "Did you mean report?"]),
    "share": (["--share=3/2"], ["--share='3/2'", "1 <= I <= N"]),
    "positional": (["run"], ["Unexpected arguments: ['run']"]),
    "home": (["--workdir=~nobody_here/run"], ["--workdir is '~nobody_here/run'"]),
    "home of input": (["--input=~nobody_here/a"], ["--input is '~nobody_here/a'"]),
    "no file": (["--config=configs/nowhere.py"], ["configs/nowhere.py"]),
    # The digits need no path, but a user may bring data to their configuration.
    "no data": (
        ["--config.data.format=npz", "--config.data.path=nowhere.npz"],
        ["nowhere.npz: found nothing"],
    ),
    "no get_config": (["--config={no get_config}"], ["{no get_config}", "get_config"]),
    "no config": (["--config={no config}"], ["{no config}", "ConfigDict"]),
    "argument": (
        ["--config={raises}:b"],
        ["Error: {raises}:b: data is 'b' ({raises}, line 2)"],
    ),
    "mistake": (["--config={mistake}"], ["KeyError: 'a' ({mistake}, line 2)"]),
    "name": (["--config=enas_rnn_pydo"], ["Did you mean", "enas_rnn_pydoc?"]),
    "budget": (["--budget=inf"], ["--budget is inf, expected a finite number"]),
    "grace": (["--grace=nan"], ["--grace is nan"]),
}
FILES = {
    "no get_config": "x = 1\n",
    "no config": "def get_config():\n    return 3\n",
    "raises": "def get_config(data):\n    raise ValueError(f'data is {data!r}')\n",
    "mistake": "def get_config():\n    return {}['a']\n",
}
# Every field of the main setting can be overridden, told by how far the command comes:
# to a folder that is a file.
MAIN = {"penalty": "wpl", "step": "proximal", "normalize": "tree", "shared": 1}


@pytest.fixture(scope="module")
def refused(tmp_path_factory, finished):
    """How commands that cannot be run end, by names, and the files they were given.

    And how one ends that runs, without a configuration, in the folder of a run.
    """
    folder = tmp_path_factory.mktemp("refused")
    shutil.copytree(finished.workdir, folder / "run")
    (folder / "run" / "results.json").unlink()
    files = {name: folder / f"file{i}.py" for i, name in enumerate(FILES)}
    for name, text in FILES.items():
        files[name].write_text(text)
    commands = {
        name: arguments(folder / name, *(flag.format(**files) for flag in flags))
        for name, (flags, _) in WRONG_FLAGS.items()
    }
    commands["nothing"] = arguments(folder / "nothing")[:2]
    (folder / "main").write_text("in the way")
    flags = [f"--config.main.{name}={value}" for name, value in MAIN.items()]
    flags.append("--config.main.stop=0.2")
    commands["main"] = arguments(folder / "main", *flags)
    # Without the interpreter and launch.py.
    commands = {name: command[2:] for name, command in commands.items()}
    commands["run"] = [f"--workdir={folder / 'run'}"]
    commands["changed"] = [f"--workdir={folder / 'run'}", "--config.num_seeds=3"]
    return launch_each(commands, seconds=120), files, folder


def said_by(ended):
    """What a command that cannot be run says, on its error output."""
    assert ended.returncode in (1, 2)
    assert "Traceback" not in ended.stderr
    assert "Training" not in ended.stdout
    return ended.stderr


@pytest.mark.parametrize("wrong", WRONG_FLAGS)
def test_wrong_flag_is_said_in_a_message(wrong, refused):
    ended, files, folder = refused
    said = said_by(ended[wrong])
    for part in WRONG_FLAGS[wrong][1]:
        assert part.format(**files) in said
    assert not (folder / wrong).exists()


def test_missing_flags_are_said_in_a_message(refused):
    said = said_by(refused[0]["nothing"])
    assert "--config must have a value" in said
    assert "--workdir must have a value" in said


def test_the_folder_of_a_run_has_its_configuration(refused, finished):
    ended, _, folder = refused
    assert ended["run"].returncode == 0, ended["run"].stderr
    tiny.assert_same_bytes(folder / "run", finished.workdir)
    assert "num_seeds: 2 there, 3 now" in said_by(ended["changed"])


def test_every_field_of_the_main_setting_can_be_overridden(refused):
    ended, _, folder = refused
    said = said_by(ended["main"])
    assert "config.main" not in said
    assert str(folder / "main") in said


def test_a_command_alone_is_refused_as_those_that_share_imports(refused, tmp_path):
    wrong = tiny.call(arguments(tmp_path, *WRONG_FLAGS["value"][0]), environment())
    assert tuple(refused[0]["value"]) == (2, "", wrong.stderr)
    assert wrong.returncode == 2


@pytest.mark.parametrize("job", ["three_models", None])
def test_job_that_is_not_known_is_a_config_error(job, tmp_path):
    config = tiny.get_config()
    with config.ignore_type():
        config.job = job
    with pytest.raises(
        ConfigError, match=r"config\.job is .*expected one of"
    ) as caught:
        jobs.run(config, tmp_path / "run", "run")
    assert repr(job) in str(caught.value)
    assert "two_models" in str(caught.value)


def test_mode_is_one_of_the_job(tmp_path):
    with pytest.raises(UserError, match="--mode=train is not") as caught:
        jobs.run(tiny.get_config(), tmp_path / "run", "train")
    assert "['report', 'run']" in str(caught.value)
    with pytest.raises(UserError, match="There is no run in"):
        jobs.run(tiny.get_config(), tmp_path / "run", "report")


@pytest.mark.slow
def test_full_disk_is_said_in_a_message(finished, tmp_path):
    """The limit is on the size of a file, in KiB: only a checkpoint is as large."""
    command = arguments(tmp_path / "run")
    shell = ["bash", "-c", 'ulimit -f 4 && exec "$@"', "bash", *command]
    process = call(shell, environment(finished.cache), timeout=120)
    assert process.returncode == 2
    assert "Error: Checkpoint 0 could not be written" in process.stderr
    assert "Make room" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_signals_stop_the_program_with_all_saved(finished, tmp_path):
    flags = ["--config.checkpoint_seconds=1000000."]  # Only the signal makes it save.
    run = tmp_path / "run"

    def records():
        file = run / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    done = 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with finished.start(run, *flags) as process:
            while records() <= done:  # The next arm has functions to compile.
                assert process.poll() is None, process.communicate()
                time.sleep(0.001)
            process.send_signal(number)
            out, said = process.communicate(timeout=60)
        assert process.returncode == code
        start = (
            f"Training B: resuming after {done} of {ARMS} arms."
            if done
            else "Training A ..."
        )
        assert out.startswith(start)
        assert done < records() < ARMS
        done = records()
        assert f"Stopped by a signal after {done} of {ARMS} arms; all saved." in said
        assert "Traceback" not in said
        assert (run / "checkpoints" / str(done)).is_dir()
        assert not (run / "results.json").exists()


@pytest.mark.slow
def test_reader_that_goes_does_not_end_the_program(finished, tmp_path):
    """As under ``| head -1``; the results are those of any other run."""
    with finished.start(tmp_path / "run") as process:
        assert process.stdout.readline() == "Training A ...\n"
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
    tiny.assert_same_bytes(tmp_path / "run", finished.workdir)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="Linux has it")
def test_interruption_before_the_job_is_one_line(finished, tmp_path):
    with finished.start(tmp_path / "run") as process:
        maps = pathlib.Path(f"/proc/{process.pid}/maps")
        while "jaxlib" not in maps.read_text():  # Imports take seconds.
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert said == "\nInterrupted.\n"


@contextlib.contextmanager
def training_for_minutes(workdir, *flags):
    """A run in its first call, which trains A."""
    large = ("--config.model_a.steps=1000000", "--config.batch_size=1000")
    command = arguments(workdir, *large, *flags)
    with subprocess.Popen(
        command, env=environment(), cwd=tiny.ROOT, stdout=-1, stderr=-1, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "Training A ...\n"
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_second_signal_ends_a_call_that_lasts(tmp_path):
    with training_for_minutes(tmp_path / "run", "--grace=1000") as process:
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        out, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert out == ""
    first, second = said.splitlines()
    assert first.startswith("SIGTERM: stopping as soon as")
    assert second.startswith("Stopped by SIGTERM: it came a second time.")


@pytest.mark.slow
def test_call_that_lasts_longer_than_the_grace_time_is_left(tmp_path):
    with training_for_minutes(tmp_path / "run", "--grace=0.1") as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    first, second = said.splitlines()
    assert "SIGTERM: stopping as soon as" in first
    assert "0.1 seconds of --grace" in second


def test_program_is_quiet_but_for_what_matters(finished):
    again = finished.launch(finished.workdir)  # Writes nothing: it is finished.
    assert again.returncode == 0
    assert again.stdout == f"This run is finished: {finished.workdir / 'report.html'}\n"
    assert again.stderr == ""
