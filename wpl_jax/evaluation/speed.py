"""The speed of a training, and calls of about the same time by it."""

import contextlib
import time
from collections.abc import Iterator

# Between two calls it is seen that a signal has come. How the batches are divided into
# calls does not change what they give.
SECONDS_OF_A_CALL = 2.0


class Speed:
    """How many words, or images, training goes through in a second."""

    def __init__(self, per_batch: int):
        """Takes the words, or images, of a batch."""
        self._per_batch, self._batches, self._seconds = per_batch, -1, 0.0

    @contextlib.contextmanager
    def of(self, batches: int) -> Iterator[None]:
        """Times so many batches; the first call compiles and is not counted."""
        start = time.monotonic()
        yield
        if self._batches >= 0:
            self._batches += batches
            self._seconds += time.monotonic() - start
        self._batches = max(self._batches, 0)

    def batches_of_a_call(self) -> int:
        """How many a call may have to take about ``SECONDS_OF_A_CALL``."""
        if not self._seconds:
            return 1
        return max(1, int(SECONDS_OF_A_CALL * self._batches / self._seconds))

    def __str__(self) -> str:
        """The number for a line about progress; empty before it is known."""
        if not self._seconds:
            return ""
        return f", {self._batches * self._per_batch / self._seconds:,.0f} a second"
