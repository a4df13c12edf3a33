"""Stopping when asked to: between two calls, or at once where a call takes too long."""

import contextlib
import os
import select
import signal
import threading
import time
import types
from typing import Any

from wpl_jax.devices import processes
from wpl_jax.errors import for_caller

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Seconds in which signals of a kind are one: ``timeout`` sends it to the process and to
# its group.
_ONE = 0.3
GRACE_SECONDS = 60.0
_LONGEST = 3600.0  # seconds of a wait; the system takes no more than some years


class StopRequest:
    """Turns SIGTERM, SIGINT and SIGHUP into a request to stop at the next safe point.

    A context. In another thread than the main one, which alone receives signals, it
    changes nothing and nobody asks. The process ends at once where a signal of the same
    kind comes again, or no safe point is reached within the grace time: during a
    compilation, for instance, in which Python handles no signal. Nothing is lost then
    but the work since the last checkpoint. SIGHUP stays ignored where it is, as under
    ``nohup``. The others do not: a shell has SIGINT ignored by what a script starts
    with ``&``, which nobody has asked for.

    Attributes:
      signum: None, or the first signal that came.
      saved: What the last checkpoint holds, for the message at such an end.
    """

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Takes the seconds after a signal that a run may take to end by itself."""
        self._grace = grace_seconds
        # The context in which it is read belongs to this thread, and not to the one
        # that listens.
        self._of_grace = for_caller("--grace", "grace")
        self._again = for_caller("command", "call")
        self.signum: int | None = None
        self.saved = ""
        self._earlier: dict[int, Any] = {}
        self._answered = False
        self._listener: threading.Thread | None = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # The interpreter writes the signals' numbers there as they come, whatever the
        # main thread does.
        self._earlier_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for signum in SIGNALS:
            ignored = signal.getsignal(signum) is signal.SIG_IGN
            if not ignored or signum != signal.SIGHUP:
                self._earlier[signum] = signal.signal(signum, self._note)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._listener is None:
            return
        for signum, handler in self._earlier.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._earlier_fd)
        os.close(self._write)
        self._listener.join()
        os.close(self._read)

    def _note(self, signum: int, frame: types.FrameType | None) -> None:
        del frame
        if self.signum is None:
            self.signum = signum

    def _listen(self) -> None:
        """Ends the process where the main thread does not."""
        seen: dict[int, float] = {}  # when the first of each kind came
        deadline = 0.0
        while True:
            waiting = bool(seen) and not self._answered
            late = waiting and time.monotonic() >= deadline
            left = min(max(deadline - time.monotonic(), 0.0), _LONGEST)
            ready, _, _ = select.select([self._read], [], [], left if waiting else None)
            if ready:
                numbers = os.read(self._read, 64)
                if not numbers:
                    return  # The context is left.
            elif late and not self._answered:
                taken = (
                    f"what was running took longer than the {self._grace:g} seconds of "
                )
                return self._end(next(iter(seen)), f"{taken}{self._of_grace}")
            else:
                continue
            now = time.monotonic()
            for number in filter(SIGNALS.__contains__, numbers):
                if number in seen:
                    if now - seen[number] < _ONE:
                        continue
                    return self._end(number, "it came a second time")
                if not seen:
                    deadline = now + self._grace
                    name = signal.Signals(number).name
                    _say(
                        f"{name}: stopping as soon as what is running is done and "
                        f"saved, in {self._grace:g} seconds at the latest. Another "
                        f"{name} stops at once."
                    )
                seen[number] = now

    def _end(self, signum: int, why: str) -> None:
        saved = f" ({self.saved})" if self.saved else ""
        _say(
            f"Stopped by {signal.Signals(signum).name}: {why}. All is saved up to the "
            f"last checkpoint{saved}; the same {self._again} goes on from there."
        )
        _leave(128 + signum)

    def asked(self) -> bool:
        """Whether a signal has come, here or to another process of the run."""
        asked = processes.any_process(self.signum is not None)
        self._answered |= asked  # What follows saves, and may take its time.
        return asked

    def exit_code(self) -> int:
        """The code a shell reports for the signal; another process's is SIGTERM."""
        return 128 + (signal.SIGTERM if self.signum is None else self.signum)


def _say(line: str) -> None:
    # Not by sys.stderr, which the main thread may hold.
    with contextlib.suppress(OSError):  # Nobody may read it any more.
        os.write(2, f"{line}\n".encode())


def _leave(code: int) -> None:
    processes.leave(code)
