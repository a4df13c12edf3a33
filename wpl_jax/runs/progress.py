"""Progress of a job: a bar on a terminal or in a notebook, plain lines elsewhere."""

import html
import sys
import time
from typing import Any, Protocol

from tqdm import tqdm

from wpl_jax.runs import console

_SECONDS_BETWEEN = 0.1  # two updates of the bar in a notebook, at least


class Progress:
    """Shows how many of its calls a job has made."""

    def __init__(self, total: int, done: int, title: str, interval: float = 5.0):
        """Starts to show progress.

        Args:
          total: Number of calls.
          done: How many were made before.
          title: Name of the job.
          interval: Seconds between two plain lines, at least.
        """
        self._done = done
        self._view: _View
        if _in_notebook():
            self._view = _NotebookBar(total, done, title)
        elif sys.stderr.isatty():
            self._view = _TerminalBar(total, done, title)
        else:
            self._view = _Lines(total, title, interval)

    def advance(self, note: str, count: int = 1) -> None:
        """Counts calls that were made, and shows a note about them."""
        self._done += count
        self._view.show(self._done, note)

    def go_back(self, done: int) -> None:
        """Sets the count back."""
        self._done = done
        self._view.go_back(done)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._view.close()


class _View(Protocol):
    """Where progress is shown."""

    def show(self, done: int, note: str) -> None: ...

    def go_back(self, done: int) -> None: ...

    def close(self) -> None: ...


class _Lines:
    """A plain line on standard output every few seconds, and one at the end."""

    def __init__(self, total: int, title: str, interval: float):
        self._total, self._title = total, title
        self._interval, self._last = interval, time.monotonic()

    def show(self, done: int, note: str) -> None:
        now = time.monotonic()
        if now - self._last >= self._interval or done == self._total:
            self._last = now
            print(f"{self._title}: {done}/{self._total}  {note}", flush=True)

    def go_back(self, done: int) -> None:
        del done

    def close(self) -> None:
        return


class _TerminalBar:
    """A bar of tqdm on standard error."""

    def __init__(self, total: int, done: int, title: str):
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=console.shown(title),
            dynamic_ncols=True,
            file=console.lasting(sys.stderr, escape=False),
        )

    def show(self, done: int, note: str) -> None:
        self._bar.set_postfix_str(console.shown(note), refresh=False)
        self._bar.update(done - self._bar.n)

    def go_back(self, done: int) -> None:
        self._bar.n = done
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


class _NotebookBar:
    """A bar below the cell of a notebook: one output, which is replaced."""

    def __init__(self, total: int, done: int, title: str):
        from IPython.display import display

        self._total, self._first = total, done
        self._title = console.shown(title)
        self._start = self._last = time.monotonic()
        self._shown = self._drawn(done, "")
        self._handle = display(self._shown, display_id=True)

    def show(self, done: int, note: str) -> None:
        self._shown = self._drawn(done, console.shown(note))
        # Each update is a message to the browser, and calls may take a millisecond.
        if time.monotonic() - self._last >= _SECONDS_BETWEEN:
            self._update()

    def go_back(self, done: int) -> None:
        self._shown = self._drawn(done, "")
        self._update()

    def close(self) -> None:
        self._update()

    def _update(self) -> None:
        self._last = time.monotonic()
        self._handle.update(self._shown)

    def _drawn(self, done: int, note: str) -> "_Bar":
        meter = tqdm.format_meter(
            done,
            self._total,
            time.monotonic() - self._start,
            initial=self._first,
            bar_format="{n_fmt}/{total_fmt} [{elapsed}<{remaining}]",
        )
        return _Bar(done, self._total, self._title, f"{meter} {note}".strip())


class _Bar:
    """One state of a bar, as HTML for a notebook and as text for what has no HTML."""

    def __init__(self, done: int, total: int, title: str, note: str):
        self._done, self._total, self._title, self._note = done, total, title, note

    def __repr__(self) -> str:
        return f"{self._title}: {self._note}"

    def _repr_html_(self) -> str:
        return (
            f"{html.escape(self._title)} "
            f'<progress value="{self._done}" max="{self._total}"></progress> '
            f"{html.escape(self._note)}"
        )


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook.

    IPython on a terminal has a shell as well, but no kernel.
    """
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
