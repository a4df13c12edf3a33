"""Several processes: they do what one does, and know when one of them is lost."""

import contextlib
import json
import os
import re
import signal
import sys
import time

import jax
import numpy as np
import pytest
from helpers.forked import launch_each
from helpers.processes import ROOT, devices_of_each, free_port, processes
from helpers.tiny import call, environment
from helpers.tiny_search import RUNS
from PIL import Image

from wpl_jax.data import DataError
from wpl_jax.devices import processes as wpl_processes
from wpl_jax.devices.processes import explain_lost_processes
from wpl_jax.errors import UserError

CONFIG = f"--config={ROOT / 'tests' / 'helpers' / 'tiny_search.py'}"

AGREEING = """
import sys
import jax, numpy as np
from wpl_jax.devices import parallel, processes
from wpl_jax.data import ImageDataset, Split
from wpl_jax.tasks.image_data import prepare
coordinator, index = sys.argv[1], int(sys.argv[2])
processes.start(coordinator, 2, index)
devices = parallel.Devices(jax.device_count())
axis = devices.every
mean = devices.compile(lambda x: axis.mean(axis.shard(x) ** 2))
numbers = np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1)


class Files:  # Images that tell which of them are read.
    def __init__(self, numbers=numbers):
        self.numbers, self.shape = numbers, numbers.shape

    def __getitem__(self, places):
        return Files(self.numbers[places])

    def __array__(self, dtype=None, copy=None):
        read.append(self.numbers.reshape(-1).tolist())
        return self.numbers


read = []
others = numbers + 18
others[8] = 3  # An image that another process has in its rows of train.
splits = [
    Split(Files(each), np.arange(9, dtype=np.int32))
    for each in (numbers, numbers + 9, others)
]
dataset = ImageDataset(*splits, ("a",), "numbers")
images = devices.replicate(prepare(dataset, devices=devices))
whole = devices.replicate(prepare(dataset))  # All of them on each.
take = devices.compile(lambda data, places: (data.train.images[places], data.mean))
taken, mean_of_images = take(images, np.array([8, 0, 3, 3, 6]))
state = {"a": np.arange(4.0) + index, "k": jax.random.split(jax.random.key(index))}
state = processes.from_primary(state, jax.eval_shape(lambda: state))
print(
    index,
    processes.is_primary(),
    processes.broadcast(7 + index),
    processes.any_process(index == 1),
    processes.any_process(False),
    state["a"].tolist(),
    np.asarray(jax.random.key_data(state["k"])).sum(),
    jax.device_get(mean(devices.replicate(np.arange(8.0)))).tolist(),
    read[0],
    np.asarray(taken).reshape(-1).tolist(),
    mean_of_images.tolist(),
    [np.asarray(whole.train.images).reshape(-1).tolist(), whole.train.labels.tolist()],
    whole.mean.tolist(),
    processes.total(np.array([[2**60 + index], [-1]])).tolist(),
    sep="|",
)
"""


def test_two_processes_agree():
    coordinator = f"localhost:{free_port()}"
    commands = [
        [sys.executable, "-c", AGREEING, coordinator, str(index)] for index in range(2)
    ]
    with processes(commands, environment(XLA_FLAGS=devices_of_each(2))) as started:
        said = [one.communicate(timeout=120) for one in started]
    for index, (out, err) in enumerate(said):
        assert out, err
        found = out.splitlines()[-1].split("|")
        assert out.count("numbers: 1 of 9 test images are in an earlier") == 2
        assert found[:5] == [str(index), str(index == 0), "7", "True", "False"]
        assert json.loads(found[5]) == [0, 1, 2, 3]
        # Of four devices each has two of the rows.
        assert json.loads(found[7]) == [14.0, 21.0]
        # Of nine images three are of each device, and none of the last one.
        order = np.random.default_rng(0).permutation(9)
        assert json.loads(found[8]) == (order[6:] if index else order[:6]).tolist()
        assert json.loads(found[9]) == order[[8, 0, 3, 3, 6]].tolist()
        assert json.loads(found[10]) == json.loads(found[12]) == [4.0]
        assert json.loads(found[11]) == [order.tolist()] * 2
        assert json.loads(found[13]) == [[2**61 + 1], [-2]]
    assert said[0][0].split("|")[6] == said[1][0].split("|")[6]


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_keys_of_the_primary_process_reach_the_others(kind, monkeypatch):
    """JAX's broadcast is replaced: both sides must pass arrays of the same form."""
    state = {
        "keys": jax.random.split(jax.random.key(7, impl=kind), 3),
        "count": np.arange(2, dtype=np.int64),
    }
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    sent = []

    def broadcast(data):
        sent.append(data)
        return sent[0]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    broadcasting = "jax.experimental.multihost_utils.broadcast_one_to_all"
    monkeypatch.setattr(broadcasting, broadcast)
    for index, tree in enumerate((state, None)):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        found = wpl_processes.from_primary(tree, like)
        assert found["keys"].dtype == state["keys"].dtype
        np.testing.assert_array_equal(
            *(jax.random.key_data(each["keys"]) for each in (found, state))
        )
        assert found["count"].tolist() == [0, 1]
    forms = [jax.tree.map(lambda x: (x.shape, x.dtype), data) for data in sent]
    assert forms[0] == forms[1]


def test_an_error_of_its_own_is_not_taken_for_a_lost_process(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with (
        pytest.raises(UserError, match=r"^IMAGES: found an empty folder"),
        explain_lost_processes(),
    ):
        raise DataError("IMAGES", "an empty folder", "images", "add some")
    for lost in ("UNKNOWN: Gloo has failed.", "INTERNAL: NCCL operation", "ABORTED: x"):
        with (
            pytest.raises(UserError, match="has lost another process"),
            explain_lost_processes(),
        ):
            raise ValueError(lost)
    for own in ("INTERNAL: a kernel was not launched", "no status", "UNKNOWN: x"):
        with pytest.raises(ValueError, match=own), explain_lost_processes():
            raise ValueError(own)


def test_flags_that_are_not_enough_are_named(tmp_path):
    expected = {
        "one": (["--coordinator=localhost:1"], "also need --processes and --process"),
        "two": (["--process=0", "--processes=2"], "also need --coordinator"),
        "too many": (["--cluster", "--process=0"], "--cluster finds out"),
    }
    commands = {
        name: [CONFIG, f"--workdir={tmp_path}/run", *flags]
        for name, (flags, _) in expected.items()
    }
    for name, done in launch_each(commands, seconds=60).items():
        assert done.returncode == 2
        assert expected[name][1] in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


# Searches by two processes, each with a device or two.


def search(workdir, *flags, config=CONFIG):
    coordinator = f"--coordinator=localhost:{free_port()}"
    return [
        [
            *(sys.executable, str(ROOT / "launch.py"), config, f"--workdir={workdir}"),
            *(coordinator, "--processes=2", f"--process={index}", *flags),
        ]
        for index in range(2)
    ]


def read(workdir, runs=RUNS):
    """What a run left, as numbers."""
    found = {}
    for run in runs:
        folder = workdir / "searches" / run
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        found[run] = [json.loads(line) for line in lines]
        for path in folder.glob("retrain/retrained.json"):
            retrained = json.loads(path.read_text())
            assert retrained.pop("error_name") == "perplexity"
            found[run] += [retrained.pop("guess"), retrained]
    return found


def assert_close(found, expected):
    for run, records in expected.items():
        assert len(found[run]) == len(records)
        for have, want in zip(found[run], records, strict=True):
            assert have.keys() == want.keys()
            for name in want:
                # What was forgotten is a difference of perplexities of about 30.
                scale = want["children/error"] if "/error_" in name else 1
                np.testing.assert_allclose(
                    np.array(have[name], float),
                    np.array(want[name], float),
                    atol=1e-5 * scale,
                    rtol=1e-5,
                    err_msg=f"{run} {name}",
                )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process with one device leaves; compiled programs for the others."""
    folder = tmp_path_factory.mktemp("alone")
    env = environment(folder / "cache", XLA_FLAGS=devices_of_each(1))
    command = [sys.executable, "launch.py", CONFIG, f"--workdir={folder / 'run'}"]
    done = call(command, env, timeout=300)
    assert done.returncode == 0, done.stderr
    return read(folder / "run"), folder / "cache"


@pytest.mark.slow
def test_two_processes_of_two_devices_search_as_one(alone, tmp_path):
    expected, cache = alone
    env = environment(cache, XLA_FLAGS=devices_of_each(2))
    with processes(search(tmp_path / "run"), env) as (first, second):
        out, err = first.communicate(timeout=300)
        silent, _ = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0), err
    assert out.endswith(f"Report: {tmp_path / 'run' / 'report.html'}\n")
    assert "Error" not in err
    assert all(line.startswith("[Gloo]") for line in silent.splitlines())
    assert_close(read(tmp_path / "run"), expected)


IMAGE_RUNS = ("wpl-seed0",)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A folder of images, too few for every device to have one of all splits."""
    tmp_path = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("valid", 17), ("test", 16)):
        for label in ("a", "b"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture(scope="module")
def images_alone(noise, tmp_path_factory):
    """What one device leaves of a search on images, and the flags of it."""
    flags = [
        f"--config={ROOT / 'tests' / 'helpers' / 'tiny_images.py'}",
        "--config.task.data.format=folder",
        f"--config.task.data.path={noise}",
        "--config.retrain.epochs=0",
        "--config.search.checkpoint_seconds=0.0",
    ]
    workdir = tmp_path_factory.mktemp("images") / "run"
    command = [sys.executable, "launch.py", *flags, f"--workdir={workdir}"]
    done = call(command, environment(XLA_FLAGS=devices_of_each(1)), timeout=600)
    assert done.returncode == 0, done.stderr
    return read(workdir, IMAGE_RUNS), flags


@pytest.mark.slow
def test_a_search_on_images_is_killed_on_four_devices_and_goes_on_on_two(
    images_alone, tmp_path
):
    expected, flags = images_alone
    command = [sys.executable, "launch.py", *flags, f"--workdir={tmp_path / 'run'}"]
    env = environment(XLA_FLAGS=devices_of_each(4))
    with processes([command], env) as started:
        # Of four children, and four steps of the controller, two a call.
        saved = stop_within_an_epoch(started, tmp_path / "run", 4 + 4 + 2, after=0)
        started[0].kill()
    done = call([*command, "--devices=2"], env, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Devices: 2 of 4 (cpu)" in done.stdout
    assert f"resuming after {saved} of" in done.stdout
    assert_close(read(tmp_path / "run", IMAGE_RUNS), expected)


@pytest.mark.slow
def test_two_processes_search_on_images_as_one(images_alone, tmp_path):
    expected, (config, *flags) = images_alone
    env = environment(XLA_FLAGS=devices_of_each(2))
    report = tmp_path / "two" / "report.html"
    for mode in ("run", "report"):
        if mode == "report":
            report.unlink()
        commands = search(tmp_path / "two", *flags, f"--mode={mode}", config=config)
        with processes(commands, env) as (first, second):
            out, err = first.communicate(timeout=600)
            second.communicate(timeout=60)
        assert (first.returncode, second.returncode) == (0, 0), err
        assert out.endswith(f"Report: {report}\n")
        assert report.exists()
    assert_close(read(tmp_path / "two", IMAGE_RUNS), expected)


def wait_for_epochs(workdir, count):
    """Until a search has told of so many epochs."""
    for _ in range(600):
        lines = workdir.glob("searches/*/metrics.jsonl")
        if sum(len(path.read_text().splitlines()) for path in lines) >= count:
            return
        time.sleep(0.1)
    raise TimeoutError("No epoch has ended in a minute.")


# Of a search of three children with four steps of the controller, two a call.
CALLS_OF_AN_EPOCH = 3 + 3 + 2


def stop_within_an_epoch(started, workdir, calls=CALLS_OF_AN_EPOCH, after=1):
    """Stops processes, once what they have saved last is of the midst of an epoch.

    Of one after so many epochs, each of so many calls.
    """

    def saved():
        folder = workdir / "searches" / "wpl-seed0" / "checkpoints"
        numbers = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
        newest = max(numbers, default=0)
        return newest if newest % calls else 0

    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if saved() > after * calls:
            for one in started:
                one.send_signal(signal.SIGSTOP)
            if newest := saved():
                return newest
            for one in started:
                one.send_signal(signal.SIGCONT)
        time.sleep(0.01)
    raise TimeoutError("Nothing was saved within an epoch.")


def test_limits_of_time_are_those_that_jax_is_told(monkeypatch, capsys):
    told = {}

    def initialize(coordinator, count, index, **limits):
        told.update(limits, who=(coordinator, count, index))

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(
        wpl_processes, "_start_watchdog", lambda message: told.update(message=message)
    )
    wpl_processes.start("host:1", 2, 0, wait_seconds=7, heartbeat_seconds=5)
    assert told.pop("who") == ("host:1", 2, 0)
    said = capsys.readouterr().err
    # JAX notices within twice the heartbeat's limit.
    assert "7 seconds at most" in said
    assert "the others end within 10 seconds" in said
    assert "within 7 seconds" in told["message"]
    assert "did not respond for 5 seconds" in told.pop("message")
    assert told == {"heartbeat_timeout_seconds": 5, "initialization_timeout": 7}


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_others_and_fewer_go_on(lost, alone, tmp_path):
    expected, cache = alone
    workdir = tmp_path / "run"
    env = environment(cache, XLA_FLAGS=devices_of_each(1))
    with processes(search(workdir, "--heartbeat=5"), env) as started:
        saved = stop_within_an_epoch(started, workdir)
        started[lost].kill()
        started[1 - lost].send_signal(signal.SIGCONT)
        _, err = started[1 - lost].communicate(timeout=300)  # It ends by itself.
    assert started[1 - lost].returncode not in (0, None)
    # Threads of JAX's may go on talking after it.
    said = [line for line in err.splitlines() if line.startswith("Error: ")]
    *_, last = said
    lost_one = f"Process {1 - lost} of 2 has lost another process" in last
    assert lost_one or f"Process {1 - lost} ended before it was finished" in last
    assert "The same command continues from the last checkpoint" in last
    command = [sys.executable, "launch.py", CONFIG, f"--workdir={workdir}"]
    done = call(command, env, timeout=300)
    assert done.returncode == 0, done.stderr
    found = re.search(r"resuming after (\d+) of", done.stdout)
    assert int(found[1]) >= saved
    assert_close(read(workdir), expected)


@pytest.mark.slow
def test_a_process_that_stops_responding_is_lost_in_the_stated_time(alone, tmp_path):
    env = environment(alone[1], XLA_FLAGS=devices_of_each(1))
    commands = search(tmp_path / "run", "--heartbeat=5", "--config.search.epochs=300")
    with processes(commands, env) as (first, second):
        wait_for_epochs(tmp_path / "run", 1)
        second.send_signal(signal.SIGSTOP)
        _, err = first.communicate(timeout=300)  # It ends by itself.
    assert "the others end within 10 seconds" in err.splitlines()[0]
    assert first.returncode not in (0, None)
    assert "Process 0 ended before it was finished" in err.splitlines()[-1]


@pytest.mark.slow
def test_a_process_that_does_not_connect_is_reported(tmp_path):
    command = search(tmp_path / "run", "--wait=2")[0]
    done = call(command, environment(), timeout=60)
    assert done.returncode not in (0, None)
    last = done.stderr.splitlines()[-1]
    assert "Process 0 ended before it was finished" in last
    assert "did not connect within 2 seconds" in last
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_slurm_says_which_process_is_which(alone, tmp_path):
    expected, cache = alone
    flags = [f"--workdir={tmp_path / 'run'}", "--cluster"]
    command = [sys.executable, str(ROOT / "launch.py"), CONFIG, *flags]
    started = []
    port = {"JAX_COORDINATOR_PORT": str(free_port())}
    with contextlib.ExitStack() as stack:
        for index in range(2):
            slurm = {
                "SLURM_JOB_ID": "1",
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": str(index),
                "SLURM_LOCALID": str(index),
                "SLURM_STEP_NUM_NODES": "1",
            }
            env = environment(cache, XLA_FLAGS=devices_of_each(1), **slurm, **port)
            started += stack.enter_context(processes([command], env))
        out, err = started[0].communicate(timeout=300)
        started[1].communicate(timeout=60)
    assert [one.returncode for one in started] == [0, 0], err
    assert "Devices: 2 (cpu)" in out
    assert_close(read(tmp_path / "run"), expected)


@pytest.mark.slow
def test_a_signal_to_any_process_stops_and_saves_all(alone, tmp_path):
    expected, cache = alone
    workdir = tmp_path / "run"
    env = environment(cache, XLA_FLAGS=devices_of_each(1))
    with processes(search(workdir), env) as started:
        wait_for_epochs(workdir, 1)
        os.kill(started[1].pid, signal.SIGTERM)
        said = [one.communicate(timeout=60)[1] for one in started]
    assert [one.returncode for one in started] == [143, 143]
    assert not any("ended before" in err for err in said)
    with processes(search(workdir), env) as started:
        out, err = started[0].communicate(timeout=300)
        started[1].communicate(timeout=60)
    assert [one.returncode for one in started] == [0, 0], err
    assert "resuming after" in out
    assert_close(read(workdir), expected)


@pytest.mark.slow
def test_what_one_process_cannot_do_ends_all(tmp_path):
    """The first alone writes the metrics, where a folder is in the way."""
    metrics = tmp_path / "run" / "searches" / "wpl-seed0" / "metrics.jsonl"
    metrics.mkdir(parents=True)
    env = environment(XLA_FLAGS=devices_of_each(1))
    with processes(search(tmp_path / "run"), env) as started:
        _, first = started[0].communicate(timeout=60)
        _, second = started[1].communicate(timeout=60)
    assert str(metrics) in first
    assert started[0].returncode == 2
    assert started[1].returncode not in (0, None)
    assert "has lost another process" in second or "another task died" in second
