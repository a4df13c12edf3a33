"""A trace of some calls of a job, for TensorBoard or Perfetto."""

import dataclasses
from pathlib import Path

import jax

_WARM = 20  # calls after which programs are taken to be compiled, without a landmark


@dataclasses.dataclass
class TraceRequest:
    """A trace of some calls, of the first job whose programs are compiled.

    Attributes:
      calls: How many calls to trace.
      taken: Whether a job has begun the trace.
    """

    calls: int
    taken: bool = False

    def remind(self) -> None:
        """After all jobs: prints that there is no trace, if none has begun it."""
        if not self.taken:
            print(
                f"No trace was written: no job made calls after its first {_WARM}, or "
                "its first epoch. A longer one does.",
                flush=True,
            )


class Tracer:
    """Traces calls of a job, once its programs are compiled.

    Those are the ones after its first landmark, the end of an epoch, or after twenty
    calls.
    """

    def __init__(self, folder: Path, request: TraceRequest | None):
        """Makes the tracer of a job.

        Args:
          folder: Of the job; the trace goes to ``profile`` in it.
          request: What to trace; None for nothing.
        """
        self._folder, self._request = folder / "profile", request
        self._made, self._warm = 0, False
        self._left: int | None = None  # calls still to trace, None before and after

    def begin(self) -> None:
        """Before a call."""
        request = self._request
        if request is not None and self._warm and not request.taken:
            self._left, request.taken = request.calls, True
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=False)

    def end(self, landmark: bool) -> None:
        """After a call."""
        self._made += 1
        self._warm |= landmark or self._made >= _WARM
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self.close()

    def close(self) -> None:
        """Writes the trace, if one has begun."""
        if self._left is not None:
            self._left = None
            jax.profiler.stop_trace()
            print(
                f"A trace is in {self._folder}: tensorboard --logdir={self._folder}, "
                "with tensorboard-plugin-profile.",
                flush=True,
            )
