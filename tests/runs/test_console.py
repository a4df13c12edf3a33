"""Output that nobody reads any more, and output that cannot be encoded."""

import io
import os

import pytest

from wpl_jax.runs import console


def test_what_is_written_arrives():
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream, os.fdopen(read) as reader:
        print("one", file=console.lasting(stream), flush=True)
        assert reader.readline() == "one\n"


def test_writing_goes_on_when_the_reader_has_gone():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        lasting = console.lasting(stream)
        for _ in range(3):
            print("nobody", file=lasting, flush=True)
        lasting.flush()
        assert lasting.fileno() == stream.fileno()
        stream.write("nor here")  # As the interpreter does at its end.


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_full_disk_does_not_end_what_writes_to_it():
    with open("/dev/full", "w") as stream:
        print("x", file=console.lasting(stream), flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_other_errors_are_raised():
    stream = io.StringIO()
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        console.lasting(stream).write("x")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("perplexity 3.1 ± 0.2\n\tä é 漢", "perplexity 3.1 ± 0.2\n\tä é 漢"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\x9b2Jb\rc\x07", r"a\x9b2Jb c\x07"),
        ("cod\u202eexe\u2066", r"cod\u202eexe\u2066"),
        ("\x00", r"\x00"),
    ],
)
def test_codes_that_control_a_terminal_are_written_in_escapes(text, written):
    stream = io.StringIO()
    assert console.lasting(stream).write(text) == len(text)
    assert stream.getvalue() == written
    assert console.shown(written) == written
    raw = io.StringIO()
    console.lasting(raw, escape=False).write(text)
    assert raw.getvalue() == text


def test_path_that_is_no_text_is_written_in_escapes(tmp_path):
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        print("runs/a\udcff", file=console.lasting(stream))
    assert (tmp_path / "log").read_text() == "runs/a\\udcff\n"
