"""Signals: the first one waits for a safe point, the second does not."""

import contextlib
import signal
import subprocess
import sys
import threading
import types

import pytest

from wpl_jax.errors import on_command_line
from wpl_jax.runs import stopping
from wpl_jax.runs.stopping import SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def _command():
    """Errors name flags."""
    with on_command_line():
        yield


@pytest.fixture
def earlier():
    """Handlers of the tests' own, which note what comes; restored afterwards."""
    signals = []
    before = {
        number: signal.signal(number, lambda number, frame: signals.append(number))
        for number in SIGNALS
    }
    yield signals
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def ended(monkeypatch):
    """Has the end of the process noted: its code, once it comes."""
    event = threading.Event()
    event.codes = []

    def leave(code):
        event.codes.append(code)
        event.set()

    monkeypatch.setattr(stopping, "_leave", leave)
    return event


CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "code"), CODES)
def test_first_signal_is_noted_and_the_second_ends(
    number, code, earlier, ended, monkeypatch, capfd
):
    monkeypatch.setattr(stopping, "_ONE", 0.0)
    with StopRequest() as stop:
        stop.saved = "Job: 33 of 54 calls"
        assert stop.signum is None
        signal.raise_signal(number)
        assert stop.signum == number
        assert stop.asked()
        assert stop.exit_code() == code
        assert ended.codes == []
        signal.raise_signal(number)
        assert ended.wait(30)
        assert ended.codes == [code]
    assert earlier == []
    signal.raise_signal(number)
    assert earlier == [number]
    first, last = capfd.readouterr().err.splitlines()
    name = signal.Signals(number).name
    assert first.startswith(f"{name}: stopping as soon as")
    assert last.startswith(f"Stopped by {name}: it came a second time.")
    assert "last checkpoint (Job: 33 of 54 calls)" in last


def test_signals_that_come_at_once_are_one(earlier, ended, monkeypatch):
    """As ``timeout`` sends them."""
    monkeypatch.setattr(stopping, "_ONE", 1e9)
    with StopRequest() as stop:
        for _ in range(5):
            signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        assert not ended.wait(0.1)
    assert ended.codes == []


def test_signals_of_several_kinds_are_noted_first(earlier, ended):
    with StopRequest() as stop:
        for number in SIGNALS:
            signal.raise_signal(number)
        assert stop.signum in SIGNALS
    assert ended.codes == earlier == []


def test_no_safe_point_within_the_grace_time_ends(earlier, ended, capfd):
    with StopRequest(grace_seconds=0.01):
        signal.raise_signal(signal.SIGTERM)
        assert ended.wait(30)
    assert ended.codes == [143]
    assert "took longer than the 0.01 seconds of --grace" in capfd.readouterr().err


@pytest.mark.parametrize("seconds", [1e12, float("inf")])
def test_a_grace_time_may_have_no_end(seconds, earlier, ended, monkeypatch):
    monkeypatch.setattr(stopping, "_ONE", 0.0)
    monkeypatch.setattr(stopping, "_LONGEST", 0.01)
    with StopRequest(grace_seconds=seconds):
        signal.raise_signal(signal.SIGTERM)
        assert not ended.wait(0.1)
        signal.raise_signal(signal.SIGTERM)
        assert ended.wait(30)
    assert ended.codes == [143]


def test_saving_may_take_longer_than_the_grace_time(earlier, ended, monkeypatch):
    now = [0.0]  # On a busy machine this thread may wait longer than the grace time.
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(stopping, "time", clock)
    with StopRequest(grace_seconds=0.05) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked()
        now[0] = 60.0
        assert not ended.wait(0.2)
    assert ended.codes == []


def test_hangups_that_are_ignored_stay_ignored(earlier, ended):
    """As nohup has them."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.signum is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_other_signals_stop_also_where_they_were_ignored(number, earlier, ended):
    signal.signal(number, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(number)
        assert stop.signum == number
    assert signal.getsignal(number) is signal.SIG_IGN
    assert ended.codes == []


IN_BACKGROUND = """
import os, signal
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
from wpl_jax.runs.stopping import StopRequest
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    print(stop.asked(), stop.exit_code())
"""


def test_what_a_script_starts_in_the_background_can_be_interrupted():
    """Shells without job control have it ignore SIGINT."""
    script = 'python=$1; shift; "$python" -c "$1" & wait $!'
    command = ["sh", "-c", script, "sh", sys.executable, IN_BACKGROUND]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "True 130\n", done.stderr


@pytest.mark.parametrize("failing", [False, True])
def test_handlers_are_restored(failing, earlier):
    before = [signal.getsignal(n) for n in SIGNALS]
    threads = threading.active_count()
    with contextlib.suppress(ZeroDivisionError), StopRequest():
        assert signal.getsignal(signal.SIGTERM) not in before
        assert signal.getsignal(signal.SIGINT) not in before
        if failing:
            raise ZeroDivisionError
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_exit_code_of_a_signal_that_came_to_another_process_is_of_sigterm():
    with StopRequest() as stop:
        assert not stop.asked()
        assert stop.exit_code() == 143


def test_in_another_thread_signals_are_left_to_the_main_one(earlier):
    """Servers and some notebooks run what a user writes in threads of their own."""
    found = []

    def job():
        with StopRequest() as stop:
            found.append(stop.asked())

    thread = threading.Thread(target=job)
    with StopRequest() as stop:
        thread.start()
        thread.join()
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked()
    assert found == [False]
    assert earlier == []
