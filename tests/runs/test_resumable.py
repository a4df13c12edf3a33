"""Long jobs: every call once and in order, whatever interrupts them."""

import errno
import functools
import itertools
import json
import os
import shutil
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import Death

from wpl_jax.errors import UserError
from wpl_jax.runs.checkpoint_reader import CheckpointReader
from wpl_jax.runs.machine import Requests
from wpl_jax.runs.monitor import whole_records
from wpl_jax.runs.progress import Progress
from wpl_jax.runs.resumable import Resumable, changed_records, newest

TOTAL = 6
NEVER = 1e9  # seconds between checkpoints
START = {"value": jnp.float32(1), "rate": np.ones(())}
RATES = (1, 1, 1, 1, 1, 1)  # of the calls

# What becomes of a job that finds in call 4 that the rate was too high.
LANDMARK, BACK_AT = 2, 4
PATH_WITH_DETOUR = [0, 1, 2, 3, 4, 2, 3, 4, 5]
RATES_WITH_DETOUR = (1, 1, 0.5, 0.5, 0.5, 0.5)
DETOUR = {"back": True, "landmark": {0, LANDMARK}.__contains__}


class Events:
    """What happens to a job: the calls it makes, and what it is interrupted by."""

    def __init__(self):
        self.made = []  # numbers of the calls, of all processes
        self.stop_in = self.crash_in = self.signum = None
        self.crash_when = ""

    def begin(self, number):
        self.made.append(number)
        if len(self.made) == self.stop_in:
            self.signum = signal.SIGTERM

    def reach(self, place):
        if (len(self.made), place) == (self.crash_in, self.crash_when):
            raise Death

    def asked(self):
        return self.signum is not None

    def exit_code(self):
        return 128 + self.signum


def work(folder, events, per_record=1, back=False, **options):
    """Goes on with the job; its value tells the order of the calls and their rates."""
    settings = {
        "total": TOTAL,
        "like": jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), START),
        "start": lambda: START,
        "record_of": lambda done: done // per_record,
        "title": "Job",
        "unit": "calls",
        "requests": Requests(events),
        "checkpoint_seconds": NEVER,
    }
    with Resumable(folder, **(settings | options)) as job:
        for number in job.calls():
            events.begin(number)
            value, rate = job.state["value"], job.state["rate"]
            value = 3 * value + jnp.float32(rate * (number + 1))
            job.state = {"value": value, "rate": rate}
            events.reach("before")
            if back and number == BACK_AT and rate == 1:
                job.go_back()
                job.state = job.state | {"rate": np.asarray(rate / 2)}
                events.reach("back")
                continue
            if (number + 1) % per_record == 0:
                job.record(number // per_record, {"value": float(value)})
            job.note = f"value {float(value):g}"
            events.reach("after")
        return float(job.state["value"])


def stop(folder, events, after, **options):
    """Work until the process is asked to stop, in the n-th call of all."""
    events.stop_in = after
    with pytest.raises(SystemExit) as caught:
        work(folder, events, **options)
    events.signum = None
    return caught.value.code


def crash(folder, events, in_call, when, **options):
    events.crash_in, events.crash_when = in_call, when
    with pytest.raises(Death):
        work(folder, events, **options)


def values_of(rates=RATES):
    """The value after each call."""
    found = [1]
    for number, rate in enumerate(rates, 1):
        found.append(3 * found[-1] + rate * number)
    return found[1:]


def assert_finished(folder, value, rates=RATES, per_record=1):
    """The job ended with the right value, and each record is there once."""
    values = values_of(rates)
    assert value == values[-1]
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    assert [json.loads(line) for line in text.splitlines()] == [
        {"step": i, "value": v}
        for i, v in enumerate(values[per_record - 1 :: per_record])
    ]


def saved(folder):
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return {int(name) for name in names if name.isdigit()}


# Undisturbed, and stopped.


@pytest.mark.parametrize("per_record", [1, 2])
def test_all_calls_are_made_once_and_in_order(per_record, tmp_path):
    events, folder = Events(), tmp_path / "new" / "job"
    value = work(folder, events, per_record)
    assert events.made == [*range(TOTAL)]
    assert_finished(folder, value, per_record=per_record)


def test_job_of_no_calls_is_over_at_once(tmp_path):
    events = Events()
    assert work(tmp_path, events, total=0) == 1
    assert events.made == []


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_stop_ends_the_process_with_the_code_of_the_signal(signum, code, tmp_path):
    events = Events()
    events.signum = signum
    assert stop(tmp_path, events, after=None) == code
    assert events.made == []


def test_job_goes_on_after_each_stop(tmp_path, capsys, caplog):
    events = Events()
    for count in (1, 2, 5):
        stop(tmp_path, events, after=count, per_record=2)
        assert events.made == [*range(count)]
        assert max(saved(tmp_path)) == count
        assert (
            f"Stopped by a signal after {count} of {TOTAL} calls; all saved."
            in caplog.text
        )
    capsys.readouterr()
    value = work(tmp_path, events, per_record=2)
    assert capsys.readouterr().out.startswith("Job: resuming after 5 of 6 calls.\n")
    assert events.made == [*range(TOTAL)]
    assert_finished(tmp_path, value, per_record=2)


def test_stop_in_the_last_call_comes_too_late(tmp_path):
    events = Events()
    events.stop_in = TOTAL
    value = work(tmp_path, events)
    assert events.signum is not None
    assert_finished(tmp_path, value)


def test_finished_job_makes_no_call_and_keeps_its_state_and_records(tmp_path):
    events = Events()
    work(tmp_path, events)
    value = work(tmp_path, events)
    assert events.made == [*range(TOTAL)]
    assert_finished(tmp_path, value)


# Checkpoints, and what crashes leave of them.


@pytest.mark.parametrize(
    ("landmarks", "left"), [((), {0}), ((1,), {0, 1}), ((0, 2, 3), {2, 3})]
)
def test_landmarks_are_saved_however_little_time_has_passed(landmarks, left, tmp_path):
    events = Events()
    crash(tmp_path, events, 5, "before", landmark=landmarks.__contains__)
    assert saved(tmp_path) == left
    value = work(tmp_path, events)
    assert events.made == [*range(5), *range(max(left), TOTAL)]
    assert_finished(tmp_path, value)


@pytest.mark.parametrize(
    ("seconds", "left"), [(0.0, {4, 5}), (2.0, {2, 4}), (2.5, {0, 3})]
)
def test_checkpoints_come_when_their_time_has_passed(
    seconds, left, tmp_path, monkeypatch
):
    events = Events()
    clock = types.SimpleNamespace(monotonic=lambda: float(len(events.made)))
    monkeypatch.setattr("wpl_jax.runs.resumable.time", clock)
    crash(tmp_path, events, TOTAL, "before", checkpoint_seconds=seconds)
    assert saved(tmp_path) == left


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("seconds", [0.0, NEVER])
def test_crashes_leave_no_record_out_and_none_twice(seconds, when, tmp_path):
    events, options = Events(), {"per_record": 2, "checkpoint_seconds": seconds}
    for in_call in (2, 4, 7):
        crash(tmp_path, events, in_call, when, **options)
    value = work(tmp_path, events, **options)
    again = {0.0: [0, 1, 1, 2, 2, 3, 4, 4, 5], NEVER: [0, 1, 0, 1, 0, 1, 2, *range(6)]}
    assert events.made == again[seconds]
    assert_finished(tmp_path, value, per_record=2)


def test_record_that_was_cut_off_is_written_again(tmp_path):
    events = Events()
    crash(tmp_path, events, 5, "after", landmark={2}.__contains__)
    path = tmp_path / "metrics.jsonl"
    assert path.read_text().count("\n") == 5
    path.write_text(path.read_text()[:-7])
    assert_finished(tmp_path, work(tmp_path, events))


def damage(folder, line):
    """Damages a line of the metrics."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[line] = lines[line].replace('"step"', '"stop"')
    path.write_text("".join(lines))


def test_damaged_records_are_made_again_from_a_checkpoint_before_them(tmp_path, caplog):
    events = Events()
    crash(
        tmp_path, events, 5, "after", checkpoint_seconds=0.0, landmark={2}.__contains__
    )
    assert saved(tmp_path) == {2, 3, 4}
    damage(tmp_path, 2)
    value = work(tmp_path, events)
    assert events.made[5:] == [2, 3, 4, 5]
    assert f"{tmp_path / 'metrics.jsonl'}: line 3 is not the record of" in caplog.text
    assert_finished(tmp_path, value)


def test_damaged_records_before_every_checkpoint_are_a_user_error(tmp_path):
    events = Events()
    crash(tmp_path, events, 5, "after", checkpoint_seconds=0.0)
    assert saved(tmp_path) == {3, 4}
    damage(tmp_path, 0)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError) as caught:
        work(tmp_path, events)
    assert "None of the checkpoints [4, 3]" in str(caught.value)
    assert f"{tmp_path / 'metrics.jsonl'}: line 1 is not the" in str(caught.value)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    # The advice works: without them the job starts anew.
    shutil.rmtree(tmp_path / "checkpoints")
    assert_finished(tmp_path, work(tmp_path, events))


def test_a_record_that_has_changed_is_made_again(tmp_path, caplog):
    """It is a whole record still: only its checksum tells."""
    events = Events()
    crash(
        tmp_path, events, 5, "after", checkpoint_seconds=0.0, landmark={2}.__contains__
    )
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    number = next(c for c in lines[2] if chr(c) in "456789")
    lines[2] = lines[2].replace(bytes([number]), bytes([number - 1]), 1)
    assert len(whole_records(path)) == len(lines)
    path.write_bytes(b"".join(lines))
    value = work(tmp_path, events)
    assert events.made[5:] == [2, 3, 4, 5]
    assert f"{path}: a record has changed since it was written" in caplog.text
    assert_finished(tmp_path, value)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux lists them")
@pytest.mark.parametrize(("in_call", "when"), [(5, "back"), (6, "after")])
def test_files_are_closed_whatever_happens(in_call, when, tmp_path):
    def open_files():
        links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        found = [os.readlink(link) for link in links if os.path.islink(link)]
        return [name for name in found if name.startswith(str(tmp_path))]

    seen = []

    class Watching(Events):
        def reach(self, place):
            seen.append(open_files())
            super().reach(place)

    crash(tmp_path, Watching(), in_call, when, **DETOUR)
    assert all(seen)  # The metrics', at least.
    assert not open_files()


def test_a_job_whose_checkpoint_cannot_be_read_for_now_goes_on_from_it_later(
    tmp_path, monkeypatch
):
    events = Events()
    crash(tmp_path, events, 5, "after", checkpoint_seconds=0.0)
    metrics = (tmp_path / "metrics.jsonl").read_bytes()

    def fail(*args, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as failing:
        failing.setattr(CheckpointReader, "_check", fail)
        with pytest.raises(UserError, match="could not be read this time"):
            work(tmp_path, events)
        with pytest.raises(UserError, match="could not be read this time"):
            newest(tmp_path, START)
    assert saved(tmp_path) == {3, 4}
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    value = work(tmp_path, events)
    assert events.made[5:] == [4, 5]
    assert_finished(tmp_path, value)


@pytest.mark.parametrize(
    ("seconds", "mended"), [(0.0, False), (NEVER, False), (NEVER, True)]
)
def test_a_crash_after_a_damaged_checkpoint_changes_nothing(seconds, mended, tmp_path):
    """It comes before or after the first save, which deletes the damaged one."""
    events, metadata = Events(), tmp_path / "checkpoints" / "4" / "check" / "metadata"
    often = {"checkpoint_seconds": 0.0, "landmark": {1}.__contains__}
    crash(tmp_path, events, 5, "after", **often)
    assert saved(tmp_path) == {1, 3, 4}
    shutil.rmtree(tmp_path / "checkpoints" / "3")
    content = metadata.read_bytes()
    metadata.write_bytes(b"")
    crash(tmp_path, events, 7, "before", checkpoint_seconds=seconds)
    assert events.made[5:] == [1, 2]
    assert saved(tmp_path) == ({1, 2} if seconds == 0 else {1, 4})
    if mended:  # It can be read again, but its records are gone by now.
        metadata.write_bytes(content)
    value = work(tmp_path, events)
    left = {0.0: [2, 3, 4, 5], NEVER: [1, 2, 3, 4, 5]}[seconds]
    assert events.made[7:] == left
    assert_finished(tmp_path, value)


def test_reading_what_a_job_has_saved_changes_nothing(tmp_path):
    assert newest(tmp_path / "nothing", START) is None
    assert not (tmp_path / "nothing").exists()
    crash(tmp_path, Events(), 5, "after", checkpoint_seconds=0.0)
    records = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    # Another process is saving a checkpoint.
    temporary = tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "4", temporary)
    damaged = tmp_path / "checkpoints" / "4" / "check" / "metadata"
    damaged.write_bytes(b"")
    done, state = newest(tmp_path, START)
    assert (done, float(state["value"])) == (3, values_of()[2])
    assert changed_records(tmp_path, records) == ""
    assert changed_records(tmp_path, records[1:]) != ""
    assert saved(tmp_path) == {3, 4}
    assert temporary.exists()


# Going back.


def test_going_back_repeats_the_calls_from_the_newest_landmark(tmp_path):
    events = Events()
    value = work(tmp_path, events, **DETOUR)
    assert events.made == PATH_WITH_DETOUR
    assert_finished(tmp_path, value, RATES_WITH_DETOUR)
    assert saved(tmp_path) == {LANDMARK, TOTAL}


def test_going_back_drops_the_records_and_checkpoints_after_the_landmark(tmp_path):
    events = Events()
    crash(tmp_path, events, 5, "before", checkpoint_seconds=0.0, **DETOUR)
    assert saved(tmp_path) == {LANDMARK, 3, 4}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["value"] for line in lines] == values_of()[:4]
    events = Events()
    crash(tmp_path, events, 1, "back", checkpoint_seconds=0.0, **DETOUR)
    assert saved(tmp_path) == {LANDMARK}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["value"] for line in lines] == values_of()[:LANDMARK]


def test_progress_is_told_of_the_way_back(tmp_path, monkeypatch, capsys):
    every = functools.partial(Progress, interval=0.0)
    monkeypatch.setattr("wpl_jax.runs.resumable.Progress", every)
    work(tmp_path, Events(), **DETOUR)
    first, second = values_of()[:BACK_AT], values_of(RATES_WITH_DETOUR)[LANDMARK:]
    shown = [*enumerate(first, 1), *enumerate(second, LANDMARK + 1)]
    assert capsys.readouterr().out.splitlines() == [
        f"Job: {done}/6  value {value:g}" for done, value in shown
    ]


@pytest.mark.slow_except("0.0-5-back")
@pytest.mark.parametrize(
    ("seconds", "in_call", "when"),
    [
        (NEVER, 5, "before"),
        (NEVER, 5, "back"),
        (NEVER, 8, "after"),
        (0.0, 5, "back"),
        (0.0, 7, "after"),
    ],
)
def test_crashes_on_a_way_back_change_nothing(seconds, in_call, when, tmp_path):
    events, options = Events(), {"checkpoint_seconds": seconds, **DETOUR}
    crash(tmp_path, events, in_call, when, **options)
    value = work(tmp_path, events, **options)
    assert_finished(tmp_path, value, RATES_WITH_DETOUR)


@pytest.mark.parametrize("stops", [(5,), (6,), (4, 6)])
def test_stops_beside_a_way_back_change_nothing(stops, tmp_path):
    events = Events()
    for count in stops:
        assert stop(tmp_path, events, after=count, **DETOUR) == 143
    assert_finished(tmp_path, work(tmp_path, events, **DETOUR), RATES_WITH_DETOUR)
    if stops != (5,):  # In the very call that goes back; it has to once more.
        assert events.made == PATH_WITH_DETOUR


def test_going_back_again_and_again_ends_at_the_same_landmark(tmp_path):
    events = Events()
    tries = itertools.count(1)
    with Resumable(
        tmp_path,
        total=TOTAL,
        like=START,
        start=lambda: START,
        record_of=lambda done: 0,
        title="Job",
        unit="calls",
        requests=Requests(events),
        checkpoint_seconds=NEVER,
        landmark={0, 1, 3}.__contains__,
    ) as job:
        for number in job.calls():
            events.begin(number)
            if number == BACK_AT and next(tries) < 4:
                job.go_back()
    assert events.made == [0, 1, 2, 3, 4, 3, 4, 3, 4, 3, 4, 5]


def test_going_back_needs_a_landmark(tmp_path):
    events = Events()
    with pytest.raises(ValueError, match="no landmark to go back to"):
        work(tmp_path, events, back=True)
    value = work(tmp_path, events, landmark={1}.__contains__)
    assert_finished(tmp_path, value)
