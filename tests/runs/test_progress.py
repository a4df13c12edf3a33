"""Progress: a bar on a terminal and in a notebook, plain lines elsewhere."""

import contextlib
import fcntl
import os
import pty
import struct
import sys
import termios
import types

import pytest

from wpl_jax.runs import progress as module
from wpl_jax.runs.progress import Progress


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys):
    progress = Progress(3, 1, "Training B", interval=0.0)
    progress.advance("first")
    progress.advance("second")
    progress.close()
    captured = capsys.readouterr()
    out = captured.out.splitlines()
    assert out == ["Training B: 2/3  first", "Training B: 3/3  second"]
    assert captured.err == ""


def test_progress_is_silent_between_lines_but_for_the_last(capsys):
    progress = Progress(4, 0, "Training B", interval=1000.0)
    for note in "abcd":
        progress.advance(note)
    progress.close()
    assert capsys.readouterr().out == "Training B: 4/4  d\n"


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    parent, child = pty.openpty()
    rows_and_columns = struct.pack("HHHH", 24, 100, 0, 0)
    fcntl.ioctl(child, termios.TIOCSWINSZ, rows_and_columns)
    with os.fdopen(child, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = Progress(2, 1, "Training B", interval=0.0)
        progress.advance("arm of the tests")
        progress.close()
    shown = b""
    with contextlib.suppress(OSError):  # The end, once the other side is closed.
        while part := os.read(parent, 1000):
            shown += part
    os.close(parent)
    shown = shown.decode()
    assert "Training B" in shown
    assert "1/2" in shown  # where it started
    assert "2/2" in shown
    assert "arm of the tests" in shown
    assert capsys.readouterr().out == ""


class Display:
    """What a notebook would show: its outputs, of which a handle replaces one."""

    def __init__(self):
        self.outputs, self.messages = [], 0

    def display(self, shown, *, display_id):
        assert display_id is True
        self.outputs.append(shown)
        self.messages += 1
        number = len(self.outputs) - 1
        return types.SimpleNamespace(update=lambda new: self.replace(number, new))

    def replace(self, number, new):
        self.outputs[number] = new
        self.messages += 1


@pytest.fixture
def start_ipython(monkeypatch):
    """Makes this process look like one in which IPython runs with such a shell."""

    def start(**shell):
        found, ipython = Display(), types.ModuleType("IPython")
        ipython.get_ipython = lambda: types.SimpleNamespace(**shell) if shell else None
        ipython.display = types.ModuleType("IPython.display")
        ipython.display.display = found.display
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
        return found

    return start


def test_progress_is_one_bar_in_a_notebook(start_ipython, monkeypatch, capsys):
    found = start_ipython(kernel=object())
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    progress = Progress(4, 1, "Search <1>", interval=0.0)
    (bar,) = found.outputs
    assert '<progress value="1" max="4">' in bar._repr_html_()
    progress.advance("epoch 1 & more", 2)
    (bar,) = found.outputs
    html = bar._repr_html_()
    assert '<progress value="3" max="4">' in html
    assert "Search &lt;1&gt;" in html
    assert "3/4" in html
    assert "epoch 1 &amp; more" in html
    assert repr(bar).startswith("Search <1>: 3/4 [")
    progress.go_back(2)
    (bar,) = found.outputs
    assert '<progress value="2" max="4">' in bar._repr_html_()
    progress.advance("last", 2)
    progress.close()
    (bar,) = found.outputs
    assert '<progress value="4" max="4">' in bar._repr_html_()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_notebook_gets_few_messages_and_the_last_state(start_ipython, monkeypatch):
    found = start_ipython(kernel=object())
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    progress = Progress(1000, 0, "Search")
    for _ in range(999):
        progress.advance("call")
    assert found.messages == 1
    progress.close()
    assert found.messages == 2
    assert "999/1000" in found.outputs[0]._repr_html_()


@pytest.mark.parametrize("shell", [{}, {"history": ()}], ids=["no_shell", "terminal"])
def test_ipython_without_a_kernel_is_no_notebook(start_ipython, capsys, shell):
    found = start_ipython(**shell)
    progress = Progress(1, 0, "Search", interval=0.0)
    progress.advance("call")
    progress.close()
    assert found.outputs == []
    assert capsys.readouterr().out == "Search: 1/1  call\n"
