"""Metrics of a run: records that survive interruptions, curves."""

import io
import json
import pathlib
import struct

import pytest
from helpers.tiny import deaths, small_files
from tensorboardX.proto import event_pb2
from tensorboardX.proto.event_pb2 import SessionLog

from wpl_jax.errors import UserError
from wpl_jax.runs import monitor, run_files
from wpl_jax.runs.monitor import Metrics

RECORDS = [{"loss": 1 / (i + 1), "arm": f"arm {i}", "seeds": i} for i in range(5)]


def write_records(workdir, start, stop):
    """What a process leaves that is killed after record ``stop - 1``."""
    workdir.mkdir(exist_ok=True)
    metrics = Metrics(workdir, resume_at=start)
    for step in range(start, stop):
        metrics.write(step, RECORDS[step])
    metrics.close()


def lines(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)


def events(workdir):
    """The events in the TensorBoard files: records of length, two checksums, data."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        assert "tfevents" in path.name
        file = io.BytesIO(path.read_bytes())
        while header := file.read(12):
            (length,) = struct.unpack("<Q", header[:8])
            found.append(event_pb2.Event.FromString(file.read(length)))
            file.read(4)
    return found


def scalars(workdir):
    return {
        (value.tag, event.step): value.simple_value
        for event in events(workdir)
        for value in event.summary.value
    }


def test_records_are_one_line_of_json_each(tmp_path):
    write_records(tmp_path, 0, 3)
    found = lines(tmp_path)
    assert all(line.endswith("\n") for line in found)
    expected = [{"step": i, **RECORDS[i]} for i in range(3)]
    assert [json.loads(line) for line in found] == expected


def test_record_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    metrics = Metrics(tmp_path, resume_at=0)
    for step in range(2):
        metrics.write(step, RECORDS[step])
        assert len(lines(tmp_path)) == step + 1
    metrics.close()


@pytest.mark.parametrize("killed_at", range(6))
def test_resumed_records_are_those_of_an_undisturbed_run(killed_at, tmp_path):
    write_records(tmp_path / "undisturbed", 0, 5)
    for resume_at in range(killed_at + 1):  # No checkpoint is ahead of the records.
        write_records(tmp_path / f"{resume_at}", 0, killed_at)
        write_records(tmp_path / f"{resume_at}", resume_at, 5)
        assert lines(tmp_path / f"{resume_at}") == lines(tmp_path / "undisturbed")


@pytest.mark.parametrize("left", [1, 10, -1])
def test_line_that_was_cut_off_is_dropped(left, tmp_path):
    write_records(tmp_path, 0, 3)
    whole = lines(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("".join(whole[:2]) + whole[2][:left])
    write_records(tmp_path, 2, 4)
    found = lines(tmp_path)
    assert found[:3] == whole
    assert [json.loads(line)["step"] for line in found] == [*range(4)]


DAMAGE = {
    "no file": None,
    "empty": b"",
    "shortened": b"{line0}{line1}",
    "cut off": b"{line0}{line1}{line2",
    "first line garbled": b"x{line1}{line2}",
    "first line missing": b"{line1}{line2}",
    "a line twice": b"{line0}{line1}{line1}{line2}",
    "null": b"{line0}null\n{line2}",
    "a list": b"{line0}[1]\n{line2}",
    "no step": b'{line0}{"a": 1}\n{line2}',
    "not UTF-8": b"{line0}\xff\xfe\n{line2}",
    "deep": b"{line0}" + b"[" * 100_000 + b"\n{line2}",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_records_that_a_checkpoint_counts_on_must_be_there(name, tmp_path):
    write_records(tmp_path, 0, 3)
    path = tmp_path / "metrics.jsonl"
    content = DAMAGE[name]
    for i, line in enumerate(path.read_bytes().splitlines(keepends=True)):
        content = content and content.replace(b"{line%d}" % i, line)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        Metrics(tmp_path, resume_at=3)
    assert str(caught.value).startswith(f"{path} is damaged: line ")
    assert "first 3 records are needed" in str(caught.value)
    assert (path.read_bytes() if path.exists() else None) == content


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard"])
def test_folder_or_file_in_the_way_is_named(name, tmp_path):
    if name == "tensorboard":
        (tmp_path / name).write_text("")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=name):
        Metrics(tmp_path, resume_at=0)


def test_full_disk_is_a_user_error(tmp_path):
    """Of the curves' file as well, which is written at the same time."""
    metrics = Metrics(tmp_path, resume_at=0)

    def write():
        for step in range(1000):
            metrics.write(step, {"loss": 1.0})

    with small_files(1000), pytest.raises(UserError, match="could not be written"):
        write()
    metrics.close()  # There is room for what is left in buffers.
    assert 0 < len(monitor.whole_records(tmp_path / "metrics.jsonl")) < 1000


def test_resuming_at_the_end_keeps_all(tmp_path):
    write_records(tmp_path, 0, 3)
    whole = lines(tmp_path)
    write_records(tmp_path, 3, 3)
    assert lines(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_cutting_back_can_be_cut_off_at_every_line(tmp_path):
    write_records(tmp_path, 0, 3)
    whole = lines(tmp_path)
    found = []

    name = str(tmp_path / "metrics.jsonl")

    def resume():
        with open(name, "w") as file:
            file.writelines(whole)
        Metrics(tmp_path, resume_at=2).close()

    for _ in deaths(resume, monitor, run_files, pathlib):
        found.append(lines(tmp_path)[:2])
    # What the checkpoint counts on must be in the file at any moment.
    assert found == [whole[:2]] * len(found)
    assert len(found) > 5


def test_numbers_become_curves(tmp_path):
    write_records(tmp_path, 0, 2)
    expected = {("loss", 0): 1, ("loss", 1): 0.5, ("seeds", 0): 0, ("seeds", 1): 1}
    assert scalars(tmp_path) == expected


def test_flags_and_words_are_no_curves(tmp_path):
    metrics = Metrics(tmp_path, resume_at=0)
    metrics.write(0, {"flag": True, "word": "x", "nothing": None, "number": 2})
    metrics.close()
    assert scalars(tmp_path) == {("number", 0): 2}
    (line,) = lines(tmp_path)
    assert json.loads(line)["flag"] is True


def test_tensorboard_is_told_what_resuming_takes_back(tmp_path):
    write_records(tmp_path, 0, 2)
    first = len(list((tmp_path / "tensorboard").iterdir()))
    write_records(tmp_path, 1, 3)
    logs = [e for e in events(tmp_path) if e.HasField("session_log")]
    starts = [e.step for e in logs if e.session_log.status == SessionLog.START]
    assert first == 1
    assert starts[-1] == 1
